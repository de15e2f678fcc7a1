"""Parts of the benchmark of Bayesian neural networks."""
