"""How far a fit can be trusted."""
