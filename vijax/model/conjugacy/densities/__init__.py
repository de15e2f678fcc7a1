"""Expected log densities of distributions whose arguments are polynomials in latent sites."""
