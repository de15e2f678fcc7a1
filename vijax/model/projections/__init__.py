"""Reads a model as normal latents that are observed through one linear combination each."""
