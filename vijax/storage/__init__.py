"""The parts of a posterior in a file: plain values and arrays, the call, the run, the checks."""
