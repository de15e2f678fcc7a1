"""The autoencoder by NumPyro's SVI, in a loop by hand: every pass over the rows is compiled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from jax import lax
from numpyro.contrib.module import nnx_module
from numpyro.infer import SVI, Trace_ELBO

from bench.generation.images import HIDDEN, PIXELS, UNITS, Network, autoencoder, encoder


def fit(
    train: np.ndarray, batch_size: int, steps: int, optimizer: optax.GradientTransformation
) -> dict[str, Any]:
    """The parameters of both networks."""
    svi = SVI(autoencoder, _guide, optimizer, Trace_ELBO())
    state = svi.init(jax.random.key(0), train[:batch_size])
    by_pass, images, rng = len(train) // batch_size, jnp.asarray(train), np.random.default_rng(0)

    @jax.jit
    def several(state: Any, images: jax.Array, rows: jax.Array) -> Any:
        return lax.scan(lambda now, index: svi.update(now, images[index]), state, rows)

    for first in range(0, steps, by_pass):
        rows = rng.permutation(len(train))[: by_pass * batch_size].reshape(by_pass, batch_size)
        state, _ = several(state, images, jnp.asarray(rows[: steps - first]))
    params: dict[str, Any] = jax.block_until_ready(svi.get_params(state))
    return params


def _guide(x: jax.Array) -> None:
    network = nnx_module("encoder", encoder(nnx.Rngs(1)))
    with numpyro.plate("images", x.shape[0]):
        loc, log_scale = jnp.split(network(x), 2, axis=1)
        numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


def log_weights(params: dict[str, Any], test: np.ndarray, num_draws: int) -> np.ndarray:
    """`log p(x_i, z_ik) - log q(z_ik | x_i)`, `(num_draws, rows)`."""
    decoder = _network((UNITS, HIDDEN, HIDDEN, PIXELS), params["decoder$params"])
    outputs = _network((PIXELS, HIDDEN, HIDDEN, 2 * UNITS), params["encoder$params"])(test)
    loc, log_scale = jnp.split(outputs, 2, axis=1)
    q, prior = dist.Normal(loc, jnp.exp(log_scale)), dist.Normal(0.0, 1.0)

    def one(key: jax.Array) -> jax.Array:
        z = q.sample(key)
        likelihood = dist.Bernoulli(logits=decoder(z)).log_prob(test).sum(axis=1)
        return likelihood + (prior.log_prob(z) - q.log_prob(z)).sum(axis=1)

    keys = jax.random.split(jax.random.key(2), num_draws)
    return np.asarray(jax.jit(lambda keys: lax.map(one, keys))(keys), float)


def _network(sizes: tuple[int, ...], params: Any) -> Network:
    structure, state = nnx.split(Network(sizes, nnx.Rngs(0)))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(structure, state)
