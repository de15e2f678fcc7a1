"""Mixtures of conjugate components by coordinate ascent, as two matrix products per sweep."""
