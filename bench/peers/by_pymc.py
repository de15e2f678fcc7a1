"""PyMC: mean-field and full-rank ADVI with the defaults of `pm.fit`."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import numpy as np

from bench.posteriors.answer import Answer, Skipped
from bench.posteriors.case import Case

_DRAWS = 4000

if importlib.util.find_spec("pymc"):
    import pymc as pm

    logging.getLogger("pymc").setLevel(logging.ERROR)
else:
    pm = None


def run(case: Case, method: str, seed: int) -> Answer:
    with model_of(case) as model:
        approximation = pm.fit(method=method, random_seed=seed, progressbar=False)
        found = approximation.sample(_DRAWS, random_seed=seed + 1)
    return answer(case, model, found)


def model_of(case: Case) -> Any:
    """The posterior as a PyMC model."""
    if pm is None:
        raise Skipped("pymc is not installed")
    if case.name not in MODELS:
        raise Skipped(f"no PyMC model is written for {case.name}")
    with pm.Model() as model:
        MODELS[case.name](*case.args)
    return model


def answer(case: Case, model: Any, found: Any) -> Answer:
    """Draws of the sites of the reference from an `InferenceData`."""
    drawn = {site: found.posterior[site].values for site in case.reference}
    draws = {site: value.reshape(-1, *value.shape[2:]) for site, value in drawn.items()}
    return Answer(draws, sum(value.size for value in model.initial_point().values()))


def eight_schools(sigma: np.ndarray, y: np.ndarray) -> None:
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    raw = pm.Normal("theta_trans", 0.0, 1.0, shape=len(y))
    theta = pm.Deterministic("theta", mu + tau * raw)
    pm.Normal("y", theta, sigma, observed=y)


def radon(county: np.ndarray, basement: np.ndarray, y: np.ndarray) -> None:
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfNormal("tau", 1.0)
    slope = pm.Normal("slope", 0.0, 5.0)
    sigma = pm.HalfNormal("sigma", 1.0)
    intercept = pm.Normal("intercept", mu, tau, shape=int(county.max()) + 1)
    pm.Normal("y", intercept[county] + slope * basement, sigma, observed=y)


def logistic(x: np.ndarray, y: np.ndarray) -> None:
    beta = pm.Normal("beta", 0.0, 1.0, shape=x.shape[1])
    pm.Bernoulli("y", logit_p=x @ beta, observed=y)


def banana() -> None:
    x = pm.Normal("x", 1.0, np.sqrt(10.0))
    pm.Normal("y", x**2, np.sqrt(0.1))


MODELS = {one.__name__: one for one in (eight_schools, radon, logistic, banana)}
