"""Predictions one row at a time, for models whose rows do not affect each other."""
