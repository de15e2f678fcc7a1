"""Gaussian guides with the conditional independences of the model."""
