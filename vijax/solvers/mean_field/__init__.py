"""Mean-field Gaussians on fixed draws, and linear response."""
