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

_UNITS, _NOISE = 5, 0.2  # noise in standard deviations of the outcome, known
_CHAINS, _WARMUP, _SAMPLES = 4, 300, 300
_DEPTH = 7, 9  # of NUTS' trees, in the warm-up and after it
_STEPS, _DRAWS = 10_000, 2000


class Small(nnx.Module):
    """One hidden layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(6, _UNITS, rngs=rngs)
        self.out = nnx.Linear(_UNITS, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.tanh(self.hidden(x)))[:, 0]


def model(x: jax.Array, y: jax.Array | None = None) -> None:
    net = vijax.nn.network("net", Small, prior=dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        curve = numpyro.deterministic("curve", net(x))
        numpyro.sample("y", dist.Normal(curve, _NOISE), obs=y)


class Split(NamedTuple):
    """Standardized rows, and the standard deviation of the outcomes."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    unit: float


class Reference(NamedTuple):
    """Outputs of the network at test rows under NUTS, `(draws, rows)`, and how they were found."""

    curves: np.ndarray
    title: str
    seconds: float


def nuts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predictions of rows of yacht that are not in the fit, beside those of NUTS.

    The network's output at a row has a mean and a standard deviation under each posterior: the
    error of the mean is its root mean square over rows, in standard deviations under NUTS.
    """
    split = _read(options)
    truth = _reference(split)
    rows = [_row(truth.title, truth.curves, truth, split, truth.seconds)]
    for name, fit in _methods().items():
        start = time.process_time()
        posterior = fit(split.train)
        curves = np.asarray(posterior.predict(split.test[0], num_draws=_DRAWS)["curve"])
        rows.append(_row(name, curves, truth, split, time.process_time() - start))
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


def _reference(split: Split) -> Reference:
    """Chains from the members of an ensemble, each in a mode of its own."""
    start = time.process_time()
    starts = vijax.fit(
        model,
        *split.train,
        guide=Ensemble(_CHAINS),
        optimizer=optax.adam(0.01),
        num_steps=4000,
        progress_bar=False,
    )
    chains = starts.nuts(
        num_chains=_CHAINS,
        num_warmup=_WARMUP,
        num_samples=_SAMPLES,
        max_tree_depth=_DEPTH,
        chain_method="sequential",
        progress_bar=False,
    )
    curves = _curves(chains.get_samples(group_by_chain=True), split.test[0])
    rhat = float(np.max(split_gelman_rubin(curves)))
    size = float(np.min(effective_sample_size(curves)))
    title = f"NUTS (R-hat {rhat:.3f}, {size:.0f} draws)"
    flat = curves.reshape(-1, curves.shape[-1])
    return Reference(flat, title, time.process_time() - start)


def _curves(draws: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Outputs of the network, `(chains, samples, rows)`."""
    w, b, v, c = (
        np.asarray(draws[f"net/{name}"])
        for name in ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias")
    )
    hidden = np.tanh(np.einsum("ri,csih->csrh", x, w) + b[:, :, None])
    return np.einsum("csrh,csh->csr", hidden, v[..., 0]) + c


def _row(
    name: str, curves: np.ndarray, truth: Reference, split: Split, seconds: float
) -> dict[str, Any]:
    """The comparison of outputs at test rows, `(draws, rows)`, with those of NUTS."""
    mean, sd = truth.curves.mean(0), truth.curves.std(0)
    ratio = curves.std(0) / sd
    log_p = dist.Normal(curves, _NOISE).log_prob(split.test[1])
    nll = np.log(split.unit * len(curves)) - jax.nn.logsumexp(log_p, 0).mean()
    return {
        "posterior": name,
        "error of the mean": f"{np.sqrt(np.mean(((curves.mean(0) - mean) / sd) ** 2)):.2f}",
        "sd over that of NUTS": f"{np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}]",
        "NLL of test rows": f"{nll:.3f}",
        "processor s": f"{seconds:.0f}",
    }


def _methods() -> dict[str, Callable[[Any], vijax.Posterior]]:
    """Every posterior of the library over weights, fitted to a split."""
    schedule = optax.cosine_decay_schedule(1.0, _STEPS)
    adam = optax.adam(lambda step: 0.02 * schedule(step))
    steps = {"num_steps": _STEPS, "progress_bar": False}

    def fit(**options: Any) -> Callable[[Any], vijax.Posterior]:
        return lambda rows: vijax.fit(model, *rows, **steps | options)

    sampled = {"guide": Particles(400, 0.1), "algorithm": SGHMC(), "num_steps": 30_000}
    return {
        "map": fit(guide="map", optimizer=adam),
        "mean field, shared": fit(guide=MeanField(), optimizer=adam),
        "mean field, local": fit(guide=MeanField(noise="local"), optimizer=adam),
        "ivon": fit(guide=MeanField(), algorithm=IVON(schedule=schedule)),
        "swag, batches of 32": fit(algorithm=SWAG(Optimizer(optax.adam(0.01))), batch_size=32),
        "ensemble of map": fit(guide=Ensemble(10), optimizer=adam),
        "ensemble of mean fields": fit(guide=Ensemble(10, MeanField()), optimizer=adam),
        "laplace": fit(guide="laplace", num_steps=None),
        "low rank": fit(guide=LowRank(10), optimizer=adam),
        "full rank": fit(guide="fullrank", optimizer=adam),
        "flow": fit(guide="flow", num_steps=2000),
        "sghmc": fit(**sampled),
        "sghmc, batches of 32": fit(**sampled, batch_size=32),
    }
