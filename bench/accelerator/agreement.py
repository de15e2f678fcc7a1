"""Are answers on the device those of the CPU? All guides and objectives on small models.

Solvers and gradient steps use the same random numbers on every platform, from the same start here,
so that fits differ by rounding only. Blocks of draws come from a generator of the platform: ELBO,
medians and spreads of 1,000 draws must agree within their standard errors.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.contrib.control_flow import scan

import vijax
from bench import _problems
from bench.accelerator.sizes import Measurement, Sizes
from vijax import guides, objectives
from vijax.algorithms import SVGD
from vijax.guides.flow import ARCHITECTURES

FIRST = (
    *("auto", "auto, logistic", "marginalized", "discrete", "meanfield", "laplace", "lowrank"),
    *("markov", "plates", "realnvp", "ELBO", "IWAE", "ScoreELBO", "svgd"),
)
SAME = {"delta": "map", "flow": "realnvp", "fullrank": "auto"}  # names of what is compared already
_DRAWS = 1000
_LIMIT = 4.0  # standard errors
_ROUNDING = 1e-3  # nats, and relative to a value: what rounding may change


class Case(NamedTuple):
    """A model, its arguments and the options of its fit."""

    model: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


class Answer(NamedTuple):
    """ELBO, its standard error, draws by site, and whether the clock ended the fit."""

    elbo: float
    elbo_se: float
    draws: dict[str, np.ndarray]
    seconds: float
    cut: bool = False


def section(sizes: Sizes) -> dict[str, Measurement]:
    """A fit of each kind, on the device and on the CPU."""
    cases = _cases(sizes.steps).items()
    order = sorted(cases, key=lambda one: one[0] not in FIRST)  # stable
    return {name: functools.partial(_compare, case) for name, case in order}


def _walk(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(x, seen):
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=seen)
        return x, None

    scan(step, 0.0, y)


def _mixture(y):
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    mean = numpyro.sample("mean", dist.Normal(jnp.array([-1.0, 1.0]), 1.0).to_event(1))
    with numpyro.plate("rows", len(y)):
        label = numpyro.sample("label", dist.Bernoulli(share))
        numpyro.sample("y", dist.Normal(mean[label], 1.0), obs=y)


def _cases(steps: int) -> dict[str, Case]:
    """The fits to compare, the most important first."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=30).astype(np.float32)
    schools = _problems.eight_schools()
    logistic = _problems.wide_logistic(500, 5)
    descent = {"optimizer": optax.adam(0.02), "num_steps": steps}
    by_site = {"label": "discrete", ...: "meanfield"}
    at = {"mu": 0.0, "tau": 1.0, "raw": np.zeros(8)}
    at_zero = {"beta": np.zeros(5)}
    labeled = {"share": 0.5, "mean": np.array([-1.0, 1.0]), "label": np.zeros(30, int)}
    found = {
        "auto": Case(schools.model, schools.args, {}),
        "auto, logistic": Case(logistic.model, logistic.args, {}),
        "marginalized": Case(_mixture, (y,), {"guide": "fullrank"}),
        "discrete": Case(_mixture, (y,), {"guide": by_site, "init": labeled} | descent),
    }
    for name in guides.NAMES:
        options = {"guide": name} | ({"init": at} | descent if name in ARCHITECTURES else {})
        if name == "markov":
            found[name] = Case(_walk, (y,), options)
        elif name not in (*found, *SAME):
            found[name] = Case(schools.model, schools.args, options)
    for name, objective in _objectives().items():
        options = {"guide": "meanfield", "objective": objective, "init": at_zero} | descent
        found[name] = Case(logistic.model, logistic.args, options)
    options = {"algorithm": SVGD(50), "num_steps": steps, "init": at_zero}
    found["svgd"] = Case(logistic.model, logistic.args, options)
    return found


def _objectives() -> dict[str, Any]:
    plain = {name: getattr(objectives, name) for name in objectives.__all__}
    left_out = ("discrete", "Stein")  # a module, and the objective of `SVGD`
    return {name: kind() for name, kind in plain.items() if name not in left_out}


def _compare(case: Case, left: float) -> dict[str, Any]:
    """The largest difference in standard errors, and whether it is one that draws explain."""
    found = _fit(case, jax.devices()[0], left)
    reference = _fit(case, jax.devices("cpu")[0], max(1.0, left - found.seconds))
    differences = dict(errors(found, reference))
    worst = max(differences, key=lambda name: differences[name])
    return {
        "elbo": found.elbo,
        "elbo on the cpu": reference.elbo,
        "largest difference": differences[worst],
        "of": worst,
        # what the clock ended depends on the load of the machine
        "agrees": None if found.cut or reference.cut else differences[worst] < _LIMIT,
        "seconds": found.seconds,
        "seconds on the cpu": reference.seconds,
    }


def _fit(case: Case, device: jax.Device, left: float) -> Answer:
    start = time.perf_counter()
    with jax.default_device(device):
        posterior = vijax.fit(
            case.model, *case.args, progress_bar=False, max_seconds=left, **case.options
        )
        draws = posterior.sample(_DRAWS, rng_key=1, corrected=False)
    seconds = time.perf_counter() - start
    return Answer(posterior.elbo, posterior.elbo_se, draws, seconds, seconds > left)


def errors(found: Answer, reference: Answer) -> Iterator[tuple[str, float]]:
    """Differences in standard errors, rounding added; NaN counts as infinite.

    Medians and half the distances of the 16 % and 84 % quantiles: tails of flows that have taken
    few steps may not be finite.
    """
    if math.isfinite(reference.elbo):  # particles have none
        se = math.hypot(found.elbo_se, reference.elbo_se) + _ROUNDING * (1 + abs(reference.elbo))
        yield "elbo", _finite(abs(found.elbo - reference.elbo) / se)
    for name, draws in reference.draws.items():
        median, spread = _quantiles(draws)
        other_median, other_spread = _quantiles(found.draws[name])
        error = spread * math.sqrt(math.pi / _DRAWS) + _ROUNDING * (1 + np.abs(median))
        yield f"median of {name}", _finite(np.max(np.abs(other_median - median) / error))
        yield f"spread of {name}", _finite(np.max(np.abs(other_spread - spread) / error))


def _quantiles(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, median, high = np.quantile(draws.astype(float), (0.16, 0.5, 0.84), axis=0)
    return median, (high - low) / 2


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else math.inf
