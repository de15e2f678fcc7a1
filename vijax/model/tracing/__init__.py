"""One run of a model function: its arguments, values and log densities of its sites, dependence."""
