"""Autoencoders and diffusion models: the sections of `bench.generative`."""
