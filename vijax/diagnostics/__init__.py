"""Diagnostics of a fit: importance weights, short chains, stationarity, Stein discrepancy."""
