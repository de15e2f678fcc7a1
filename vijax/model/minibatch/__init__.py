"""Minibatches of a model that is written for all rows."""
