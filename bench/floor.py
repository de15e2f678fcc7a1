"""The floor of a default fit: tracing, compiling and one call of the log density and its gradient.

No method that evaluates the model's gradient takes less. Floor and fit run in fresh processes, in
turns; the clock starts after imports and loading of data.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import vijax
from bench import _report
from bench.posteriors import load
from bench.posteriors.case import Case
from vijax.contracts import Batch
from vijax.contracts.kernel import Kernel
from vijax.model.concrete import split_and_build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=load.DATA, help="folder of the posteriors")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--posteriors", nargs="+", metavar="NAME", help="names, or parts of names")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "NAME"), help="one run, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one, options.data)))
    else:
        parts = options.posteriors or [""]
        names = [name for name in load.MODELS if any(part in name for part in parts)]
        results = compare(names, options.data, options.repeats)
        if options.posteriors is None:
            _report.save("floor", results)


def compare(names: list[str], data: Path, repeats: int) -> dict[str, dict[str, object]]:
    """Times and ratios by posterior, and the geometric mean of the ratios, as a table."""
    results: dict[str, dict[str, object]] = {}
    for name in names:
        runs: dict[str, list[float]] = {what: [] for what in RUNS}
        for repeat in range(repeats):
            for what in list(RUNS)[:: 1 if repeat % 2 == 0 else -1]:
                options = ("--one", what, name, "--data", str(data))
                runs[what].append(_report.in_fresh_process("bench.floor", *options)["seconds"])
        seconds = {what: _report.median_range(of) for what, of in runs.items()}
        results[name] = {**seconds, "ratio": _report.ratios(runs["fit"], runs["floor"])}
    rows = [(name, *found.values()) for name, found in results.items()]
    _report.table(("", *RUNS, "ratio"), rows)
    middle = [found["ratio"].median for found in results.values()]  # type: ignore[attr-defined]
    print(f"geometric mean of the ratios: {np.exp(np.mean(np.log(middle))):.2f}")
    return results


def one(what: str, name: str, data: Path) -> dict[str, float]:
    """Seconds of one run in this process."""
    case = load.load(name, data)
    jax.block_until_ready(jax.device_put(0.0))  # initializes the backend
    started = time.perf_counter()
    RUNS[what](case)
    return {"seconds": time.perf_counter() - started}


def _floor(case: Case) -> None:
    _, data, target = split_and_build(case.model, case.args, {}, None)
    kernel = Kernel(target, Batch(data))
    kernel(np.zeros((1, kernel.dim)))


def _fit(case: Case) -> None:
    vijax.fit(case.model, *case.args, progress_bar=False)


RUNS: dict[str, Callable[[Case], None]] = {"floor": _floor, "fit": _fit}


if __name__ == "__main__":
    main()
