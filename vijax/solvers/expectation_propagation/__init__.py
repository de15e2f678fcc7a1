"""Expectation propagation: a Gaussian by matching the moments of one term at a time."""
