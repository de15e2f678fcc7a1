"""Utilities on top of JAX: keys, function fingerprints, program analysis, devices, memory."""
