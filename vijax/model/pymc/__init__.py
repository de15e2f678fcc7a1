"""PyMC models as NumPyro models; these files import `pymc`."""
