"""Posteriors with known answers: models, answers, methods and scores, one idea a file.

Imports nothing, so that `worker` can time the imports.
"""
