"""Amortized guides: a network infers the latents of a row from its data."""
