"""Rules of the interpreter: what an operation does to a polynomial."""
