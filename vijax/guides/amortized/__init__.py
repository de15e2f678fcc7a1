"""Amortized guides: a network maps the data of a row to the posterior of its local latents."""
