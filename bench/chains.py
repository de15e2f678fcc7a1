"""Chains in time: hidden Markov models beside hmmlearn, and a smoother of 10,000 steps.

hmmlearn runs in a process of its own, by the interpreter in `VIJAX_PEERS_PYTHON` (by default this
one); it is skipped where it is not installed.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

from bench import _report
from bench.conjugacy import peers
from bench.conjugacy.ascent import Ascent
from bench.conjugacy.models import Problem
from vijax.contracts import Variables
from vijax.families.dirichlet import Dirichlet
from vijax.solvers import CoordinateAscent

_FIXED = -1.0  # a tolerance that no sweep meets
_SYMBOLS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=10)
    parser.add_argument("--states", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS))
    options = parser.parse_args()
    found = _report.stored("chains") if set(options.only) < set(SECTIONS) else {}
    for name in options.only:
        found[name] = SECTIONS[name](options)
    _report.save("chains", found)


def markov(y: Any, states: int) -> None:
    """Symbols `(steps, series)` of hidden states; priors as hmmlearn's."""
    series = numpyro.plate("series", y.shape[1])
    start = numpyro.sample("start", dist.Dirichlet(jnp.full(states, 1 / states)))
    with numpyro.plate("states", states):
        trans = numpyro.sample("trans", dist.Dirichlet(jnp.full(states, 1 / states)))
        emit = numpyro.sample("emit", dist.Dirichlet(jnp.full(_SYMBOLS, 1 / _SYMBOLS)))
    with series:
        first = numpyro.sample("z0", dist.Categorical(start))
        numpyro.sample("y0", dist.Categorical(emit[first]), obs=y[0])

    def step(z: Any, y: Any) -> tuple[Any, None]:
        with numpyro.plate("series", y.shape[0]):
            z = numpyro.sample("z", dist.Categorical(trans[z]))
            numpyro.sample("y", dist.Categorical(emit[z]), obs=y)
        return z, None

    scan(step, first, y[1:])


def symbols(series: int, steps: int, states: int) -> dict[str, Any]:
    """Symbols `y`, `(series, steps)`, and concentrations to start from."""
    rng = np.random.default_rng(0)
    trans = 0.3 * rng.dirichlet(np.full(states, 0.3), states) + 0.7 * np.eye(states)
    emit = rng.dirichlet(np.full(_SYMBOLS, 0.3), states)
    z, y = rng.integers(states, size=series), np.zeros((series, steps), np.int32)
    for t in range(steps):
        y[:, t] = _drawn(emit[z], rng)
        z = _drawn(trans[z], rng)
    rows = series * steps / states
    return {
        "y": y,
        "start": np.float32(series * rng.dirichlet(np.ones(states))),
        "trans": np.float32(rows * rng.dirichlet(np.ones(states), states)),
        "emit": np.float32(rows * rng.dirichlet(np.ones(_SYMBOLS), states)),
    }


def _drawn(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (probs.cumsum(1) < rng.random((len(probs), 1))).sum(1).clip(0, probs.shape[1] - 1)


def hidden(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per sweep from the same start, and the difference of the bounds."""
    found, rows = {}, []
    for series, steps in ((100, 200), (1, 100_000)):
        for states in options.states:
            name = f"{series} x {steps}, {states} states"
            data = symbols(series, steps, states)
            ascent = Ascent(Problem(markov, (data["y"].T, states), {}, data))
            starts = {
                site: Dirichlet(jnp.asarray(data[site])) for site in ("start", "trans", "emit")
            }
            ascent.start = Variables(starts, {})
            few, many = (CoordinateAscent(n, _FIXED, 0) for n in (1, options.sweeps))
            elbo = [-float(loss) for loss in ascent.run(many)[1].losses]
            calls = {n: functools.partial(ascent.run, s) for n, s in (("few", few), ("many", many))}
            seconds = _report.interleaved(calls, options.repeats)
            each = np.subtract(seconds["many"], seconds["few"]) / (options.sweeps - 1)
            ours = _report.median_range(1e3 * each)
            found[name] = {"vijax": ours, "elbo": elbo}
            try:
                theirs = peers.run("hmmlearn", data, (), (options.sweeps, options.repeats))
            except peers.Skipped as reason:
                rows.append((name, ours, str(reason), "", ""))
                continue
            difference = np.max(np.abs(np.divide(elbo, theirs["elbo"]) - 1))
            slow = _report.median_range(theirs["sweep"])
            ratio = slow.median / ours.median
            found[name] |= {"hmmlearn": theirs, "difference": difference, "ratio": ratio}
            rows.append((name, ours, slow, f"{ratio:.1f}", f"{difference:.1e}"))
    header = ("", "vijax, ms", "hmmlearn, ms", "ratio", "difference of the bound")
    _report.table(header, rows)
    return found


def smoother(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a fit of 10,000 steps with known parameters, after compilation."""
    rng = np.random.default_rng(0)
    x, y = 0.0, []
    for _ in range(10_000):
        x = 0.9 * x + 0.5 * rng.normal()
        y.append(x + 0.7 * rng.normal())

    def known(y: Any) -> None:
        def step(before: Any, y: Any) -> tuple[Any, None]:
            x = numpyro.sample("x", dist.Normal(0.9 * before, 0.5))
            numpyro.sample("y", dist.Normal(x, 0.7), obs=y)
            return x, None

        scan(step, 0.0, y)

    ascent = Ascent(Problem(known, (np.asarray(y, np.float32),), {}, {}))
    first, _ = ascent.run(CoordinateAscent())
    seconds = [ascent.run(CoordinateAscent())[0] for _ in range(10)]
    found = {"first": first, "seconds": _report.median_range(seconds)}
    _report.table(("first fit, s", "later, s"), [(f"{first:.2f}", found["seconds"])])
    return found


SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "hidden": hidden,
    "smoother": smoother,
}


if __name__ == "__main__":
    main()
