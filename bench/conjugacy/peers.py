"""Runs a peer's script with an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

INTERPRETER = "VIJAX_PEERS_PYTHON"
_HERE = Path(__file__).parent


class Skipped(Exception):
    """The peer is not installed."""


def run(
    library: str,
    arrays: Mapping[str, np.ndarray],
    before: tuple = (),
    after: tuple = (),
    folder: Path = _HERE,
) -> dict[str, Any]:
    """The JSON of `by_LIBRARY.py`, and the arrays of `factors.npz` if it wrote one.

    The interpreter is that of the environment variable `VIJAX_PEERS_PYTHON`, by default the one
    that runs the benchmark.

    Raises:
        Skipped: the library is not installed there.
        RuntimeError: the script failed.
    """
    python = os.environ.get(INTERPRETER, sys.executable)
    found = subprocess.run([python, "-W", "ignore", "-c", f"import {library}"], capture_output=True)
    if found.returncode != 0:
        raise Skipped(f"{library} is not installed (extra `peers`, or {INTERPRETER})")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "data.npz"
        np.savez(path, **arrays)
        command = [
            python,
            "-W",
            "ignore",
            str(folder / f"by_{library}.py"),
            *map(str, (*before, path, *after)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{library} failed:\n{done.stderr[-2000:]}")
        result = dict(json.loads(done.stdout.splitlines()[-1]))
        factors = path.with_name("factors.npz")
        return {**result, **(dict(np.load(factors)) if factors.exists() else {})}
