"""Posteriors of one model given many data sets."""
