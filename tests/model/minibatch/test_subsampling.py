"""`batch_size`: minibatches of models that are written for all rows."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from vijax import ModelError
from vijax.contracts import Batch
from vijax.model import batch_request, build, check_batches, split

N = 6
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 2)).astype(np.float32)
Y = rng.normal(size=N).astype(np.float32)
RATINGS = rng.normal(size=(4, 3)).astype(np.float32)


def by_shape(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def by_number(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", N):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def by_index(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", N) as rows:
        numpyro.sample("y", dist.Normal(x[rows] @ w, 1.0), obs=y[rows])


def columns(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(w @ x.T, 1.0), obs=y)


def with_a_factor(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", len(y)), numpyro.handlers.scale(scale=0.5):
        numpyro.factor("y", -0.5 * (y - x @ w) ** 2)


def local(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", x.shape[0]):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def in_scan(x, y):
    def step(carry, column):
        w = numpyro.sample("w", dist.Normal())
        with numpyro.plate("n", y.shape[0]):
            e = numpyro.sample("e", dist.Normal(0.0, 2.0))
            numpyro.sample("y", dist.Normal(column * w + e, 1.0), obs=y)
        return carry, None

    scan(step, jnp.array(0.0), x.T)


def crossed(ratings):
    mu = numpyro.sample("mu", dist.Normal())
    with numpyro.plate("users", ratings.shape[0], dim=-2):
        u = numpyro.sample("u", dist.Normal())
        with numpyro.plate("items", ratings.shape[1], dim=-1):
            numpyro.sample("r", dist.Normal(mu + u, 1.0), obs=ratings)


def target_of(model, args, size, axes=None):
    arguments, data = split(model, args, {})
    return build(model, arguments, batch_request(size, axes)), Batch(data)


def position(target):
    draws = np.random.default_rng(1)
    sites = target.space.sites
    return {site.name: jnp.asarray(draws.normal(size=site.z_shape), float) for site in sites}


def take_rows(target, z, index):
    """The position of a minibatch, with the local latent variables of its rows."""
    out = {}
    for site in target.space.sites:
        value = z[site.name]
        for plate, axis in site.axes(index).pairs:
            value = np.take(np.asarray(value), index[plate], axis)
        out[site.name] = jnp.asarray(value)
    return out


@pytest.mark.parametrize(
    "model", [by_shape, by_number, by_index, columns, with_a_factor, local, in_scan]
)
def test_the_average_over_all_batches_is_the_full_log_density(model):
    target, batch = target_of(model, (X, Y), 2)
    z = position(target)
    whole = build(model, split(model, (X, Y), {})[0]).log_density(z, batch)
    sets = np.array(list(itertools.combinations(range(N), 2)))
    density = jax.jit(lambda z, rows: target.log_density(z, batch._replace(index={"n": rows})))
    values = [density(take_rows(target, z, {"n": rows}), rows) for rows in sets]
    np.testing.assert_allclose(np.mean(values), whole, rtol=1e-5)
    assert np.std(values) > 0.1
    np.testing.assert_allclose(target.log_density(z, batch), whole, rtol=1e-6)  # no index: all
    check_batches(target, batch, {}, {})


def test_two_nested_plates_are_subsampled_independently():
    target, batch = target_of(crossed, (RATINGS,), {"users": 2, "items": 1})
    z = position(target)
    whole = build(crossed, split(crossed, (RATINGS,), {})[0]).log_density(z, batch)
    density = jax.jit(lambda z, index: target.log_density(z, batch._replace(index=index)))
    values = []
    for users in itertools.combinations(range(4), 2):
        for item in range(3):
            index = {"users": np.array(users), "items": np.array([item])}
            values.append(density(take_rows(target, z, index), index))
    np.testing.assert_allclose(np.mean(values), whole, rtol=1e-5)
    check_batches(target, batch, {}, {})


def test_equal_requests_share_a_target_and_a_size_of_all_rows_subsamples_nothing():
    assert target_of(by_shape, (X, Y), 2)[0] is target_of(by_shape, (X, Y), 2)[0]
    assert target_of(by_shape, (X, Y), 2)[0] is not target_of(by_shape, (X, Y), 3)[0]
    assert target_of(by_shape, (X, Y), 6)[0].subsampled == {}
    assert target_of(by_shape, (X, Y), 2)[0].subsampled == {"n": 2}


def standardized(x, y):
    by_shape((x - x.mean(0)) / x.std(0), y)


def divided_by_length(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1 / x.shape[0]).to_event(1))
    with numpyro.plate("n", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def half_outside(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", x.shape[0]):
        numpyro.sample("x", dist.Normal(x[:, 0], 1.0), obs=x[:, 1])
    numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def as_an_event(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", x.shape[0]):
        numpyro.sample("x", dist.Normal(x[:, 0], 1.0), obs=x[:, 1])
    numpyro.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "site"),
    [(standardized, "y"), (divided_by_length, "w"), (half_outside, "y"), (as_an_event, "y")],
)
def test_a_model_with_dependent_rows_is_refused(model, site):
    target, batch = target_of(model, (X, Y), 2)
    with pytest.raises(ModelError, match=f"site '{site}': .*other rows"):
        check_batches(target, batch, {}, {})


def indexed(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", N, subsample_size=3) as rows:
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x[rows] @ w + u, 1.0), obs=numpyro.subsample(y, 0))


def not_indexed(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", N, subsample_size=3):
        numpyro.sample("y", dist.Normal(x[:3] @ w, 1.0), obs=y[:3])


def half_indexed(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", N, subsample_size=3) as rows:
        numpyro.sample("y", dist.Normal(x[rows] @ w, 1.0), obs=y[:3])


def standardized_minibatch(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", N, subsample_size=3) as rows:
        some = x[rows] - x[rows].mean(0)
        numpyro.sample("y", dist.Normal(some @ w, 1.0), obs=y[rows])


def outside_the_plate(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", N, subsample_size=3) as rows:
        numpyro.sample("x", dist.Normal(x[rows, 0], 1.0), obs=x[rows, 1])
    numpyro.sample("y", dist.Normal(x[rows] @ w, 1.0).to_event(1), obs=y[rows])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (not_indexed, r"plate 'n': expected arrays to be indexed by its 3 of 6 rows.*'x' has all"),
        (half_indexed, "site 'y': .*other rows"),
        (standardized_minibatch, "site 'y': .*other rows"),
        (outside_the_plate, "site 'y': .*other rows.*outside plate 'n'"),
    ],
)
def test_a_subsampling_model_with_wrong_rows_is_refused(model, message):
    with pytest.raises(ModelError, match=message):
        vijax.fit(model, X, Y, progress_bar=False)


def test_a_subsampling_model_that_indexes_its_arrays_is_accepted():
    arguments, data = split(indexed, (X, Y), {})
    check_batches(build(indexed, arguments), Batch(data), {}, {})
    one_batch = (X[:3], Y[:3])  # as from a data loader
    arguments, data = split(not_indexed, one_batch, {})
    check_batches(build(not_indexed, arguments), Batch(data), {}, {})


def noisy(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    kept = jax.random.bernoulli(numpyro.prng_key(), 0.5, (2,))  # dropout
    with numpyro.plate("n", x.shape[0]):
        noise = jax.random.normal(numpyro.prng_key(), (x.shape[0],))
        numpyro.sample("y", dist.Normal((x * kept) @ w + noise, 1.0), obs=y)


def test_a_random_model_is_accepted():
    target, batch = target_of(noisy, (X, Y), 2)
    check_batches(target, batch, {}, {})


def no_plate(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def random_walk(x, y):
    def step(before, y):
        now = numpyro.sample("z", dist.Normal(before, 1.0))
        numpyro.sample("y", dist.Normal(now, 1.0), obs=y)
        return now, None

    scan(step, 0.0, y)


SQUARE = rng.normal(size=(N, N)).astype(np.float32)


def square(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(N), 1.0).to_event(1))
    with numpyro.plate("n", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "args", "options", "message"),
    [
        (no_plate, (X, Y), (2,), r"a plate around the observed sites \['y'\]"),
        (random_walk, (X, Y), (2,), r"the steps of a scan.*Leave batch_size out"),
        (
            crossed,
            (RATINGS,),
            (2,),
            r"expected one plate around the data, got \['users', 'items'\]",
        ),
        (by_shape, (X, Y), ({"rows": 2},), r"plates among \['n'\], got 'rows'"),
        (square, (SQUARE, Y), (2,), r"argument 'x': .*batch_axes=\{'x': 0\}"),
        (by_shape, (X, Y), (2, {"z": 0}), r"arrays among \['x', 'y'\], got 'z'"),
        (by_shape, (X, Y), (2, {"x": 1}), "an axis of length 6, got 1 of"),
        (by_shape, (X, Y), (2, {"x": None}), "site 'y'"),
        (by_shape, (X, Y), (2, {"x": {"m": 0}}), r"plates among \['n'\], got 'm'"),
    ],
)
def test_invalid_requests_are_refused(model, args, options, message):
    with pytest.raises(ModelError, match=message):
        target_of(model, args, *options)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "all", {"n": 0}])
def test_sizes_are_positive_whole_numbers(size):
    with pytest.raises(ValueError, match=r"batch_size.*expected a positive number of rows"):
        batch_request(size, None)


def test_axes_can_be_given():
    target, batch = target_of(square, (SQUARE, Y), 2, {"x": 0})
    check_batches(target, batch, {}, {})
