"""Minibatches of models that are written for all rows: subsampling, and checks of it."""
