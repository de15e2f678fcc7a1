"""A small network on which NUTS is possible: how close is every other posterior to it?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

import vijax
from vijax.algorithms import IVON, SGHMC, SWAG, Optimizer
from vijax.guides import Ensemble, LowRank, MeanField, Particles

_UNITS, _CHAINS, _WARMUP, _SAMPLES = 6, 4, 1000, 1000
_STEPS, _DRAWS = 20_000, 1000


class Small(nnx.Module):
    """One hidden layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(6, _UNITS, rngs=rngs)
        self.out = nnx.Linear(_UNITS, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.tanh(self.hidden(x)))[:, 0]


def model(x: jax.Array, y: jax.Array | None = None) -> None:
    prior = {"hidden/*": dist.Normal(0.0, 1.0), "out/*": dist.Normal(0.0, 1.0)}
    net = vijax.nn.network("net", Small, prior=prior)
    noise = numpyro.sample("noise", dist.LogNormal(-2.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        curve = numpyro.deterministic("curve", net(x))
        numpyro.sample("y", dist.Normal(curve, noise), obs=y)


class Split(NamedTuple):
    """Standardized rows, and the standard deviation of the outcomes."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    unit: float


def nuts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predictions of rows of yacht that are not in the fit, beside those of NUTS.

    The error of the mean is in standard deviations of the network's output under NUTS.
    """
    split = _read(options)
    start = time.process_time()
    found = vijax.fit(
        model,
        *split.train,
        guide=Ensemble(_CHAINS),
        optimizer=optax.adam(0.01),
        num_steps=4000,
        progress_bar=False,
    )
    chains = found.nuts(num_chains=_CHAINS, num_warmup=_WARMUP, num_samples=_SAMPLES)
    draws = chains.get_samples(group_by_chain=True)
    curves, noise = _curves(draws, split.test[0]), np.asarray(draws["noise"])
    rhat = float(np.max(split_gelman_rubin(curves)))
    size = float(np.min(effective_sample_size(curves)))
    flat = curves.reshape(-1, curves.shape[-1])
    mean, sd = flat.mean(0), flat.std(0)
    rows = [
        {
            "posterior": f"NUTS (R-hat {rhat:.3f}, {size:.0f} draws)",
            "error of the mean": "",
            "sd, ratio": "",
            "NLL": f"{_nll(flat, noise.reshape(-1), split):.3f}",
            "processor s": f"{time.process_time() - start:.0f}",
        }
    ]
    print(rows[-1], flush=True)
    for name, fit in _methods().items():
        start = time.process_time()
        posterior = fit(split.train)
        drawn = posterior.predict(split.test[0], num_draws=_DRAWS)
        seconds = time.process_time() - start
        curve = np.asarray(drawn["curve"])
        sites = posterior.sample(_DRAWS)
        ratio = curve.std(0) / sd
        rows.append(
            {
                "posterior": name,
                "error of the mean": f"{np.sqrt(np.mean(((curve.mean(0) - mean) / sd) ** 2)):.2f}",
                "sd, ratio": f"{np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}]",
                "NLL": f"{_nll(curve, np.asarray(sites['noise']), split):.3f}",
                "processor s": f"{seconds:.0f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def _read(options: argparse.Namespace) -> Split:
    """The first split."""
    data = np.load(options.folder / "uci" / "yacht.npz")
    train, test = data["train_idx"][0], data["test_idx"][0]
    x, y = data["x"][train], data["y"][train]
    inputs = ((data["x"] - x.mean(0)) / x.std(0)).astype(np.float32)
    outcomes = ((data["y"] - y.mean()) / y.std()).astype(np.float32)
    return Split((inputs[train], outcomes[train]), (inputs[test], outcomes[test]), float(y.std()))


def _curves(draws: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Outputs of the network, `(chains, samples, rows)`."""
    w, b, v, c = (
        np.asarray(draws[f"net/{name}"])
        for name in ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias")
    )
    hidden = np.tanh(np.einsum("ri,csih->csrh", x, w) + b[:, :, None])
    return np.einsum("csrh,csh->csr", hidden, v[..., 0]) + c


def _nll(curves: np.ndarray, noise: np.ndarray, split: Split) -> float:
    """Negative log predictive density of test rows, in the unit of the outcomes."""
    log_p = dist.Normal(curves, noise[:, None]).log_prob(split.test[1])
    return float(np.log(split.unit) + np.log(len(curves)) - jax.nn.logsumexp(log_p, 0).mean())


def _methods() -> dict[str, Callable[[Any], vijax.Posterior]]:
    """Every posterior of the library over weights, fitted to a split."""
    schedule = optax.cosine_decay_schedule(1.0, _STEPS)
    adam = optax.adam(lambda step: 0.02 * schedule(step))
    steps = {"num_steps": _STEPS, "progress_bar": False}

    def fit(**options: Any) -> Callable[[Any], vijax.Posterior]:
        return lambda rows: vijax.fit(model, *rows, **steps | options)

    members = Ensemble(10, MeanField())
    return {
        "map": fit(guide="map", optimizer=adam),
        "mean field, shared": fit(guide=MeanField(), optimizer=adam),
        "mean field, local": fit(guide=MeanField(noise="local"), optimizer=adam),
        "ivon": fit(guide=MeanField(), algorithm=IVON(rate=0.01, schedule=schedule)),
        "swag": fit(algorithm=SWAG(Optimizer(optax.adam(0.01))), batch_size=32),
        "ensemble of map": fit(guide=Ensemble(10), optimizer=adam),
        "ensemble of mean fields": fit(guide=members, optimizer=adam),
        "laplace": fit(guide="laplace", num_steps=None),
        "low rank": fit(guide=LowRank(10), optimizer=adam),
        "full rank": fit(guide="fullrank", optimizer=adam),
        "flow": fit(guide="flow", num_steps=4000),
        "sghmc": fit(guide=Particles(400, 0.1), algorithm=SGHMC(), num_steps=60_000),
        "sghmc, batches of 32": fit(
            guide=Particles(400, 0.1), algorithm=SGHMC(), num_steps=60_000, batch_size=32
        ),
    }
