"""Structured guides on hierarchies: accuracy of the sds of global parameters, linear cost.

`radon`: varying intercepts in 85 counties, against NUTS. `groups N`: N group means measured with
errors of many sizes, against quadrature. Every fit is a fresh process; times are from the call to
the posterior with its diagnostics, including compilation; memory is the peak of the process minus
that before the fit.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import vijax
from bench import _report
from bench._problems import Problem, varying_intercepts

SIZES = (1_000, 10_000, 100_000)
_DRAWS = 8000
_NUTS = {"num_warmup": 1000, "num_samples": 8000, "num_chains": 1}


class Truth(NamedTuple):
    """Means and sds of global parameters, scales in logarithms."""

    mean: dict[str, float]
    sd: dict[str, float]


def groups(count: int) -> Problem:
    """Group means, centered; standard errors from a seventh to four times the group sd."""
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.1, 3.0, count).astype(np.float32)
    y = 1.5 + 0.7 * rng.normal(size=count) + sd * rng.normal(size=count)

    def model(sd, y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfNormal(5.0))
        with numpyro.plate("groups", len(y)):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sd), obs=y)

    return Problem(model, (sd, y.astype(np.float32)), f"simulated: {count} groups")


def quadrature(problem: Problem) -> Truth:
    """Over `log tau`; given that, `mu` is Gaussian and the group means are marginalized."""
    sd, y = (np.asarray(value, float) for value in problem.args)
    width = 8 / np.sqrt(len(y)) + 0.02
    log_tau = np.log(0.7) + np.linspace(-width, width, 401)
    log_density, mean, precision = np.zeros((3, log_tau.size))
    for i, point in enumerate(log_tau):
        weight = 1 / (np.exp(2 * point) + sd**2)
        precision[i] = weight.sum() + 1 / 25
        mean[i] = weight @ y / precision[i]
        log_density[i] = -0.5 * (weight @ y**2 - precision[i] * mean[i] ** 2)
        log_density[i] += 0.5 * (np.log(weight).sum() - np.log(precision[i]))
        log_density[i] += point - np.exp(2 * point) / 50
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    first = {"mu": weights @ mean, "tau": weights @ log_tau}
    square = {"mu": weights @ (mean**2 + 1 / precision), "tau": weights @ log_tau**2}
    return Truth(first, {name: (square[name] - first[name] ** 2) ** 0.5 for name in first})


def by_nuts(problem: Problem) -> Truth:
    """Global parameters of the radon model by a long NUTS run, started from the automatic fit."""
    posterior = vijax.fit(problem.model, *problem.args, progress_bar=False)
    samples = posterior.nuts(progress_bar=False, **_NUTS).get_samples()
    return _moments({name: np.asarray(samples[name], float) for name in _globals(posterior)})


def _moments(samples: Mapping[str, np.ndarray]) -> Truth:
    logs = {
        name: np.log(value) if name in ("tau", "sigma") else value
        for name, value in samples.items()
    }
    return Truth(
        {name: float(value.mean()) for name, value in logs.items()},
        {name: float(value.std()) for name, value in logs.items()},
    )


def _globals(posterior: vijax.Posterior) -> list[str]:
    return [site.name for site in posterior.space.sites if not site.plates]


def _load(name: str) -> Problem:
    return varying_intercepts() if name == "radon" else groups(int(name))


def _fit(problem: Problem, method: str) -> vijax.Posterior:
    options: dict[str, Any] = {"guide": method}
    if method == "plates":  # in the coordinates that the automatic fit learns
        automatic = vijax.fit(problem.model, *problem.args, progress_bar=False)
        options["centering"] = {k: np.asarray(v) for k, v in automatic.centering.items()}
    return vijax.fit(problem.model, *problem.args, progress_bar=False, **options)


def _one(method: str, name: str) -> dict[str, Any]:
    problem = _load(name)
    jax.block_until_ready(jax.device_put(0.0))
    if method == "NUTS":
        truth = by_nuts(problem)
        return {"mean": truth.mean, "sd": truth.sd}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    posterior = _fit(problem, method)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    draws = posterior.sample(_DRAWS if name == "radon" else 1000, corrected=False)
    found = _moments({name: draws[name].astype(float) for name in _globals(posterior)})
    if method == "auto" and name != "radon":  # the sds of the Gaussian, without sampling error
        level = posterior.params.levels[0]
        root = np.exp(np.asarray(level.log_scale[0], float))[:, None]
        root = root * (np.tril(np.asarray(level.lower[0], float), -1) + np.eye(2))
        found = Truth(
            dict(zip(("mu", "tau"), np.asarray(level.loc[0], float).tolist(), strict=True)),
            dict(zip(("mu", "tau"), np.linalg.norm(root, axis=1).tolist(), strict=True)),
        )
    return {
        "seconds": posterior.seconds,
        "megabytes": memory,
        "elbo": posterior.elbo,
        "elbo_se": posterior.elbo_se,
        "khat": posterior.khat,
        "status": posterior.status,
        "guide": repr(posterior.guide),
        "mean": found.mean,
        "sd": found.sd,
    }


def _row(method: str, result: dict[str, Any], truth: Truth) -> tuple[str, ...]:
    shift = max(abs(result["mean"][k] - truth.mean[k]) / truth.sd[k] for k in truth.sd)
    errors = [f"{k} {100 * (result['sd'][k] / truth.sd[k] - 1):+.1f} %" for k in truth.sd]
    seconds, memory = f"{result['seconds']:.1f}", f"{result['megabytes']:.0f}"
    return (method, seconds, memory, f"{result['elbo']:.2f}", f"{shift:.2f}", ", ".join(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "PROBLEM"), help="one run, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_one(*options.one)))
        return
    header = ("", "seconds", "MB", "ELBO", "largest mean error (sd)", "errors of global sds")
    results: dict[str, Any] = {}
    nuts = _report.in_fresh_process("bench.structured", "--one", "NUTS", "radon")
    runs = {"radon": ("meanfield", "plates", "auto")} | {str(n): ("auto",) for n in SIZES}
    runs[str(SIZES[0])] = ("meanfield", "auto")
    for name, methods in runs.items():
        problem = _load(name)
        truth = Truth(nuts["mean"], nuts["sd"]) if name == "radon" else quadrature(problem)
        results[name] = {"truth": truth._asdict()}
        for method in methods:
            one = _report.in_fresh_process("bench.structured", "--one", method, name)
            results[name][method] = one
        print(f"\n{name} ({problem.source})")
        _report.table(header, [_row(m, results[name][m], truth) for m in methods])
    _report.save("structured", results)


if __name__ == "__main__":
    main()
