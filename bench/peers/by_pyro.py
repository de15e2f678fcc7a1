"""Pyro: stochastic variational inference with a full-rank guide."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.posteriors.answer import Answer, Skipped
from bench.posteriors.case import Case

_DRAWS = 4000
_STEPS, _RATE = 5000, 1e-2  # as for NumPyro

if importlib.util.find_spec("pyro"):
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import SVI, Predictive, Trace_ELBO
    from pyro.infer.autoguide import AutoMultivariateNormal
else:
    pyro = None


def run(case: Case, method: str, seed: int) -> Answer:
    """`AutoMultivariateNormal`, Adam 1e-2, 5,000 steps, without validation of arguments.

    One thread: with PyTorch's default of two, a step of such small models took eight times as long
    on a busy machine.
    """
    if pyro is None:
        raise Skipped("pyro-ppl is not installed")
    if case.name not in MODELS:
        raise Skipped(f"no Pyro model is written for {case.name}")
    model = MODELS[case.name]
    args = [torch.as_tensor(value) for value in case.args]
    torch.set_num_threads(1)
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    pyro.enable_validation(False)
    guide = AutoMultivariateNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": _RATE}), Trace_ELBO())
    for _ in range(_STEPS):
        svi.step(*args)
    with torch.no_grad():
        draws = Predictive(guide, num_samples=_DRAWS, parallel=True)(*args)
    draws = {site: value.numpy().reshape(_DRAWS, -1) for site, value in draws.items()}
    for site, function in DERIVED.get(case.name, {}).items():
        draws[site] = function(draws)
    right = {site: draws[site].reshape(-1, *of.shape[1:]) for site, of in case.reference.items()}
    return Answer(right, guide.latent_dim)


def eight_schools(sigma: Any, y: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        raw = pyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * raw, sigma), obs=y)


def radon(county: Any, basement: Any, y: Any) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("counties", int(county.max()) + 1):
        intercept = pyro.sample("intercept", dist.Normal(mu, tau))
    with pyro.plate("houses", len(y)):
        pyro.sample("y", dist.Normal(intercept[county.long()] + slope * basement, sigma), obs=y)


def logistic(x: Any, y: Any) -> None:
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def banana() -> None:
    x = pyro.sample("x", dist.Normal(1.0, np.sqrt(10.0)))
    pyro.sample("y", dist.Normal(x**2, np.sqrt(0.1)))


MODELS: dict[str, Callable[..., None]] = {
    one.__name__: one for one in (eight_schools, radon, logistic, banana)
}
# Deterministic sites of the reference.
DERIVED: dict[str, dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]]] = {
    "eight_schools": {"theta": lambda draws: draws["mu"] + draws["tau"] * draws["theta_trans"]}
}
