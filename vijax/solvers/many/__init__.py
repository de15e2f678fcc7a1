"""Direct solvers for many data sets of one model at once: arrays with a leading axis of sets."""
