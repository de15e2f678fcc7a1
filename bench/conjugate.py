"""Conjugate models: coordinate ascent beside BayesPy and hpfrec, and minibatches from disk.

Peers run in processes of their own, by the interpreter in `VIJAX_PEERS_PYTHON` (by default this
one); one that is not installed is skipped.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import vijax
from bench import _report
from bench.conjugacy import models, peers

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


def fit(problem: models.Problem, sweeps: int, **options: Any) -> Any:
    """Coordinate ascent of at most so many sweeps, from the problem's start."""
    start = {"init": problem.start} if problem.start else {}
    return vijax.fit(
        problem.model,
        *problem.args,
        guide="conjugate",
        num_steps=sweeps,
        progress_bar=False,
        **start,
        **options,
    )


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def golden(options: argparse.Namespace) -> dict[str, Any]:
    """The ELBO after each of four sweeps against the printed one."""
    elbo = [-float(loss) for loss in fit(models.normal(), 4).losses]
    _report.table(("ELBO", "printed by BayesPy"), list(zip(elbo, _GOLDEN, strict=True)))
    return {"elbo": elbo, "printed": _GOLDEN}


def per_sweep(problem: models.Problem, sweeps: int, repeats: int) -> dict[str, Any]:
    """Milliseconds per sweep after compilation, from fits of few and of many sweeps.

    Their difference leaves out what a call costs beside its sweeps: `call`, milliseconds.
    """
    first, long = timed(lambda: fit(problem, sweeps))
    few = max(1, len(long.losses) // 10)
    fit(problem, few)
    seconds = _report.interleaved(
        {"few": lambda: fit(problem, few), "many": lambda: fit(problem, sweeps)}, repeats
    )
    spent = np.subtract(seconds["many"], seconds["few"]) / (len(long.losses) - few)
    call = np.asarray(seconds["few"]) - few * np.median(spent)
    return {
        "elbo": [-float(loss) for loss in long.losses],
        "first": first,
        "sweep": _report.median_range(1e3 * spent),
        "call": _report.median_range(1e3 * call),
        "fit": _report.median_range(1e3 * np.asarray(seconds["many"])),
    }


def bayespy(options: argparse.Namespace) -> dict[str, Any]:
    """The ELBO after equally many sweeps from the same start, and milliseconds per sweep."""
    found, rows = {}, []
    for name, sweeps in (("mixture", 100), ("regression", 10), ("pca", 200)):
        problem = getattr(models, name)()
        ours = per_sweep(problem, sweeps, options.repeats)
        found[name] = {"vijax": ours}
        line = [name, f"{ours['first']:.2f}", ours["sweep"], ours["call"]]
        try:
            # The start, and every sweep of the two, in one run.
            theirs = peers.run("bayespy", problem.arrays, (name,), (sweeps, _FIXED, 0))
        except peers.Skipped as reason:
            rows.append((*line, str(reason), "", ""))
            continue
        common = min(len(ours["elbo"]), len(theirs["elbo"])) - 1
        difference = ours["elbo"][common] / theirs["elbo"][common] - 1
        slow = 1e3 * theirs["seconds"] / theirs["sweeps"]
        ratio = slow / ours["sweep"].median
        found[name] |= {"BayesPy": theirs, "difference": difference, "ratio": ratio}
        rows.append((*line, f"{slow:.3g}", f"{ratio:.1f}", f"{difference:.1e}"))
    header = ("", "first fit, s", "sweep, ms", "call, ms", "BayesPy, ms", "ratio", "ELBO")
    _report.table(header, rows)
    return found


def rotation(options: argparse.Namespace) -> dict[str, Any]:
    """Sweeps and seconds of principal components to a relative change of the ELBO of 1e-6."""
    problem, found = models.pca(), {}
    fit(problem, 2_000)
    seconds, ours = timed(lambda: fit(problem, 2_000))
    found["vijax"] = {"sweeps": len(ours.losses), "elbo": ours.elbo, "seconds": seconds}
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


def mixture(options: argparse.Namespace) -> dict[str, Any]:
    """1,000 rows of five coordinates, three components."""
    found = per_sweep(models.mixture(), 100, options.repeats)
    _report.table(
        ("first fit, s", "sweep, ms", "call, ms"),
        [(f"{found['first']:.2f}", found["sweep"], found["call"])],
    )
    return found


def regression(options: argparse.Namespace) -> dict[str, Any]:
    """10,000 rows with unknown noise: a fit after compilation."""
    problem = models.regression()
    first, _ = timed(lambda: fit(problem, 100))
    again = [timed(lambda: fit(problem, 100))[0] for _ in range(options.repeats)]
    found = {"first": first, "warm": _report.median_range(1e3 * np.asarray(again))}
    _report.table(("first fit, s", "warm, ms"), [(f"{first:.2f}", found["warm"])])
    return found


def factorization(options: argparse.Namespace) -> dict[str, Any]:
    """Poisson factorization from three seeds: log probability of a held-out count, and seconds.

    The optimum depends on the seed, and with it the log probability of a few large counts.
    """
    data = models.counts()
    user, item = np.nonzero(data.table)
    arrays = {"user": user, "item": item, "count": data.table[user, item]}
    problem = models.Problem(models.factorization, (data.table, _RANK), {}, {})
    fit(problem, _SWEEPS)

    def ours(seed: int) -> tuple[float, float]:
        seconds, posterior = timed(lambda: fit(problem, _SWEEPS, rng_key=seed))
        draws = posterior.sample(200)
        return seconds, models.held_out(draws["theta"].mean(0), draws["beta"].mean(0), data)

    def theirs(seed: int) -> tuple[float, float]:
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
        "clutter, from 0": (models.clutter(0.0), "theta", (0.6371, 51.60**0.5)),
    }
    found, rows = {}, []
    for name, (problem, site, exact) in cases.items():
        posterior = fit(problem, 1_000)
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
    keys = ("rows", "seconds", "memory", "density", "sweeps", "status")
    _report.table(("", *keys), [(name, *(run[key] for key in keys)) for name, run in found.items()])
    return found


SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "golden": golden,
    "mixture": mixture,
    "regression": regression,
    "bayespy": bayespy,
    "rotation": rotation,
    "factorization": factorization,
    "statuses": statuses,
    "disk": disk,
}


if __name__ == "__main__":
    main()
