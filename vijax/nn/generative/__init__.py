"""Diffusion models: stochastic bounds on the log density of rows, and networks for them."""
