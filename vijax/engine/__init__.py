"""The training loop, and what it trains: the problem, its rows, its start."""
