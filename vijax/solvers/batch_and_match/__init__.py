"""Batch and match: Gaussians by score matching."""
