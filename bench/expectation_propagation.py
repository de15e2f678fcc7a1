"""Expectation propagation beside Gaussian variational inference and NUTS: evidence, sds, time.

Independent probit sites with wide priors, of which everything is known in closed form, and
classification with a Gaussian process of short length scale, against long chains. Times are
processor seconds of a second fit, compilation excluded, with the checks behind its status.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import ndtr

import vijax
from bench import _report
from vijax.solvers import VariationalNewton

METHODS: dict[str, dict[str, Any]] = {
    "EP": {"algorithm": "expectation_propagation"},
    "VI": {"guide": "fullrank", "algorithm": VariationalNewton(max_steps=30)},
    "Laplace": {"guide": "laplace"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=4000, help="of NUTS, in each of 4 chains")
    options = parser.parse_args()
    results = {
        "probit": [one_site(variance) for variance in (1.0, 25.0, 100.0, 400.0)],
        "process": classification(options.draws),
        "rows": [many_rows(num) for num in (1_000, 10_000, 100_000)],
    }
    for rows in results.values():
        _report.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    if options.draws == parser.get_default("draws"):
        _report.save("expectation_propagation", results)


def probit(sd: Any, y: Any) -> None:
    with numpyro.plate("rows", len(y)):
        f = numpyro.sample("f", dist.Normal(0.0, sd))
        numpyro.sample("y", dist.Bernoulli(probs=ndtr(f)), obs=y)


def process(x: Any, y: Any, length: Any, amplitude: Any) -> None:
    square = (x[:, None] - x[None]) ** 2 / length**2
    factor = jnp.linalg.cholesky(jnp.exp(-0.5 * square) + 1e-4 * jnp.eye(len(x)))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1))
    f = numpyro.deterministic("f", amplitude * factor @ z)
    numpyro.sample("y", dist.Bernoulli(probs=ndtr(f)).to_event(1), obs=y)


def fitted(model: Any, *args: Any, **options: Any) -> tuple[Any, float]:
    """A second fit, and its processor seconds."""
    vijax.fit(model, *args, progress_bar=False, **options)
    start = time.process_time()
    posterior = vijax.fit(model, *args, progress_bar=False, **options)
    return posterior, time.process_time() - start


def log_z(posterior: Any, method: str) -> float:
    """The method's own evidence: for VI its bound."""
    if method == "EP":
        return float(posterior.log_evidence("expectation_propagation").value)
    return float(posterior.elbo)


def one_site(variance: float) -> dict[str, Any]:
    """One success; the exact log evidence is log(1/2)."""
    args = np.sqrt([variance]), np.ones(1, int)
    row: dict[str, Any] = {"prior variance": variance, "exact log Z": -np.log(2)}
    mean = variance * np.sqrt(2 / np.pi / (1 + variance))
    row["exact sd"] = np.sqrt(variance - mean**2)
    for name in ("EP", "VI"):
        posterior, _ = fitted(probit, *args, **METHODS[name])
        row |= {f"{name} log Z": log_z(posterior, name), f"{name} sd": sds(posterior)[0]}
    return row


def sds(posterior: Any) -> np.ndarray:
    return np.sqrt(np.diag(posterior.covariance()).astype(float))


def classification(num_draws: int) -> list[dict[str, Any]]:
    """A Gaussian process with 30 labels: the latent function, against NUTS."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0.0, 6.0, 30)).astype(np.float32)
    y = (np.sin(2 * x) + 0.5 * rng.normal(size=30) > 0).astype(int)
    rows = []
    for length, amplitude in ((0.1, 10.0), (1.0, 3.0)):
        args = x, y, np.float64(length) * np.ones(()), np.float64(amplitude) * np.ones(())
        chains = vijax.fit(process, *args, progress_bar=False).nuts(
            num_warmup=1000, num_samples=num_draws, num_chains=4, progress_bar=False
        )
        z = np.asarray(chains.get_samples()["z"])
        truth = latent(z, *args)
        for name, options in METHODS.items():
            posterior, seconds = fitted(process, *args, **options)
            own = posterior.sample(20_000, corrected=False)["f"]
            importance = posterior.log_evidence("importance")
            rows.append(
                {
                    "length scale": length,
                    "amplitude": amplitude,
                    "method": name,
                    "log Z": log_z(posterior, name),
                    "by importance": f"{importance.value:.2f} ± {importance.se:.2f}",
                    "sd / NUTS": np.mean(own.std(0) / truth.std(0)),
                    "error of means / sd": rms((own.mean(0) - truth.mean(0)) / truth.std(0)),
                    "status": posterior.status,
                    "seconds": seconds,
                }
            )
    return rows


def latent(z: np.ndarray, x: Any, y: Any, length: Any, amplitude: Any) -> np.ndarray:
    """The latent function at draws."""
    square = (x[:, None] - x[None]) ** 2 / length**2
    factor = np.linalg.cholesky(np.exp(-0.5 * square) + 1e-4 * np.eye(len(x)))
    return amplitude * z @ factor.T


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def regression(x: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, 5.0).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ w).to_event(1), obs=y)


def many_rows(num: int) -> dict[str, Any]:
    """Logistic regression with ten coefficients: sites are independent of one another."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(num, 10)).astype(np.float32)
    y = (x @ np.linspace(-1, 1, 10) + rng.logistic(size=num) > 0).astype(int)
    row: dict[str, Any] = {"rows": num}
    for name in ("EP", "VI"):
        posterior, seconds = fitted(regression, x, y, **METHODS[name])
        row |= {f"{name} seconds": seconds, f"{name} status": posterior.status}
    return row
