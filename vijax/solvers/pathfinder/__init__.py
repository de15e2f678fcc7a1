"""Pathfinder: normal approximations along quasi-Newton paths."""
