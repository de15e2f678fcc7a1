"""Autoencoders of binarized digits with equal passes: log likelihood of test images.

Every row of the table is compared with the one before on the same images; the error is that of the
mean of the differences. The first row is the network of the second by NumPyro's SVI. Short runs
have 10,000 of the images and small batches, so that the section takes minutes on two cores.

Figures of Burda, Grosse and Salakhutdinov (2016) on the fixed binarization, for one layer: 88.71
nats with the ELBO, 87.63 and 87.10 with k = 5 and 50, after 3,280 passes over all 50,000 images
(with pixels resampled in every pass, which regularizes: 86.76, 85.54, 84.78).
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

import vijax
from bench import _report
from bench.generation import by_numpyro
from bench.generation.images import (
    BATCH,
    FEATURES,
    Bottom,
    Features,
    Resampled,
    Top,
    autoencoder,
    binarized,
    encoder,
    featured_encoder,
    resampled,
    two_levels,
)
from vijax.guides import Amortized, AmortizedFlow, TopDown
from vijax.objectives import ELBO, IWAE

_STEPS, _RATE, _DRAWS = 5000, 2e-3, 500
_SHORT = 10_000, 20  # images and batch size


class Setting(NamedTuple):
    """Images `(rows, 784)` to fit and to test, rows of a step, and steps."""

    train: np.ndarray | Resampled
    test: np.ndarray
    batch_size: int
    steps: int

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(_RATE, self.steps))


class Fit(NamedTuple):
    """Log evidence of test images `(rows,)`, their mean bound, and seconds end to end."""

    values: np.ndarray
    bound: float
    seconds: float


def autoencoders(options: argparse.Namespace) -> list[dict[str, Any]]:
    return compared(setting(options), KINDS)


def resampling(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The second row of the table, with pixels drawn from grey values in every pass."""
    fixed = setting(options)
    pixels = resampled(options.folder, len(fixed.train))
    again = functools.partial(KINDS["VAE"], fixed._replace(train=pixels))
    kinds = {"VAE": KINDS["VAE"], "VAE, pixels resampled": lambda _: again()}
    return compared(fixed, kinds)


def setting(options: argparse.Namespace) -> Setting:
    digits = binarized(options.folder, options.images)
    images, batch = (len(digits.train), BATCH) if options.length > 1 else _SHORT
    return Setting(digits.train[:images], digits.test, batch, round(_STEPS * options.length))


def compared(setting: Setting, kinds: dict[str, Callable[[Setting], Fit]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    before: Fit | None = None
    for name, kind in kinds.items():
        found = kind(setting)
        rows.append({"model": name} | _row(setting, found, before))
        print(rows[-1], flush=True)
        before = found
    return rows


def _row(setting: Setting, found: Fit, before: Fit | None) -> dict[str, Any]:
    gain = "" if before is None else _report.mean_with_error(found.values - before.values)
    return {
        "negative log likelihood": _report.mean_with_error(-found.values),
        "better than the row before by": gain,
        "negative bound": f"{-found.bound:.2f}",
        "passes": f"{setting.steps * setting.batch_size / len(setting.train):.1f}",
        "seconds": f"{found.seconds:.0f}",
    }


def _numpyro(setting: Setting) -> Fit:
    start = time.perf_counter()
    params = by_numpyro.fit(
        np.asarray(setting.train), setting.batch_size, setting.steps, setting.optimizer
    )
    seconds = time.perf_counter() - start
    log_weights = by_numpyro.log_weights(params, setting.test, _DRAWS)
    values = np.logaddexp.reduce(log_weights, axis=0) - math.log(_DRAWS)
    return Fit(values, float(log_weights[0].mean()), seconds)


def _vijax(
    model: Callable[..., None],
    guide: Any,
    setting: Setting,
    objective: Any = None,
    warm_up: bool = False,
) -> Fit:
    start = time.perf_counter()
    if warm_up:
        objective = ELBO(beta=optax.linear_schedule(0.0, 1.0, setting.steps // 2))
    posterior = vijax.fit(
        model,
        setting.train,
        guide=guide,
        batch_size=setting.batch_size,
        num_steps=setting.steps,
        optimizer=setting.optimizer,
        objective=objective or ELBO(),
        progress_bar=False,
    )
    seconds = time.perf_counter() - start
    found = posterior.log_evidence_rows(setting.test, num_draws=_DRAWS)
    return Fit(found.values, float(found.bounds.mean()), seconds)


_GAUSSIAN = Amortized(encoder, "x")
_FLOW = AmortizedFlow(featured_encoder, "x", num_features=FEATURES)
_LEVELS = TopDown({"top": Top, "bottom": Bottom}, "x", features=Features)
KINDS: dict[str, Callable[[Setting], Fit]] = {
    "VAE, NumPyro SVI": _numpyro,
    "VAE": functools.partial(_vijax, autoencoder, _GAUSSIAN),
    "IWAE, k = 50": functools.partial(_vijax, autoencoder, _GAUSSIAN, objective=IWAE(50)),
    "flow posterior": functools.partial(_vijax, autoencoder, _FLOW),
    "two levels, warm-up": functools.partial(_vijax, two_levels, _LEVELS, warm_up=True),
}
