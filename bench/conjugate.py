"""Conjugate models: coordinate ascent beside BayesPy and hpfrec, and minibatches from disk.

Peers run in processes of their own, by the interpreter in `VIJAX_PEERS_PYTHON` (by default this
one); one that is not installed is skipped.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import vijax
from bench import _report
from bench.conjugacy import models, peers
from bench.conjugacy.ascent import Ascent
from vijax.solvers import CoordinateAscent

# Printed in BayesPy's quick start.
_GOLDEN = (-60.20956, -58.20527, -58.20290, -58.20288)
_FIXED = -1.0  # a tolerance that no sweep meets
_TOLERANCE = 1e-6  # relative change of the ELBO per sweep
_RANK, _SWEEPS = 10, 100  # of Poisson factorization


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the mixture on disk")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS))
    options = parser.parse_args()
    found = _report.stored("conjugate") if set(options.only) < set(SECTIONS) else {}
    for name in options.only:
        found[name] = SECTIONS[name](options)
    _report.save("conjugate", found)


def fit(problem: models.Problem, solver: CoordinateAscent) -> Any:
    """A fit from the problem's start."""
    return vijax.fit(
        problem.model,
        *problem.args,
        guide="conjugate",
        algorithm=solver,
        init=problem.start or None,
        progress_bar=False,
    )


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def golden(options: argparse.Namespace) -> dict[str, Any]:
    """The ELBO after each of four sweeps against the printed one."""
    found = fit(models.normal(), CoordinateAscent(4, _FIXED, 0))
    elbo = [-float(loss) for loss in found.losses]
    _report.table(("ELBO", "printed by BayesPy"), list(zip(elbo, _GOLDEN, strict=True)))
    return {"elbo": elbo, "printed": _GOLDEN}


def sweeps_of(problem: models.Problem, sweeps: int, repeats: int) -> dict[str, Any]:
    """Milliseconds per sweep after compilation, from runs of few and of many sweeps.

    Their difference leaves out what a call costs beside its sweeps. `converged` are milliseconds
    of a run to the default tolerance, and `first` seconds of the first run, with compilation.
    """
    few, many = (CoordinateAscent(n, _FIXED, 0, rotate=False) for n in (sweeps // 10, sweeps))
    stopped, ascent = CoordinateAscent(num_restarts=0), Ascent(problem)
    first, solution = ascent.run(stopped)
    elbo = [-float(loss) for loss in ascent.run(many)[1].losses]
    clocks = {"few": few, "many": many, "stopped": stopped}
    calls = {name: functools.partial(ascent.run, solver) for name, solver in clocks.items()}
    seconds = _report.interleaved(calls, repeats)
    each = np.subtract(seconds["many"], seconds["few"]) / (sweeps - sweeps // 10)
    return {
        "elbo": elbo,
        "first": first,
        "sweep": _report.median_range(1e3 * each),
        "converged": _report.median_range(1e3 * np.asarray(seconds["stopped"])),
        "sweeps": len(solution.losses),
    }


def bayespy(options: argparse.Namespace) -> dict[str, Any]:
    """The ELBO after equally many sweeps from the same start, and milliseconds per sweep."""
    found, rows = {}, []
    for name, sweeps in (("mixture", 100), ("regression", 50), ("pca", 200)):
        problem = getattr(models, name)()
        ours = sweeps_of(problem, sweeps, options.repeats)
        found[name] = {"vijax": ours}
        line = [name, f"{ours['first']:.2f}", ours["converged"], ours["sweeps"], ours["sweep"]]
        try:
            theirs = peers.run("bayespy", problem.arrays, (name,), (sweeps, _FIXED, 0))
        except peers.Skipped as reason:
            rows.append((*line, str(reason), "", ""))
            continue
        difference = ours["elbo"][-1] / theirs["elbo"][-1] - 1
        slow = 1e3 * theirs["seconds"] / theirs["sweeps"]
        ratio = slow / ours["sweep"].median
        found[name] |= {"BayesPy": theirs, "difference": difference, "ratio": ratio}
        rows.append((*line, f"{slow:.3g}", f"{ratio:.1f}", f"{difference:.1e}"))
    header = ("", "first run, s", "converged, ms", "sweeps", "sweep, ms", "BayesPy, ms", "ratio")
    _report.table((*header, "relative difference of the ELBO"), rows)
    return found


def rotation(options: argparse.Namespace) -> dict[str, Any]:
    """Sweeps and seconds of principal components, with and without rotation.

    vijax stops within an estimated 1e-5 nats of the maximum, BayesPy at a relative change of the
    ELBO of 1e-6 per sweep.
    """
    problem, found = models.pca(), {}
    ascent = Ascent(problem)
    for label, rotate in (("vijax", False), ("vijax, rotated", True)):
        solver = CoordinateAscent(5_000, num_restarts=0, rotate=rotate)
        ascent.run(solver)
        seconds, run = ascent.run(solver)
        found[label] = {"sweeps": len(run.losses), "elbo": -run.losses[-1], "seconds": seconds}
    for label, rotate in (("BayesPy", 0), ("BayesPy, rotated", 1)):
        try:
            theirs = peers.run("bayespy", problem.arrays, ("pca",), (2_000, _TOLERANCE, rotate))
        except peers.Skipped as reason:
            print(reason)
            break
        found[label] = {**theirs, "elbo": theirs["elbo"][-1]}
    keys = ("sweeps", "elbo", "seconds")
    _report.table(("", *keys), [(name, *(run[key] for key in keys)) for name, run in found.items()])
    return found


def factorization(options: argparse.Namespace) -> dict[str, Any]:
    """Poisson factorization from three seeds: log probability of a held-out count, and seconds.

    The optimum depends on the seed, and with it the log probability of a few large counts.
    """
    data = models.counts()
    solver = CoordinateAscent(_SWEEPS, _FIXED, 0)

    def ours(seed: int) -> tuple[float, float]:
        ascent = Ascent(models.factorization(data, _RANK, seed))
        ascent.run(solver)  # compiles for the first seed
        seconds, run = ascent.run(solver)
        theta, beta = (np.asarray(ascent.expected(run, site)) for site in ("theta", "beta"))
        return seconds, models.held_out(theta, beta, data)

    def theirs(seed: int) -> tuple[float, float]:
        arrays = models.factorization(data, _RANK, seed).arrays
        run = peers.run("hpfrec", arrays, (), (_RANK, _SWEEPS, seed))
        return run["seconds"], models.held_out(run["theta"], run["beta"], data)

    found = {"vijax": [ours(seed) for seed in range(3)]}
    try:
        found["hpfrec"] = [theirs(seed) for seed in range(3)]
    except peers.Skipped as reason:
        print(reason)
    rows = [
        (name, *(_report.median_range(part) for part in zip(*runs, strict=True)))
        for name, runs in found.items()
    ]
    _report.table(("", "seconds", "log probability"), rows)
    return found


def statuses(options: argparse.Namespace) -> dict[str, Any]:
    """The status where it matters: correlations, exchangeable labels, two optima of the ELBO."""
    mean, sd = models.line_slope()
    cases = {
        "line": (models.line(), "slope", (mean, sd)),
        "labels": (models.labels(), "mu", None),
        "clutter, from 1.3": (models.clutter(1.3), "theta", (0.6371, 51.60**0.5)),
        "clutter, from 30": (models.clutter(30.0), "theta", (0.6371, 51.60**0.5)),
    }
    found, rows = {}, []
    for name, (problem, site, exact) in cases.items():
        posterior = fit(problem, CoordinateAscent(num_restarts=0 if problem.start else None))
        draws = posterior.sample(20_000)[site]
        ours = (float(draws.mean()), float(draws.std()))
        found[name] = [posterior.elbo, posterior.khat, posterior.status, ours, exact]
        shown = [f"{one[0]:.3g}, {one[1]:.3g}" if one else "" for one in (ours, exact)]
        khat = f"{posterior.khat:.2f}"
        rows.append((name, f"{posterior.elbo:.5f}", khat, posterior.status, site, *shown))
    _report.table(("", "ELBO", "k-hat", "status", "site", "mean, sd", "exact"), rows)
    return found


def disk(options: argparse.Namespace) -> dict[str, Any]:
    """Minibatches of a mixture on disk, of a tenth and of all rows, beside sweeps over all rows."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        held_out = Path(folder) / "held_out.npy"
        y, _ = models.clusters(options.rows + 10_000, 2, 5, 3.0)
        np.save(held_out, y[options.rows :])
        for label, rows, batch, steps in (
            ("minibatches, a tenth", options.rows // 10, 10_000, 1_000),
            ("minibatches", options.rows, 10_000, 1_000),
            ("all rows", options.rows, 0, 100),
        ):
            path = Path(folder) / "rows.npy"
            np.save(path, y[:rows].astype(np.float32))
            arguments = (str(path), str(batch), str(steps), str(held_out))
            found[label] = _report.in_fresh_process("bench.conjugacy.on_disk", *arguments)
    keys = ("rows", "seconds", "memory", "density", "steps")
    _report.table(("", *keys), [(name, *(run[key] for key in keys)) for name, run in found.items()])
    return found


SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "golden": golden,
    "bayespy": bayespy,
    "rotation": rotation,
    "factorization": factorization,
    "statuses": statuses,
    "disk": disk,
}


if __name__ == "__main__":
    main()
