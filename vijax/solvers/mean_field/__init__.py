"""Mean-field Gaussians by the sample-average ELBO, and linear response covariances."""
