"""Posteriors with reference draws: models, reference draws, workers and scores.

This module imports nothing, so that `worker` can time the imports.
"""
