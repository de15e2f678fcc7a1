"""Benchmarks against other libraries; see README.md. Not part of the test run."""
