"""BlackJAX's Pathfinder, one path with its default settings."""

from __future__ import annotations

import importlib.util

import jax
from numpyro.infer.util import initialize_model

from bench.posteriors.answer import Answer, Skipped
from bench.posteriors.case import Case

_DRAWS = 4000

if importlib.util.find_spec("blackjax"):
    from blackjax.vi import pathfinder
else:
    pathfinder = None


def run(case: Case, _: str, seed: int) -> Answer:
    if pathfinder is None:
        raise Skipped("blackjax is not installed")
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    model = initialize_model(first, case.model, model_args=case.args, validate_grad=False)
    potential = model.potential_fn

    @jax.jit
    def solve(key, start):
        state, _ = pathfinder.approximate(key, lambda z: -potential(z), start)
        return state

    start = model.param_info.z
    state = solve(second, start)
    z, _ = pathfinder.sample(third, state, _DRAWS)
    draws = jax.device_get(jax.jit(jax.vmap(model.postprocess_fn))(z))
    return Answer(draws, sum(int(value.size) for value in start.values()))
