"""Variational inference for NumPyro models."""
