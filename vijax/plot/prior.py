"""Prior draws of a fit's model."""

from __future__ import annotations

import jax
import numpy as np

from vijax import Posterior
from vijax.model import predictor


def prior_draws(posterior: Posterior, key: jax.Array, num_draws: int) -> dict[str, np.ndarray]:
    """Prior draws of all latents and deterministics, at the arguments of the fit."""
    args, kwargs = posterior._result.arguments.join(posterior._result.batch.data)
    program, batch, _ = predictor(posterior._result.model, args, kwargs, posterior._result.target)
    keys = jax.random.split(key, num_draws)
    return jax.device_get(
        program(keys, {}, batch, posterior._result.variables.model, posterior._result.mutable)
    )
