"""flowjax: a masked autoregressive flow, fitted by flowjax's training loop."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import initialize_model

from bench.posteriors.answer import Answer, Skipped
from bench.posteriors.case import Case

_DRAWS = 4000
_BLOCK = 500  # draws evaluated at once


class Fit(NamedTuple):
    """A flow, the log density it was fitted to, and the map to constrained values."""

    flow: Any
    log_density: Callable[[jax.Array], jax.Array]
    constrain: Callable[[jax.Array], Any]
    dim: int


def run(case: Case, method: str, seed: int) -> Answer:
    """2,000 steps of 32 draws, Adam 5e-3."""
    fitted = optimize(case.model, case.args, seed=seed)
    z = fitted.flow.sample(jax.random.key(seed + 2), (_DRAWS,))
    return Answer(jax.device_get(jax.jit(jax.vmap(fitted.constrain))(z)), fitted.dim)


def optimize(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    steps: int = 2000,
    rate: float = 5e-3,
    particles: int = 32,
    seed: int = 0,
) -> Fit:
    """Fits the log density over unconstrained latents that NumPyro computes from the model.

    Raises:
        Skipped: flowjax is not installed.
    """
    if not importlib.util.find_spec("flowjax"):
        raise Skipped("flowjax is not installed")
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow
    from flowjax.train import fit_to_key_based_loss
    from flowjax.train.losses import ElboLoss

    first, second = jax.random.key(seed), jax.random.key(seed + 1)
    initialized = initialize_model(first, model, model_args=args, validate_grad=False)
    start, unravel = ravel_pytree(initialized.param_info.z)

    def log_density(z: jax.Array) -> jax.Array:
        return -initialized.potential_fn(unravel(z))

    def constrain(z: jax.Array) -> Any:
        return initialized.postprocess_fn(unravel(z))

    base = Normal(jnp.zeros(start.size))
    # `invert=False`: sampling takes one pass
    flow = masked_autoregressive_flow(first, base_dist=base, invert=False)
    loss = ElboLoss(log_density, particles)
    flow, _ = fit_to_key_based_loss(
        second, flow, loss_fn=loss, steps=steps, learning_rate=rate, show_progress=False
    )
    jax.block_until_ready(jax.tree.leaves(flow))
    return Fit(flow, log_density, constrain, start.size)


def log_weights(fitted: Fit, key: jax.Array, num_draws: int) -> np.ndarray:
    """`log p - log q` of fresh draws, `(num_draws,)`."""
    z, log_q = fitted.flow.sample_and_log_prob(key, (num_draws,))
    log_p = jax.jit(lambda z: jax.lax.map(fitted.log_density, z, batch_size=_BLOCK))(z)
    return np.asarray(log_p, np.float64) - np.asarray(log_q, np.float64)
