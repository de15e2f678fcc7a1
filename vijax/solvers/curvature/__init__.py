"""Gaussians from the generalized Gauss-Newton curvature at a mode."""
