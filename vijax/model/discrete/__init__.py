"""Discrete latent sites: enumeration, variable elimination, forward-backward recursions."""
