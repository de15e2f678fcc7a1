"""Logarithms of sums as one contraction, against the array of all products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

from vijax.model.conjugacy.log_sums import LogFactor, log_of_sum
from vijax.model.conjugacy.values import Axis, Index

ROWS, PARTS, COLUMNS, TOKENS = Axis(3), Axis(4), Axis(5), Axis(6)
RNG = np.random.default_rng(0)
ROW, COLUMN = RNG.integers(0, 3, 6), RNG.integers(0, 5, 6)


def table(one, two, weights):
    """`log sum_k w_k exp(one_ik + two_kj)`."""
    factors = [
        LogFactor(one, (ROWS, PARTS)),
        LogFactor(two, (PARTS, COLUMNS)),
        LogFactor(weights, (PARTS,)),
    ]
    return log_of_sum(factors, (ROWS, COLUMNS), frozenset([PARTS]))


def tokens(one, two, weights):
    factors = [
        LogFactor(one, (Index(ROW, (TOKENS,)), PARTS)),
        LogFactor(two, (PARTS, Index(COLUMN, (TOKENS,)))),
        LogFactor(weights, (PARTS,)),
    ]
    return log_of_sum(factors, (TOKENS,), frozenset([PARTS]))


def reference(one, two, weights):
    return logsumexp(one[:, :, None] + two + weights[:, None], axis=1)


@pytest.mark.parametrize("spread", [3.0, 3000.0], ids=["moderate", "beyond floating point"])
def test_values_and_gradients(spread):
    """Also where the terms of a sum are all too small for a floating-point number."""
    with jax.enable_x64(True):
        shapes = (3, 4), (4, 5), (4,)
        arrays = [jnp.asarray(spread * RNG.normal(size=shape)) for shape in shapes]
        weights = jnp.asarray(RNG.normal(size=(3, 5)))
        for function, chosen in ((table, ...), (tokens, (ROW, COLUMN))):

            def total(of, *arrays, chosen=chosen):
                found = of(*arrays)
                part = found if found.ndim == 1 else found[chosen]
                return jnp.sum(weights[chosen] * part)

            numbers = (1, 2, 3)
            found = jax.value_and_grad(total, numbers)(function, *arrays)
            expected = jax.value_and_grad(total, numbers)(reference, *arrays)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12),
                found,
                expected,
            )


def test_elements_that_do_not_matter_may_vanish():
    """No product of matrices is given up for an element that is multiplied by zero."""
    with jax.enable_x64(True):
        one, two = jnp.asarray([[0.0, -2000.0]]), jnp.asarray([[0.0, -2000.0], [-2000.0, 0.0]])
        rows, parts, columns = Axis(1), Axis(2), Axis(2)
        factors = [LogFactor(one, (Index(0, ()), parts)), LogFactor(two, (parts, columns))]
        needed = jnp.asarray([[True, False]])
        found = log_of_sum(factors, (rows, columns), frozenset([parts]), needed)
        assert float(found[0, 0]) == pytest.approx(0.0, abs=1e-12)
        assert bool(jnp.isfinite(found).all())
        everything = log_of_sum(factors, (rows, columns), frozenset([parts]))
        assert float(everything[0, 1]) == pytest.approx(-2000.0 + np.log(2.0))
