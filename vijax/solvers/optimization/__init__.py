"""Deterministic optimizers on the host: L-BFGS, Newton's method."""
