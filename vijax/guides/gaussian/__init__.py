"""Gaussian guides: mean-field, full-rank, low-rank, Laplace."""
