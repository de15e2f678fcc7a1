"""Runs of a method on a posterior in a fresh process; a failure becomes a row of the results."""

from __future__ import annotations

import subprocess
from typing import Any

from bench import _report


def run(method: str, posterior: str, *options: str, timeout: float) -> dict[str, Any]:
    """The output of `bench.posteriors.worker`, or the reason of a failure under `failed`."""
    try:
        return _report.in_fresh_process(
            "bench.posteriors.worker", method, posterior, *options, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {timeout:.3g} s"}
    except RuntimeError as error:
        return {"failed": str(error).strip().splitlines()[-1]}
