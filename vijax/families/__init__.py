"""Parametric distributions of which guides consist."""
