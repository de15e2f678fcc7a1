"""From the call to the posterior, including compilation: full-rank guides, vijax and NumPyro.

Every run is a fresh process, since compiled programs are reused within a process. The clock starts
after imports and loading of data; `--import` measures the import.
NumPyro: `SVI.run` with `AutoMultivariateNormal`, Adam 1e-2, 5,000 steps, no progress bar.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import vijax
from bench import _problems, _report
from bench.peers import by_numpyro
from vijax.diagnostics import importance as weights

PROBLEMS = {
    "eight_schools": _problems.eight_schools,
    "breast_cancer": _problems.breast_cancer,
    "varying_intercepts": _problems.varying_intercepts,
}
_ELBO_DRAWS = 10_000
_IMPORTS = """
import time, json
a = time.perf_counter(); import numpyro
b = time.perf_counter(); import vijax
c = time.perf_counter(); print(json.dumps([b - a, c - b]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=PROBLEMS, help="one problem")
    parser.add_argument(
        "--import", dest="imports", action="store_true", help="only the import time"
    )
    parser.add_argument("--profile", choices=PROBLEMS, help="time of one fit by program")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "PROBLEM"), help="one run, as JSON")
    options = parser.parse_args()
    if options.one:
        method, problem = options.one
        print(json.dumps(_one(method, PROBLEMS[problem]())))
    elif options.imports:
        _imports()
    elif options.profile:
        _profile(PROBLEMS[options.profile]())
    else:
        _compare([options.only] if options.only else list(PROBLEMS), options.repeats)


def _compare(names: list[str], repeats: int) -> None:
    results = {}
    for name in names:
        runs: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
        for repeat in range(repeats):
            for method in list(METHODS)[:: 1 if repeat % 2 == 0 else -1]:
                found = _report.in_fresh_process("bench.time_to_posterior", "--one", method, name)
                runs[method].append(found)
        seconds = {method: [run["seconds"] for run in of] for method, of in runs.items()}
        results[name] = {
            method: of[0]
            | {
                "seconds": _report.median_range(seconds[method]),
                "with 1,000 draws": _report.median_range([run["with 1,000 draws"] for run in of]),
                "speed": _report.ratios(seconds["NumPyro"], seconds[method]),
            }
            for method, of in runs.items()
        }
        print(f"\n{name}: {PROBLEMS[name]().source}, {repeats} fresh processes each")
        rows = [
            (method, r["seconds"], r["with 1,000 draws"], r["speed"])
            + (f"{r['elbo']:.2f} ± {r['elbo_se']:.2g}", f"{r['khat']:.2f}")
            for method, r in results[name].items()
        ]
        header = ("", "seconds", "with 1,000 draws", "speed relative to NumPyro", "ELBO", "k-hat")
        _report.table(header, rows)
    _report.save("time_to_posterior", results)


def _one(method: str, problem: _problems.Problem) -> dict[str, Any]:
    """One run; the same diagnostics from `log p - log q` of fresh draws for every method."""
    jax.block_until_ready(jax.device_put(0.0))  # initializes the backend
    run = METHODS[method](problem)
    log_weights = np.asarray(run.log_weights(jax.random.key(99)), np.float64)
    elbo, elbo_se = weights.elbo(log_weights)
    return {
        "seconds": run.fitted - run.started,
        "with 1,000 draws": run.drawn - run.started,
        "elbo": elbo,
        "elbo_se": elbo_se,
        "khat": weights.importance(log_weights).khat,
    }


class _Run(NamedTuple):
    """Times of start, fit and draws, and a function of a key to `log p - log q` of draws."""

    started: float
    fitted: float
    drawn: float
    log_weights: Callable[[jax.Array], Any]


def _vijax(problem: _problems.Problem, algorithm: str) -> _Run:
    started = time.perf_counter()
    posterior = vijax.fit(
        problem.model, *problem.args, guide="fullrank", algorithm=algorithm, progress_bar=False
    )
    fitted = time.perf_counter()
    posterior.sample(1000, rng_key=1)
    drawn = time.perf_counter()

    def log_weights(key: jax.Array) -> np.ndarray:
        return posterior.proposals(key, _ELBO_DRAWS)[0].log_weights

    return _Run(started, fitted, drawn, log_weights)


def _numpyro(problem: _problems.Problem) -> _Run:
    started = time.perf_counter()
    found = by_numpyro.optimize(problem.model, problem.args)
    fitted = time.perf_counter()
    draws = found.guide.sample_posterior(jax.random.key(1), found.params, sample_shape=(1000,))
    jax.block_until_ready(draws)
    drawn = time.perf_counter()
    return _Run(started, fitted, drawn, lambda key: by_numpyro.log_weights(found, key, _ELBO_DRAWS))


METHODS: dict[str, Callable[[_problems.Problem], _Run]] = {
    "vijax": lambda problem: _vijax(problem, "auto"),
    "vijax, gradient steps": lambda problem: _vijax(problem, "gradient"),
    "NumPyro": _numpyro,
}


def _imports() -> None:
    """Import time of NumPyro, and of vijax after it."""
    command = [sys.executable, "-c", _IMPORTS]
    runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(7)]
    first, second = zip(*runs, strict=True)
    results = {"NumPyro": _report.median_range(first), "vijax on top": _report.median_range(second)}
    _report.table(("import", "seconds"), list(results.items()))
    _report.save("import", results)


class _Log(logging.Handler):
    """Collects JAX's log messages on each program: `{program: {stage: seconds}}`."""

    line = re.compile(
        r"Finished (tracing|jaxpr to MLIR|XLA comp)\S*.*?([^\s()]+)\)?(?: for \w+)? in (\S+) sec"
    )

    def __init__(self) -> None:
        super().__init__()
        self.programs: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def emit(self, record: logging.LogRecord) -> None:
        found = self.line.match(record.getMessage())
        if found:
            stage, program, seconds = found.groups()
            self.programs[program][stage] += float(seconds)


def _profile(problem: _problems.Problem) -> None:
    """Prints every program that one fit traces and compiles, and the remaining time."""
    log = _Log()
    loggers = [logging.getLogger(f"jax._src.{name}") for name in ("dispatch", "interpreters.pxla")]
    for logger in loggers:
        logger.addHandler(log)
        logger.propagate = False
    jax.config.update("jax_log_compiles", True)
    started = time.perf_counter()
    vijax.fit(problem.model, *problem.args, guide="fullrank", progress_bar=False)
    seconds = time.perf_counter() - started
    jax.config.update("jax_log_compiles", False)

    stages = ("tracing", "jaxpr to MLIR", "XLA comp")
    rows = [
        (program, *(f"{times[stage]:.3f}" for stage in stages))
        for program, times in log.programs.items()
    ]
    sums = [sum(times[stage] for times in log.programs.values()) for stage in stages]
    rows.append(("all programs", *(f"{one:.3f}" for one in sums)))
    _report.table(("program", "trace", "lower", "compile"), rows)
    print(f"\none fit: {seconds:.2f} s, of which {seconds - sum(sums):.2f} s outside these")


if __name__ == "__main__":
    main()
