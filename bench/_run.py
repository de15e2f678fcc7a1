"""Runs a program given as an argument: `python -m bench._run "print(1)"`."""

import sys

exec(sys.argv[1])
