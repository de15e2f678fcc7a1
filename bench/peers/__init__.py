"""Libraries that are compared: a file per library, with `run(case, method, seed) -> Answer`.

A library that is not installed raises `Skipped` with the reason. This module imports nothing, so
that a worker can time the imports. To add a peer: a file here, and a line in `methods.py`.
"""
