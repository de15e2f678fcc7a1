"""Messages on a scale of probabilities against those of logarithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vijax.model.discrete.forward_backward import Chain, backward_messages
from vijax.model.discrete.scaled_messages import first_message

STEPS, STATES = 7, 3


@pytest.mark.parametrize(
    ("steps", "rows", "chains"), [(1, 1, 1), (1, 1, 4), (1, 4, 4), (STEPS, 1, 4), (STEPS, 4, 4)]
)
def test_messages_and_their_gradient(steps, rows, chains):
    """One matrix, or others in each step or chain; some transitions are impossible."""
    rng = np.random.default_rng(steps + rows)
    with jax.enable_x64(True):
        matrices = 3 * rng.normal(size=(steps, STATES, STATES, rows))
        matrices[:, 0, 2] = -np.inf
        local = jnp.asarray(50 * rng.normal(size=(STEPS, STATES, chains)))
        weights = jnp.asarray(rng.normal(size=(STATES, chains)))

        def logarithms(matrices, local):
            whole = matrices + local[:, None]
            return backward_messages(Chain(whole, (STATES,), ("rows",)))[0]

        def value(function):
            def weighted(matrices, local):
                found = function(matrices, local)
                return jnp.sum(weights * found), found

            return jax.jit(jax.grad(weighted, (0, 1), has_aux=True))

        found, expected = (value(f)(matrices, local) for f in (first_message, logarithms))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected
    )
