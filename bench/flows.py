"""Flows as guides: vijax beside NumPyro's AutoIAFNormal and AutoBNAFNormal, and flowjax.

Every run is a fresh process; the clock runs from the call to fitted parameters, compilation
included. Peers: Adam 5e-3, 5,000 steps of 32 draws, their own flows otherwise. flowjax fits the
unconstrained density that vijax hands out, by its own training loop, and is left out where it is
not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoBNAFNormal, AutoIAFNormal

import vijax
from bench import _report
from bench._problems import Problem
from bench.posteriors import hard
from vijax._contracts import Batch
from vijax.diagnostics import weights
from vijax.model import build, split

_DRAWS = 10_000
_BLOCK = 500
_STEPS = 5000
_PARTICLES = 32
_RATE = 5e-3


def two_moons() -> Problem:
    """The first energy of Rezende and Mohamed, 2015: two moons."""

    def model():
        z = numpyro.sample("z", dist.ImproperUniform(constraints.real, (), (2,)))
        radius = jnp.sqrt(jnp.sum(z**2))
        ring = -0.5 * ((radius - 2) / 0.4) ** 2
        sides = [-0.5 * ((z[0] - c) / 0.6) ** 2 for c in (-2.0, 2.0)]
        numpyro.factor("energy", ring + jnp.logaddexp(*sides))

    return Problem(model, (), "energy")


def horseshoe() -> Problem:
    """Diabetes progression on ten features, horseshoe prior, d = 23."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    y = ((y - y.mean()) / y.std()).astype(np.float32)

    def model(x, y):
        alpha = numpyro.sample("alpha", dist.Normal(0.0, 1.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(0.1))
        width = x.shape[1]
        local = numpyro.sample("local", dist.HalfCauchy(1.0).expand([width]).to_event(1))
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0).expand([width]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(alpha + x @ (raw * local * tau), sigma), obs=y)

    return Problem(model, (x, y), "scikit-learn")


def _hard(name: str) -> Callable[[], Problem]:
    def load() -> Problem:
        case = getattr(hard, name)()
        return Problem(case.model, case.args, name)

    return load


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "banana": _hard("banana"),
    "funnel": _hard("funnel"),
    "two_moons": two_moons,
    "centred_schools": _hard("centred_schools"),
    "horseshoe": horseshoe,
}


class _Run(NamedTuple):
    """Seconds, and `log p - log q` of fresh draws."""

    seconds: float
    log_weights: np.ndarray
    status: str = ""


def _vijax(problem: Problem, guide: str) -> _Run:
    began = time.perf_counter()
    posterior = vijax.fit(problem.model, *problem.args, guide=guide, progress_bar=False)
    seconds = time.perf_counter() - began
    log_weights = posterior.proposals(jax.random.key(99), _DRAWS)[0].log_weights
    return _Run(seconds, log_weights, posterior.status)


def _numpyro(problem: Problem, kind: type) -> _Run:
    began = time.perf_counter()
    guide = kind(problem.model)
    loss = Trace_ELBO(num_particles=_PARTICLES)
    svi = SVI(problem.model, guide, numpyro.optim.Adam(_RATE), loss)
    found = svi.run(jax.random.key(0), _STEPS, *problem.args, progress_bar=False)
    jax.block_until_ready(found.params)
    seconds = time.perf_counter() - began

    def one(key: jax.Array) -> jax.Array:
        return -Trace_ELBO().loss(key, found.params, problem.model, guide, *problem.args)

    keys = jax.random.split(jax.random.key(99), _DRAWS)
    values = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=_BLOCK))(keys)
    return _Run(seconds, np.asarray(values, np.float64))


def _flowjax(problem: Problem) -> _Run:
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow
    from flowjax.train import fit_to_key_based_loss
    from flowjax.train.losses import ElboLoss

    began = time.perf_counter()
    arguments, data = split(problem.model, problem.args, {})
    target, batch = build(problem.model, arguments), Batch(data)

    def log_density(z: jax.Array) -> jax.Array:
        return target.log_density(target.space.unravel(z), batch)

    base = Normal(jnp.zeros(target.space.dim))
    # `invert=False` draws in one pass
    flow = masked_autoregressive_flow(jax.random.key(0), base_dist=base, invert=False)
    loss = ElboLoss(log_density, _PARTICLES)
    flow, _ = fit_to_key_based_loss(
        jax.random.key(1),
        flow,
        loss_fn=loss,
        steps=_STEPS,
        learning_rate=_RATE,
        show_progress=False,
    )
    jax.block_until_ready(jax.tree.leaves(flow))
    seconds = time.perf_counter() - began
    z, log_q = flow.sample_and_log_prob(jax.random.key(99), (_DRAWS,))
    log_p = jax.jit(lambda z: jax.lax.map(log_density, z, batch_size=_BLOCK))(z)
    return _Run(seconds, np.asarray(log_p, np.float64) - np.asarray(log_q, np.float64))


METHODS: dict[str, Callable[[Problem], _Run]] = {
    "vijax auto": lambda problem: _vijax(problem, "auto"),
    "vijax flow": lambda problem: _vijax(problem, "flow"),
    "vijax iaf": lambda problem: _vijax(problem, "iaf"),
    "NumPyro AutoIAFNormal": lambda problem: _numpyro(problem, AutoIAFNormal),
    "NumPyro AutoBNAFNormal": lambda problem: _numpyro(problem, AutoBNAFNormal),
    "flowjax MAF": _flowjax,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PROBLEMS, help="one problem")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "PROBLEM"), help="one run, as JSON")
    options = parser.parse_args()
    if options.one:
        method, problem = options.one
        print(json.dumps(_one(METHODS[method], PROBLEMS[problem]())))
        return
    methods = [m for m in METHODS if "flowjax" not in m or importlib.util.find_spec("flowjax")]
    results: dict[str, dict[str, Any]] = {}
    for name in [options.only] if options.only else PROBLEMS:
        results[name] = {
            method: _report.in_fresh_process("bench.flows", "--one", method, name)
            for method in methods
        }
        print(f"\n{name}")
        rows = [
            (method, f"{r['elbo']:.3f} +- {r['elbo_se']:.2g}", f"{r['khat']:.2f}")
            + (f"{r['seconds']:.1f}", r["status"])
            for method, r in results[name].items()
        ]
        _report.table(("", "ELBO", "k-hat", "seconds", "status"), rows)
    _report.save("flows", results)


def _one(method: Callable[[Problem], _Run], problem: Problem) -> dict[str, Any]:
    """One run; the same diagnostics of fresh draws for everybody."""
    jax.block_until_ready(jax.device_put(0.0))  # the backend is up, whoever comes first
    run = method(problem)
    elbo, elbo_se = weights.elbo(run.log_weights)
    khat = weights.importance(run.log_weights).khat
    return {
        "seconds": run.seconds,
        "elbo": elbo,
        "elbo_se": elbo_se,
        "khat": khat,
        "status": run.status,
    }


if __name__ == "__main__":
    main()
