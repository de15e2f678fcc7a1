"""`guide="auto"` for many data sets of one model at once, in dimensions of a dense Gaussian."""
