"""Draws in blocks: number of model evaluations, separate evaluation of densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import targets
from vijax.contracts import Variables
from vijax.contracts import kernel as _kernel
from vijax.diagnostics import importance as weights
from vijax.diagnostics import psis
from vijax.guides import Delta, MeanField


def test_a_single_draw_is_evaluated_without_a_block():
    """Comparisons on many batches use one draw of each, and would evaluate a block."""
    problem = targets.problem("normal_mean")
    evaluated = []

    def count(value):
        evaluated.append(float(value))

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


def test_densities_evaluated_separately_are_the_same(monkeypatch):
    problem, guide = targets.problem("regression"), MeanField()  # a guide without draws on the host
    target, batch = problem.target, problem.batch
    params = guide.init(
        jax.random.key(0), target.space, target.space.unravel(jnp.full(target.space.dim, 0.2))
    )

    def draws():
        return weights.draw(target, guide, Variables(params), {}, jax.random.key(1), batch, 70)

    def with_log_p():
        """Whether compiled programs evaluate densities with the draws."""
        return {key[-1] for key in target.programs.compiled if key[0] == weights._draw_block}

    at_once = draws()
    assert with_log_p() == {True}
    monkeypatch.setattr(_kernel, "_COMPILE_THRESHOLD", 1)
    separately = draws()
    assert with_log_p() == {True, False}
    jax.tree.map(np.testing.assert_array_equal, separately.z, at_once.z)
    np.testing.assert_allclose(separately.log_q, at_once.log_q, rtol=1e-6)
    np.testing.assert_allclose(separately.log_p, at_once.log_p, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_equal_weights_have_no_khat(seed):
    """A plateau with a few larger weights, whose spacing is that of a heavy tail."""
    rng = np.random.default_rng(seed)
    log_weights = 1e-4 * rng.normal(size=4000)
    log_weights[:20] += rng.exponential(0.1, 20)
    assert psis.smooth(log_weights)[1] > 1
    found = weights.importance(log_weights)
    assert found.khat == 0
    assert found.ess > 3995
    assert weights.describe_khat(found.khat) == "equal weights"
    unequal = weights.importance(30 * log_weights)
    assert unequal.khat > 1
    assert unequal.ess < 3900
