"""What a model function says about its latent sites: conditional conjugacy, read and proved."""
