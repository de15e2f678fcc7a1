"""Subsampled plates: unbiased by enumeration, and free of NumPyro's permutation of all indices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from tests.model.zoo import CASES, X, Y
from vijax.contracts import Batch
from vijax.model import build, split


def full(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", 6):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def by_subsample(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", 6, subsample_size=2), handlers.scale(scale=1.0):
        x, y = numpyro.subsample(x, event_dim=1), numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def two_plates(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", 6, subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(x[rows] @ w, 1.0), obs=y[rows])
    with numpyro.plate("m", 3, subsample_size=1) as rows:
        numpyro.factor("more", -(w[0] ** 2) * jnp.arange(3.0)[rows])


def in_scan(x, y):
    def step(carry, xs):
        x, y = xs
        w = numpyro.sample("w", dist.Normal())
        with numpyro.plate("n", 6, subsample_size=2) as rows:
            numpyro.sample("y", dist.Normal(x[rows] * w, 1.0), obs=y[rows])
        return carry, None

    scan(step, jnp.array(0.0), (x.T, jnp.stack([y, y])))


def in_scan_full(x, y):
    def step(carry, xs):
        x, y = xs
        w = numpyro.sample("w", dist.Normal())
        with numpyro.plate("n", 6):
            numpyro.sample("y", dist.Normal(x * w, 1.0), obs=y)
        return carry, None

    scan(step, jnp.array(0.0), (x.T, jnp.stack([y, y])))


def target_of(model):
    arguments, data = split(model, (X, Y), {})
    return build(model, arguments), Batch(data)


POINT = {"w": jnp.array([0.3, -0.8])}


@pytest.mark.parametrize(
    ("model", "whole"),
    [
        (CASES["subsampled"].model, full),
        (by_subsample, full),
        (in_scan, in_scan_full),
    ],
)
def test_the_average_over_all_batches_is_the_full_log_density(model, whole):
    target, batch = target_of(model)
    sets = np.array(list(itertools.combinations(range(6), 2)))
    values = jax.jit(
        jax.vmap(lambda rows: target.log_density(POINT, batch._replace(index={"n": rows})))
    )(sets)
    exact_target, exact_batch = target_of(whole)
    exact = exact_target.log_density(POINT, exact_batch)
    np.testing.assert_allclose(values.mean(), exact, rtol=1e-5)
    assert np.std(values) > 0.1


def test_two_plates_are_subsampled_independently():
    target, batch = target_of(two_plates)
    pairs = list(itertools.combinations(range(6), 2))
    rows = np.array([[*pair, one] for pair in pairs for one in range(3)])
    values = jax.jit(
        jax.vmap(
            lambda r: target.log_density(POINT, batch._replace(index={"n": r[:2], "m": r[2:]}))
        )
    )(rows)
    exact_target, exact_batch = target_of(full)
    exact = exact_target.log_density(POINT, exact_batch) - POINT["w"][0] ** 2 * 3.0
    np.testing.assert_allclose(values.mean(), exact, rtol=1e-5)


@pytest.mark.parametrize("model", [CASES["subsampled"].model, by_subsample, in_scan])
def test_without_an_index_all_rows_are_used(model):
    target, batch = target_of(model)
    whole = in_scan_full if model is in_scan else full
    exact_target, exact_batch = target_of(whole)
    np.testing.assert_allclose(
        target.log_density(POINT, batch), exact_target.log_density(POINT, exact_batch), rtol=1e-5
    )
    assert target.subsampling.plates["n"].size == 6
    assert target.subsampling.plates["n"].subsample_size == 2


def test_data_that_are_one_minibatch_are_used_unchanged():
    case = CASES["one_batch_of_rows"]
    arguments, data = split(case.model, case.args, {})
    target = build(case.model, arguments)
    w = POINT["w"]
    expected = dist.Normal().log_prob(w).sum() + 3 * dist.Normal(X[:2] @ w, 1).log_prob(Y[:2]).sum()
    np.testing.assert_allclose(target.log_density(POINT, Batch(data)), expected, rtol=1e-5)


@pytest.mark.parametrize("index", [{}, {"n": np.array([4, 1])}])
@pytest.mark.parametrize("model", [CASES["subsampled"].model, by_subsample, in_scan])
def test_rows_are_never_permuted(model, index):
    target, batch = target_of(model)
    jaxpr = jax.make_jaxpr(target.log_density)(POINT, batch._replace(index=index))
    found = set(primitives(jaxpr.jaxpr))
    assert not found & {"sort", "shuffle", "random_bits", "threefry2x32", "while"}, found


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner)
