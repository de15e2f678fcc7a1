"""Structured guides, with the conditional independences of the model: plates, Markov, ASVI."""
