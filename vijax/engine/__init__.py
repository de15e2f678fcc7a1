"""The training loop and its inputs: the problem, row schedules, initialization, stopping rule."""
