"""The answer of a fit: draws, predictions, evidence, reliability."""
