"""Location-scale guides, `z = loc + L e`: mean-field, full-rank and low-rank Gaussians, Laplace.

Guides with other noise `e`, such as Student-t, belong in this package.
"""
