"""Masked diffusion of binarized digits beside an autoencoder, with equal passes over the data.

The bound of masked diffusion is that of an autoregressive model averaged over all orders of the
pixels. Published for such models of the fixed binarization: EoNADE, 128 orders, 85.10 (Uria,
Murray and Larochelle, A Deep and Tractable Density Estimator, 2014).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from flax import nnx

import vijax
from bench import _report
from bench.generation.images import BATCH, PIXELS, Digits, autoencoder, binarized, encoder
from vijax.guides import Amortized

_STEPS, _RATE, _DRAWS, _TIMES = 5000, 2e-3, 500, 64
_SIDE, _PATCH = 7, 4  # patches of an image, pixels of a patch
_MASKED = 2


class Patches(nnx.Module):
    """Logits of the pixels of each patch, from its surroundings and from the whole image.

    Weights of the surroundings, 12 x 12 pixels, are shared by all patches.
    """

    def __init__(self, rngs: nnx.Rngs, width: int = 256, features: int = 32) -> None:
        patches, patch = _SIDE**2, _PATCH**2
        self.first = nnx.Linear(2 * PIXELS, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.spread = nnx.Linear(width, patches * features, rngs=rngs)
        self.around = nnx.Linear(9 * 2 * patch, features, rngs=rngs)
        self.mixed = nnx.Linear(features, features, rngs=rngs)
        self.last = nnx.Linear(features, patch, rngs=rngs)
        self.direct = nnx.Linear(width, PIXELS, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        x = _patches(pixels)
        whole = self.first(x.reshape(len(x), -1))
        whole = jax.nn.silu(whole + self.second(jax.nn.silu(whole)))
        h = self.around(_surroundings(x)) + self.spread(whole).reshape(*x.shape[:3], -1)
        h += self.mixed(jax.nn.silu(h))
        logits = _pixels(self.last(jax.nn.silu(h))) + self.direct(whole)
        return jnp.stack([jnp.zeros_like(logits), logits], axis=-1)


def _patches(pixels: jax.Array) -> jax.Array:
    """Values and masks of each patch, `(rows, 7, 7, 32)`."""
    known = pixels != _MASKED
    planes = jnp.stack([jnp.where(known, 2.0 * pixels - 1.0, 0.0), known], axis=-1)
    planes = planes.reshape(-1, _SIDE, _PATCH, _SIDE, _PATCH, 2)
    return planes.transpose(0, 1, 3, 2, 4, 5).reshape(-1, _SIDE, _SIDE, 2 * _PATCH**2)


def _surroundings(x: jax.Array) -> jax.Array:
    """Each patch with its eight neighbours."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = [padded[:, i : i + _SIDE, j : j + _SIDE] for i in range(3) for j in range(3)]
    return jnp.concatenate(near, axis=-1)


def _pixels(patches: jax.Array) -> jax.Array:
    shaped = patches.reshape(-1, _SIDE, _SIDE, _PATCH, _PATCH)
    return shaped.transpose(0, 1, 3, 2, 4).reshape(-1, PIXELS)


def diffusion(x: jax.Array) -> None:
    net = vijax.nn.network("net", Patches, prior=None)
    with numpyro.plate("images", len(x)):
        vijax.nn.masked_diffusion("x", net, x, num_values=2)


def masked(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Negative log likelihood of the autoencoder by 500 draws, and the bound of the diffusion."""
    digits, steps = binarized(options.folder, options.images), round(_STEPS * options.length)
    rows = []
    for name, measured in (("VAE", _autoencoder), ("masked diffusion", _diffusion)):
        start = time.process_time()
        values, seconds = measured(digits, steps)
        rows.append(
            {
                "model": name,
                "negative log likelihood": _report.mean_with_error(-values),
                "passes": f"{steps * BATCH / len(digits.train):.1f}",
                "seconds of the fit": f"{seconds:.0f}",
                "processor seconds in all": f"{time.process_time() - start:.0f}",
            }
        )
        print(rows[-1], flush=True)
    return rows


def _fit(model: Any, x: np.ndarray, steps: int, **options: Any) -> vijax.Posterior:
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))
    options |= {"optimizer": optimizer, "batch_size": BATCH, "num_steps": steps}
    return vijax.fit(model, x, progress_bar=False, **options)


def _autoencoder(digits: Digits, steps: int) -> tuple[np.ndarray, float]:
    posterior = _fit(autoencoder, digits.train, steps, guide=Amortized(encoder, "x"))
    found = posterior.log_evidence_rows(digits.test, num_draws=_DRAWS)
    return found.values, posterior.seconds


def _diffusion(digits: Digits, steps: int) -> tuple[np.ndarray, float]:
    posterior = _fit(diffusion, digits.train.astype(np.uint8), steps)
    table = posterior.bound(digits.test.astype(np.uint8), num_draws=_TIMES, by_row=True)
    return table["bound"].to_numpy(), posterior.seconds
