"""Is inference calibrated, does calibration find what is wrong, and are updates as good as refits?

    python -m bench calibration [--num 500] [--only ranks updates]

`ranks`: simulation-based calibration of a logistic regression, a hierarchy and a hidden Markov
model, then of inference that is wrong: a mean-field guide, and a distribution whose density is not
that of its draws. `updates`: data that come in 100 batches, against a fit of all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.contrib.control_flow import scan

import vijax
from bench import _report

_COEFFICIENTS, _GROUPS, _BATCHES, _DRAWS = 5, 10, 100, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=500, help="number of data sets")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    found = _report.stored("calibration")
    for name in options.only:
        found[name] = SECTIONS[name](options.num)
        _report.save("calibration", found)
        _report.table(tuple(found[name][0]), [tuple(row.values()) for row in found[name]])


def logistic(x: Array, y: Array) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([_COEFFICIENTS]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def hierarchy(y: Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("groups", _GROUPS):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def hidden_markov(y: Array) -> None:
    stay = numpyro.sample("stay", dist.Beta(8.0, 2.0))
    loc = numpyro.sample("loc", dist.Normal(jnp.array([-2.0, 2.0]), 0.7).to_event(1))
    transition = jnp.array([[stay, 1 - stay], [1 - stay, stay]])

    def step(state: Array, value: Array) -> tuple[Array, Array]:
        state = numpyro.sample(
            "state", dist.Categorical(transition[state]), infer={"enumerate": "parallel"}
        )
        return state, numpyro.sample("y", dist.Normal(loc[state], 1.0), obs=value)

    scan(step, 0, y)


class Mistaken(dist.Normal):
    """Draws have twice the scale of the density."""

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        draws: Array = dist.Normal(self.loc, 2 * self.scale).sample(key, sample_shape)
        return draws


def mistaken(x: Array, y: Array) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([_COEFFICIENTS]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", Mistaken(x @ w, 1.0), obs=y)


def ranks(num: int) -> list[dict[str, Any]]:
    x = np.random.default_rng(0).normal(size=(100, _COEFFICIENTS))
    labels, correlated = np.zeros(100, int), x + 2 * x[:, :1]
    mean_field = {"guide": "meanfield", "algorithm": "gradient", "num_steps": 1000}
    cases: dict[str, tuple[Callable[..., None], tuple[Any, ...], Mapping[str, Any]]] = {
        "logistic regression": (logistic, (x, labels), {}),
        "hierarchy": (hierarchy, (np.zeros((5, _GROUPS)),), {}),
        "hidden Markov model": (hidden_markov, (np.zeros(60),), {}),
        "mean field": (logistic, (correlated, labels), {"num": num // 5, **mean_field}),
        "wrong density": (mistaken, (x, np.zeros(100)), {"num": num // 5}),
    }
    rows = []
    for name, (model, args, options) in cases.items():
        start = time.perf_counter(), time.process_time()
        found = vijax.calibrate(model, *args, **{"num": num, **options})
        table = found.summary()
        worst = table.loc[(table["spread"] - 1).abs().idxmax()]
        statuses, counts = np.unique(found.status, return_counts=True)
        rows.append(
            {
                "inference": name,
                "sets": len(found.status),
                "calibrated": found.calibrated,
                "least p": f"{table['p'].min():.2g}",
                "largest bias": f"{table['bias'].abs().max():.2f} sd",
                "spread": f"{worst['spread']:.2f} +- {worst['spread_se']:.2f}",
                "statuses": ", ".join(f"{n} {s}" for s, n in zip(statuses, counts, strict=True)),
                "seconds": f"{time.perf_counter() - start[0]:.0f}",
                "processor seconds": f"{time.process_time() - start[1]:.0f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def updates(num: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(_BATCHES * 50, _COEFFICIENTS))
    labels = (rng.random(len(x)) < 1 / (1 + np.exp(-x @ rng.normal(size=_COEFFICIENTS)))) * 1
    groups = 1.0 + 0.8 * rng.normal(size=_GROUPS) + rng.normal(size=(_BATCHES * 2, _GROUPS))
    cases: dict[str, tuple[Callable[..., None], tuple[np.ndarray, ...]]] = {
        "logistic regression, 50 rows": (logistic, (x, labels)),
        "hierarchy, 2 rows a group": (hierarchy, (groups,)),
    }
    rows = []
    for name, (model, args) in cases.items():
        whole = vijax.fit(model, *args, progress_bar=False).sample(_DRAWS)
        parts = [np.array_split(one, _BATCHES) for one in args]
        posterior = vijax.fit(model, *(part[0] for part in parts), progress_bar=False)
        start = time.perf_counter()
        for i in range(1, _BATCHES):
            posterior = posterior.update(*(part[i] for part in parts))
            if i + 1 in (10, _BATCHES // 2):
                print(name, i + 1, posterior.status, flush=True)
        seconds = (time.perf_counter() - start) / (_BATCHES - 1)
        draws = posterior.sample(_DRAWS)
        shifts = [(draws[n].mean(0) - v.mean(0)) / v.std(0) for n, v in whole.items()]
        ratios = [np.log(draws[n].std(0) / v.std(0)) for n, v in whole.items()]
        earlier = posterior.diagnostics.earlier
        rows.append(
            {
                "model": name,
                "status": posterior.status,
                "largest shift of a mean": f"{max(np.abs(one).max() for one in shifts):.3f} sd",
                "expected": f"{earlier.error.max():.3f} sd",
                "largest log sd ratio": f"{max(np.abs(one).max() for one in ratios):.3f}",
                "seconds an update": f"{seconds:.2f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


SECTIONS: dict[str, Callable[[int], list[dict[str, Any]]]] = {"ranks": ranks, "updates": updates}


if __name__ == "__main__":
    main()
