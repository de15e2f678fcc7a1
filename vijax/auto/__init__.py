"""`guide="auto"`: a sequence of approximations, each from the best so far."""
