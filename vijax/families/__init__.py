"""Families of distributions that guides are made of."""
