"""Posterior collapse and its remedies, on sequences whose statistics come from a latent code.

A symbol depends on the one before and on a code of the sequence. The decoder sees the previous
symbol and the frequencies of all before, which say nearly as much about the code as the latents do:
without remedies it learns to do without them before the encoder has learned to find them.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from numpyro.contrib.module import nnx_module

import vijax
from bench import _report
from vijax.contracts import Variables
from vijax.guides import Amortized
from vijax.objectives import ELBO, FreeBits

SYMBOLS, LENGTH, UNITS, HIDDEN, BATCH = 16, 40, 4, 64, 50
_STEPS, _RATE = 800, 1e-2


def sequences(rows: int, seed: int) -> np.ndarray:
    """Sequences of symbols `(rows, LENGTH)`, of equal statistics given their codes."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    transitions = fixed.normal(size=(SYMBOLS, SYMBOLS))
    loadings = 0.4 * fixed.normal(size=(UNITS, SYMBOLS))
    codes = rng.normal(size=(rows, UNITS)) @ loadings
    x, previous = np.zeros((rows, LENGTH), np.int32), np.zeros(rows, int)
    for t in range(LENGTH):
        logits = transitions[previous] + codes
        previous = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
        x[:, t] = previous
    return x


class Decoder(nnx.Module):
    """Logits of every symbol given those before and the latents."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.seen = nnx.Linear(2 * SYMBOLS, SYMBOLS, rngs=rngs)
        self.hidden = nnx.Linear(2 * SYMBOLS + UNITS, HIDDEN, rngs=rngs)
        self.out = nnx.Linear(HIDDEN, SYMBOLS, rngs=rngs)

    def __call__(self, z: jax.Array, x: jax.Array, weak: bool) -> jax.Array:
        before = jnp.pad(jax.nn.one_hot(x, SYMBOLS), ((0, 0), (1, 0), (0, 0)))[:, :-1]
        count = jnp.arange(LENGTH)[:, None]
        excess = jnp.cumsum(before - (count > 0) / SYMBOLS, axis=1)
        frequencies = 0.0 * excess if weak else 5 * excess / (count + 10)
        seen = jnp.concatenate([before, frequencies], axis=2)
        codes = jnp.broadcast_to(z[:, None], (*x.shape, UNITS))
        hidden = jnp.tanh(self.hidden(jnp.concatenate([seen, codes], axis=2)))
        return self.seen(seen) + self.out(hidden)


class Encoder(nnx.Module):
    """From sequences to locations and log scales."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        sizes = (LENGTH * SYMBOLS, HIDDEN, HIDDEN)
        self.first, self.second = (
            nnx.Linear(*pair, rngs=rngs) for pair in itertools.pairwise(sizes)
        )
        self.out = nnx.Linear(HIDDEN, 2 * UNITS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        flat = jax.nn.one_hot(x, SYMBOLS).reshape(len(x), -1)
        return self.out(jnp.tanh(self.second(jnp.tanh(self.first(flat)))))


class FixedScale(Encoder):
    """An encoder of locations only: all scales are the guide's `init_scale`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        loc, log_scale = jnp.split(super().__call__(x), 2, axis=1)
        return jnp.concatenate([loc, jnp.zeros_like(log_scale)], axis=1)


def model(x: jax.Array, weak: bool = False) -> None:
    decoder = nnx_module("decoder", Decoder(nnx.Rngs(0)))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([UNITS]).to_event(1))
        numpyro.sample("x", dist.Categorical(logits=decoder(z, x, weak)).to_event(1), obs=x)


def _adam(steps: int, rate: float = _RATE) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _aggressive(steps: int) -> optax.GradientTransformation:
    """The decoder takes every tenth step in the first half, the encoder all."""
    half = steps // 2
    rare = optax.conditionally_mask(
        _adam(steps - half + half // 10), lambda step: (step % 10 == 0) | (step >= half)
    )
    return _by_part(_adam(steps), rare)


def _by_part(
    encoder: optax.GradientTransformation, decoder: optax.GradientTransformation
) -> optax.GradientTransformation:
    parts = {"encoder": encoder, "decoder": decoder}
    return optax.multi_transform(parts, Variables("encoder", "decoder"))


def remedies(steps: int) -> dict[str, dict[str, Any]]:
    """Options of the fits by name."""
    ramp = optax.linear_schedule(0.0, 1.0, steps // 2)
    slow = _by_part(_adam(steps), _adam(steps, _RATE / 10))
    return {
        "none": {},
        "annealing": {"objective": ELBO(beta=ramp)},
        "free bits, 3 nats": {"objective": FreeBits(3.0)},
        "fixed scale 0.4": {"guide": Amortized(FixedScale, "x", init_scale=0.4)},
        "aggressive encoder": {"optimizer": _aggressive(steps)},
        "rate of the decoder / 10": {"optimizer": slow},
        "weaker decoder": {"weak": True},
    }


def collapse(options: argparse.Namespace) -> list[dict[str, Any]]:
    steps = round(_STEPS * options.length)
    x, new = sequences(2000, 0), sequences(1000, 1)
    rows = []
    for name, kind in remedies(steps).items():
        rows.append({"remedy": name} | _measured(x, new, steps, kind))
        print(rows[-1], flush=True)
    return rows


def _measured(x: np.ndarray, new: np.ndarray, steps: int, kind: dict[str, Any]) -> dict[str, Any]:
    start = time.process_time()
    defaults = {"guide": Amortized(Encoder, "x"), "optimizer": _adam(steps)}
    posterior = vijax.fit(
        model, x, batch_size=BATCH, num_steps=steps, progress_bar=False, **(defaults | kind)
    )
    seconds = time.process_time() - start
    weak = {"weak": kind.get("weak", False)}
    used = posterior.latents(new, **weak)
    found = posterior.log_evidence_rows(new, num_draws=16, **weak)
    return {
        "information": f"{used.information:.2f}",
        "divergence": f"{used.divergence:.2f}",
        "active": f"{used.active} of {UNITS}",
        "bound": _report.mean_with_error(found.bounds),
        "seconds": f"{seconds:.0f}",
    }
