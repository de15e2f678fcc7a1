"""`guide="auto"`: a sequence of approximations, each starting from the best so far."""
