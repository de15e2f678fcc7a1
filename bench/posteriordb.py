"""Fifteen posteriors with reference draws: time, accuracy, correctness of the status.

Every method runs on every posterior in a fresh process, one at a time. Errors are those of the
draws that a method returns by default, against 5,000 reference draws, in reference sds. `--hard`
uses posteriors that are known to be difficult, `--check` validates the models.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench import _report
from bench.peers.methods import METHODS, NUMPYRO_MODELS, OURS
from bench.posteriors import check, hard, load, runs, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=load.DATA, help="folder of the posteriors")
    parser.add_argument("--posteriors", nargs="+", metavar="NAME", help="names, or parts of names")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="some of the methods")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: chosen by JAX")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each, with different seeds")
    parser.add_argument(
        "--timeout", type=float, default=600.0, help="time limit of a run in seconds"
    )
    parser.add_argument("--hard", action="store_true", help="difficult posteriors instead")
    parser.add_argument(
        "--check", action="store_true", help="validate the models, run no benchmark"
    )
    options = parser.parse_args()
    if not options.hard and not options.data.is_dir():
        print(f"skipped: no data at {options.data}; name their folder with --data DIR")
        return
    names = _chosen(list(hard.CASES if options.hard else load.MODELS), options.posteriors)
    if options.check:
        sys.exit(0 if check.run(names, options.data) else "--check: see WRONG above")
    methods = options.methods or ([OURS] if options.hard else NUMPYRO_MODELS)
    results: dict[str, Any] = {}
    for name in names:
        results[name] = {method: _runs(method, name, options) for method in methods}
        print(f"\n{name}, d = {table.dim(results[name])}\n")
        table.methods(results[name])
    summary = {
        "posteriors": results,
        "geometric means of times": _speeds(results),
        "untrue statuses": table.untrue(results),
    }
    table.summary(results, summary)
    if options.posteriors is None and options.methods is None:
        device = f"_{options.device}" if options.device else ""
        _report.save(f"posteriordb{'_hard' if options.hard else ''}{device}", summary)


def _chosen(names: list[str], parts: list[str] | None) -> list[str]:
    found = [name for name in names if parts is None or any(part in name for part in parts)]
    if not found:
        sys.exit(f"--posteriors: none of {parts} is part of a name in {', '.join(names)}")
    return found


def _runs(method: str, name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per repeat."""
    rows = []
    for seed in range(options.repeats):
        args = ["--seed", str(seed), "--data", str(options.data)]
        args += ["--device", options.device] if options.device else []
        rows.append(runs.run(method, name, *args, timeout=options.timeout))
    return rows


def _speeds(results: dict[str, Any]) -> dict[str, float]:
    """Geometric mean over posteriors of the seconds of a method relative to `vijax auto`."""
    logs: dict[str, list[float]] = {}
    for found in results.values():
        ours = table.median(found.get(OURS, []), "seconds")
        for method, rows in found.items():
            seconds = table.median(rows, "seconds")
            if method != OURS and ours and seconds:
                logs.setdefault(method, []).append(np.log(seconds / ours))
    return {method: float(np.exp(np.mean(of))) for method, of in logs.items()}


if __name__ == "__main__":
    main()
