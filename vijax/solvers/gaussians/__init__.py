"""Gaussians on the host, in float64, and conversions to and from guide parameters."""
