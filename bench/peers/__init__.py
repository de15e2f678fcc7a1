"""Who is measured: a file a library, a function a method, `run(case, method, seed) -> Answer`.

A library that is not installed raises `Skipped` with the reason. Imports nothing, so that a worker
can time the imports. To add a peer: a file here, and a line in `methods.py`.
"""
