"""Serialization of posteriors and checkpoints: codec, model arguments, run state, validation."""
