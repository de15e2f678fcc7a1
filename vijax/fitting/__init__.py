"""`fit`: from a model function and its data to a posterior."""
