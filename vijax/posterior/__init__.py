"""The posterior returned by a fit: draws, predictions, evidence, diagnostics."""
