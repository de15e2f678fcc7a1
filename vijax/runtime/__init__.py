"""What JAX and the host lack: keys, fingerprints of functions, program analysis, meshes, memory."""
