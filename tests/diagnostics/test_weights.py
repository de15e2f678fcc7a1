"""Draws in blocks: how many the model is evaluated at."""

import jax
import jax.numpy as jnp

from tests import targets
from vijax._contracts import Variables
from vijax.diagnostics import weights
from vijax.guides import Delta


def test_one_draw_is_evaluated_alone():
    """Comparisons on many batches ask for one draw of each, and would pay for a block."""
    problem = targets.problem("normal_mean")
    evaluated = []

    def count(number):
        evaluated.append(float(number))

    params = Delta().init(jax.random.key(0), problem.target.space, {"mu": jnp.array(0.3)})

    class Counted(Delta):
        def draw(self, params, space, key, batch):
            jax.debug.callback(count, jax.random.uniform(key))
            return super().draw(params, space, key, batch)

    state = (Variables(params), {}, jax.random.key(1), problem.batch)
    drawn = weights.draw(problem.target, Counted(), *state, 1)
    jax.effects_barrier()
    assert drawn.log_p.shape == (1,)
    assert len(evaluated) == 1
