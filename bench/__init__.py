"""Benchmarks, each beside its peers; see README.md. Never part of the test run."""
