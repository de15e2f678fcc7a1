"""BlackJAX: Pathfinder, one path with its default settings, and mean-field VI."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import optax
from numpyro.infer.util import initialize_model

from bench.posteriors.answer import Answer, Skipped
from bench.posteriors.case import Case

_DRAWS = 4000
_STEPS, _RATE = 5000, 1e-2  # of mean-field, as for NumPyro

if importlib.util.find_spec("blackjax"):
    from blackjax.vi import meanfield_vi
    from blackjax.vi import pathfinder as pathfinder_vi
else:
    meanfield_vi = pathfinder_vi = None


def run(case: Case, method: str, seed: int) -> Answer:
    if pathfinder_vi is None:
        raise Skipped("blackjax is not installed")
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    model = initialize_model(first, case.model, model_args=case.args, validate_grad=False)
    z = {"pathfinder": pathfinder, "meanfield": meanfield}[method](model, second, third)
    draws = jax.device_get(jax.jit(jax.vmap(model.postprocess_fn))(z))
    return Answer(draws, sum(int(value.size) for value in model.param_info.z.values()))


def pathfinder(model: Any, fit: jax.Array, draw: jax.Array) -> Any:
    """Unconstrained draws of one path."""
    potential = model.potential_fn

    @jax.jit
    def solve(key, start):
        state, _ = pathfinder_vi.approximate(key, lambda z: -potential(z), start)
        return state

    z, _ = pathfinder_vi.sample(draw, solve(fit, model.param_info.z), _DRAWS)
    return z


def meanfield(model: Any, fit: jax.Array, draw: jax.Array) -> Any:
    """Unconstrained draws after 5,000 steps of Adam 1e-2 with one draw per step."""
    optimizer, potential = optax.adam(_RATE), model.potential_fn

    @jax.jit
    def solve(key, start):
        def step(state, t):
            key_t = jax.random.fold_in(key, t)
            density = lambda z: -potential(z)  # noqa: E731
            return meanfield_vi.step(key_t, state, density, optimizer, num_samples=1)[0], None

        initial = meanfield_vi.init(start, optimizer)
        return jax.lax.scan(step, initial, jnp.arange(_STEPS))[0]

    return meanfield_vi.sample(draw, solve(fit, model.param_info.z), _DRAWS)
