"""Shared by the benchmarks: interleaved timing, medians and ranges, tables, stored results."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("jax", "jaxlib", "numpyro", "optax", "numpy", "scipy")
PEERS = ("blackjax", "flowjax", "pymc", "pymc-extras", "pyro-ppl", "torch")


class MedianRange(NamedTuple):
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"


def median_range(values: Sequence[float]) -> MedianRange:
    return MedianRange(float(np.median(values)), float(np.min(values)), float(np.max(values)))


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> MedianRange:
    """Ratios of runs adjacent in time, so that load on the machine affects both."""
    return median_range(np.asarray(numerator) / np.asarray(denominator))


def interleaved(
    candidates: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of every contender, `repeats` each, interleaved: A B C, C B A, A B C, ..."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats):
        for name in list(candidates)[:: 1 if repeat % 2 == 0 else -1]:
            start = time.perf_counter()
            candidates[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def in_fresh_process(module: str, *args: str, timeout: float | None = None) -> dict[str, Any]:
    """Output of `python -m module args`: JSON on its last line.

    Raises:
        RuntimeError: the process failed.
        subprocess.TimeoutExpired: the process took longer than `timeout` seconds and was killed.
    """
    command = [sys.executable, "-m", module, *args]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=timeout
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def mean_with_error(values: np.ndarray) -> str:
    """The mean of independent values and its standard error."""
    return f"{values.mean():.2f} +- {values.std() / len(values) ** 0.5:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints aligned columns."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def save(name: str, results: Any) -> None:
    """Writes results and a description of the machine to `bench/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    print(f"\nwritten to {path.relative_to(RESULTS.parents[1])}")


def stored(name: str) -> dict[str, Any]:
    """Results stored earlier; empty if there are none."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text())["results"]) if path.exists() else {}


def machine() -> dict[str, Any]:
    """Date, cores, load, and versions of packages."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "cores": os.cpu_count(),
        "load": [round(one, 2) for one in load],
        "processor": platform.machine(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in _PACKAGES},
        **{one: version for one in PEERS if (version := _version(one))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
