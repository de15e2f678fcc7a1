"""Discrete codes of binarized digits: codes in use, and bits per pixel of the bound.

Eight codes an image with 512 values each, by vector quantization and by finite scalar quantization
of three numbers with eight levels, the same networks otherwise. The bound is that of test images
under the uniform prior over codes, and with the codes' distribution learned afterwards by a masked
diffusion model.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx

import vijax
from bench.generation.images import BATCH, HIDDEN, PIXELS, Digits, Network, binarized

_CODES, _VALUES, _WIDTH = 8, 512, 16
_STEPS, _RATE = 2000, 3e-3
_MLP = 128  # units of the prior's network


def codes(options: argparse.Namespace) -> list[dict[str, Any]]:
    digits = binarized(options.folder, options.images)
    kinds = {
        "vector quantization": lambda rngs: vijax.nn.VectorQuantizer(_VALUES, _WIDTH, rngs=rngs),
        "finite scalar quantization": lambda rngs: vijax.nn.FiniteScalarQuantizer((8, 8, 8)),
    }
    rows = []
    for name, quantizer in kinds.items():
        rows.append({"codes": name} | _measured(digits, quantizer, round(_STEPS * options.length)))
        print(rows[-1], flush=True)
    return rows


def _measured(digits: Digits, quantizer: Any, steps: int) -> dict[str, Any]:
    posterior = _fit(_autoencoder(quantizer), digits.train, steps)
    uniform = posterior.bound(digits.test, num_draws=1).value
    used = posterior.bound(digits.train[:: len(digits.train) // 10_000], num_draws=1).value
    train, test = (_codes(posterior, x) for x in (digits.train, digits.test))
    prior = _fit(_prior, train, steps)
    learned = prior.bound(test).loc["bound"]
    bound = -learned.value + uniform["reconstruction"]
    return {
        "codes in use": f"{used['codes in use']:.0f} of {_VALUES}",
        "perplexity": f"{used['perplexity of codes']:.0f}",
        "reconstruction, nats": f"{uniform['reconstruction']:.1f}",
        "bits per pixel, uniform prior": f"{uniform['bits per dimension']:.4f}",
        "negative bound, learned prior": f"{bound:.2f} +- {learned.se:.2f}",
        "bits per pixel, learned prior": f"{bound / PIXELS / math.log(2):.4f}",
        "seconds": f"{posterior.seconds:.0f}",
        "seconds of the prior": f"{prior.seconds:.0f}",
    }


def _fit(model: Any, rows: np.ndarray, steps: int) -> Any:
    return vijax.fit(
        model,
        rows,
        optimizer=optax.adam(optax.cosine_decay_schedule(_RATE, steps)),
        batch_size=BATCH,
        num_steps=steps,
        progress_bar=False,
    )


def _codes(posterior: Any, x: np.ndarray) -> np.ndarray:
    """The codes of images, `(rows, codes)`, in pieces."""
    pieces = np.array_split(x, -(-len(x) // 5000))
    return np.concatenate([posterior.predict(one, num_draws=1)["codes"][0] for one in pieces])


def _autoencoder(quantizer: Any) -> Any:
    class Autoencoder(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.quantizer = quantizer(rngs)
            width = _CODES * self.quantizer.width
            self.encoder = Network((PIXELS, HIDDEN, HIDDEN, width), rngs)
            self.decoder = Network((width, HIDDEN, HIDDEN, PIXELS), rngs)

        def __call__(self, x: jax.Array) -> tuple[jax.Array, vijax.nn.Codes]:
            found = self.quantizer(self.encoder(x).reshape(len(x), _CODES, -1))
            return self.decoder(found.values.reshape(len(x), -1)), found

    def model(x: jax.Array) -> None:
        network = vijax.nn.network("network", Autoencoder, prior=None)
        with numpyro.plate("images", len(x)):
            logits, found = network(x)
            vijax.nn.discrete_codes("codes", found)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    return model


class Prior(nnx.Module):
    """From codes, some of them masked, to logits of all."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(_CODES * (_VALUES + 1), _MLP, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(_MLP, _MLP, rngs=rngs) for _ in range(2)])
        self.last = nnx.Linear(_MLP, _CODES * _VALUES, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        places = tokens + jnp.arange(_CODES) * (_VALUES + 1)
        h = self.embedding(places).sum(axis=1)
        for layer in self.layers:
            h += layer(jax.nn.silu(h))
        return self.last(jax.nn.silu(h)).reshape(-1, _CODES, _VALUES)


def _prior(codes: jax.Array) -> None:
    network = vijax.nn.network("prior", Prior, prior=None)
    with numpyro.plate("images", len(codes)):
        vijax.nn.masked_diffusion("codes", network, codes, num_values=_VALUES)
