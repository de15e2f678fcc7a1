"""Accuracy against time: all libraries on four posteriors with exact draws.

From the call to 4,000 draws on the host (NUTS: 500 after 500 of warm-up), each in a fresh process;
then repeated in that process, unless the first run took longer than ten seconds. Peers have default
settings, and models in their language where they do not accept NumPyro models. Libraries that are
not installed are skipped with the reason. PyTensor caches compiled code on disk: run this twice to
measure PyMC with a warm cache.
"""

from __future__ import annotations

import argparse
from typing import Any

from bench import _report
from bench.peers.methods import METHODS
from bench.posteriors import everyday, runs

_RUN_SECONDS, _WARM_SECONDS = 60.0, 10.0
_LEFT_OUT = ("vijax meanfield", "vijax fullrank", "BlackJAX mean-field")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=everyday.CASES, help="one posterior; results of the others are kept"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, help="some methods; nothing is stored"
    )
    parser.add_argument(
        "--timeout", type=float, default=_RUN_SECONDS, help="time limit of a run in seconds"
    )
    options = parser.parse_args()
    methods = options.methods or [method for method in METHODS if method not in _LEFT_OUT]
    stored, results = _report.stored("pareto"), {}
    for name in [options.only] if options.only else everyday.CASES:
        results[name] = {}
        for method in methods:
            warm = ("--warm", str(_WARM_SECONDS))
            results[name][method] = runs.run(method, name, *warm, timeout=options.timeout)
        print(f"\n{name}", flush=True)
        header = ("", "seconds", "warm", "largest error (reference sds)", "of", "status")
        _report.table(header, [(method, *_cells(run)) for method, run in results[name].items()])
        if options.methods is None:
            _report.save("pareto", stored | results)


def _cells(run: dict[str, Any]) -> tuple[str, ...]:
    for kind in ("failed", "skipped"):
        if kind in run:
            return ("", "", "", "", f"{kind}: {run[kind]}")
    warm = f"{run['warm']:.3g}" if "warm" in run else ""
    return (f"{run['seconds']:.3g}", warm, f"{run['worst']:.3g}", run["where"], run["status"])


if __name__ == "__main__":
    main()
