"""Latent Dirichlet allocation over sparse counts: documents in padded blocks that stay in cache."""
