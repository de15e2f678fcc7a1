"""Discrete sites: mixtures against marginalization by hand, long hidden Markov models.

`--data` is a folder with `galaxies.csv` and `faithful.csv` as in R. NumPyro's enumeration is
included if `funsor` is installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from jax.scipy.special import logsumexp
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints

import vijax
from bench import _report
from vijax.contracts import Batch
from vijax.model import build, split

_STATES, _POINTS = (3, 10), (1, 16)
_STEPS = (1_000, 10_000)
_COLUMNS = {"galaxies": ("dat", 1e3), "faithful": ("eruptions", 1.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = {"mixtures": _mixtures(options.data), "chains": _chains(options.repeats)}
    _report.save("discrete", found)


def _mixture(y: np.ndarray, marginalized: bool) -> None:
    """Three normal components, ordered by their means, of standardized data."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(3, 2.0)))
    support = constraints.ordered_vector
    means = numpyro.sample("means", dist.ImproperUniform(support, (), (3,)))
    numpyro.factor("prior", dist.Normal(0, 1).log_prob(means).sum() + np.log(6.0))
    scales = numpyro.sample("scales", dist.LogNormal(-1, 0.5).expand([3]).to_event(1))
    with numpyro.plate("rows", len(y)):
        if marginalized:
            parts = dist.Normal(means, scales)
            numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=y)
        else:
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", dist.Normal(means[z], scales[z]), obs=y)


def _mixtures(folder: Path) -> dict[str, Any]:
    found, rows = {}, []
    for name, (column, unit) in _COLUMNS.items():
        table = np.genfromtxt(folder / f"{name}.csv", delimiter=",", names=True, dtype=None)
        y = table[column].astype(float) / unit
        y = ((y - y.mean()) / y.std()).astype(np.float32)
        for by_hand in (False, True):
            started = time.perf_counter()
            posterior = vijax.fit(_mixture, y, by_hand, progress_bar=False)
            seconds = time.perf_counter() - started
            evidence = posterior.log_evidence()
            label = f"{name}, {'marginalized by hand' if by_hand else 'discrete site'}"
            found[label] = [evidence.value, evidence.se, posterior.status, seconds]
            rows.append((label, str(evidence), posterior.status, f"{seconds:.1f}"))
    _report.table(("three components", "log evidence", "status", "seconds"), rows)
    return found


def _markov(y: jax.Array, transition: jax.Array, means: jax.Array) -> None:
    def step(x: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
        enumerate_ = {"enumerate": "parallel"}  # required by NumPyro
        x = numpyro.sample("x", dist.Categorical(transition[x]), infer=enumerate_)
        numpyro.sample("y", dist.Normal(means[x], 1.0), obs=y)
        return x, None

    scan(step, 0, y)


def _by_vijax(y: np.ndarray, states: int) -> Callable[..., jax.Array]:
    def model(y: jax.Array) -> None:
        flat = dist.ImproperUniform(constraints.real, (), (states, states))
        logits = numpyro.sample("logits", flat)
        means = numpyro.sample("means", dist.ImproperUniform(constraints.real, (), (states,)))
        _markov(y, jax.nn.softmax(logits), means)

    arguments, _ = split(model, (y,), {})
    target = build(model, arguments)

    def log_density(logits: jax.Array, means: jax.Array, y: jax.Array) -> jax.Array:
        return target.log_density({"logits": logits, "means": means}, Batch({"y": y}))

    return log_density


def _by_hand(y: np.ndarray, states: int) -> Callable[..., jax.Array]:
    def log_density(logits: jax.Array, means: jax.Array, y: jax.Array) -> jax.Array:
        steps = jax.nn.log_softmax(logits)
        seen = dist.Normal(means, 1.0).log_prob(y[:, None])

        def step(forward: jax.Array, seen: jax.Array) -> tuple[jax.Array, None]:
            return logsumexp(forward[:, None] + steps, axis=0) + seen, None

        return logsumexp(lax.scan(step, steps[0] + seen[0], seen[1:])[0])

    return log_density


def _by_numpyro(y: np.ndarray, states: int) -> Callable[..., jax.Array]:
    import funsor
    from numpyro.contrib.funsor import config_enumerate, enum
    from numpyro.contrib.funsor.infer_util import log_density as enumerated

    funsor.set_backend("jax")

    def log_density(logits: jax.Array, means: jax.Array, y: jax.Array) -> jax.Array:
        model = enum(config_enumerate(_markov), -1)
        return enumerated(model, (y, jax.nn.softmax(logits), means), {}, {})[0]

    return log_density


def _chains(repeats: int) -> list[dict[str, Any]]:
    """Milliseconds per log density and gradient."""
    candidates = {"vijax": _by_vijax, "by hand": _by_hand, "NumPyro": _by_numpyro}
    try:
        import funsor  # noqa: F401
    except ImportError:
        del candidates["NumPyro"]
    found = []
    for states in _STATES:
        for steps in _STEPS:
            y = np.random.default_rng(0).normal(size=steps).astype(np.float32)
            for points in _POINTS:
                keys = jax.random.split(jax.random.key(0), 2)
                logits = jax.random.normal(keys[0], (points, states, states))
                means = jax.random.normal(keys[1], (points, states))
                calls = {}
                for name, make in candidates.items():
                    slopes = jax.value_and_grad(make(y, states), (0, 1))
                    program = jax.jit(jax.vmap(slopes, (0, 0, None)))
                    compiled = program.lower(logits, means, y).compile()
                    calls[name] = _caller(compiled, (logits, means, y))
                    calls[name]()
                seconds = _report.interleaved(calls, repeats)
                taken = {name: 1e3 * float(np.median(s)) for name, s in seconds.items()}
                found.append({"states": states, "steps": steps, "points": points, **taken})
    _report.table(("milliseconds", *found[0]), [("", *_shown(row)) for row in found])
    return found


def _shown(row: dict[str, Any]) -> list[str]:
    return [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]


def _caller(compiled: Any, arguments: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(compiled(*arguments))


if __name__ == "__main__":
    main()
