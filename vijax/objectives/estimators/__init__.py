"""Monte Carlo estimators of objectives and their gradients."""
