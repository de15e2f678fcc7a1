"""Sums over blocks of rows equal one evaluation on the full data, the prior counted once."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from vijax.contracts import Batch, Blocks, RowSource
from vijax.contracts.kernel import Kernel
from vijax.data import arrays
from vijax.engine import all_rows as _all_rows
from vijax.model import batch_request, build_marginalized, split

ROWS, DIM, BLOCK = 1000, 5, 64
rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, DIM)).astype(np.float32)
Y = (X[:, 0] + rng.normal(size=ROWS)).astype(np.float32)


def regression(x, y, known=0.3):
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 0.7).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    numpyro.sample("known", dist.Normal(beta[0], 1.0), obs=known)  # outside the plate
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.StudentT(4.0, x @ beta, sigma), obs=y)


class RecordingSource(RowSource):
    """An array that records the rows read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.read = []

    def take(self, rows):
        self.read.append(rows)
        return self.array[rows]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_all_rows, "_BLOCK_ELEMENTS", BLOCK * 16)
    monkeypatch.setattr(arrays, "_MAX_IN_MEMORY", 0)


def kernels(model, *args, sources, batch_size=50):
    """The kernel with all arrays in memory, and the one with some as sources."""
    arguments, known = split(model, args, {})
    target = build_marginalized(model, arguments, batch_request(batch_size, None), frozenset())
    in_memory = {name: value for name, value in known.items() if name not in sources}
    rows = _all_rows.all_rows(target, Batch(in_memory), sources)
    return Kernel(target, Batch(known)), Kernel(target, rows), rows


@pytest.mark.parametrize("rows", [64, 640, 997])  # one block, ten, and a prime number of rows
def test_value_gradient_and_hessian_equal_those_of_the_full_data(small_blocks, rows):
    x = RecordingSource(X[:rows])
    whole, summed, blocks = kernels(regression, X[:rows], Y[:rows], sources={"x": x})
    assert isinstance(blocks, Blocks)
    points = 0.3 * rng.normal(size=(20, DIM + 1))  # two blocks of points
    for one, other in zip(whole(points), summed(points), strict=True):
        np.testing.assert_allclose(other, one, rtol=3e-6, atol=3e-6 * np.abs(one).max())
    np.testing.assert_array_equal(np.concatenate(x.read), np.arange(rows))  # once, in order
    assert summed.num_elements == whole.num_elements
    if rows != 997:
        return
    hessian = whole.hessian(points[0])
    np.testing.assert_allclose(
        summed.hessian(points[0]), hessian, atol=1e-5 * np.abs(hessian).max()
    )
    vectors = rng.normal(size=(3, DIM + 1))
    pairs = whole.paired_products(points[:3], vectors)
    np.testing.assert_allclose(
        summed.paired_products(points[:3], vectors), pairs, atol=1e-5 * np.abs(pairs).max()
    )
    programs = whole.target.programs.compiled.values()
    assert all(
        one._cache_size() == 2 for one in programs
    )  # one for the full data, one for all blocks


@pytest.mark.parametrize("y_axis", [0, 1])
def test_large_arrays_in_memory_are_evaluated_in_blocks(small_blocks, y_axis):
    def turned(x, y):
        regression(x, y if y_axis == 0 else y[0])

    y = Y[:997] if y_axis == 0 else Y[None, :997]  # subsampled inside the program
    whole, summed, blocks = kernels(turned, X[:997], y, sources={})
    assert isinstance(blocks, Blocks)
    assert summed.num_elements == whole.num_elements
    points = 0.3 * rng.normal(size=(20, DIM + 1))
    for one, other in zip(whole(points), summed(points), strict=True):
        np.testing.assert_allclose(other, one, rtol=3e-6, atol=3e-6 * np.abs(one).max())
    _, _, few = kernels(turned, X[:60], y[..., :60], sources={})  # a single block
    assert isinstance(few, Batch)


def test_other_plates_are_used_in_full(small_blocks):
    def crossed(x, z, y):
        beta = numpyro.sample("beta", dist.Normal(jnp.zeros(DIM), 1.0).to_event(1))
        users = numpyro.plate("users", x.shape[0], dim=-2)
        with users, numpyro.plate("items", len(z), dim=-1):
            numpyro.sample("y", dist.Normal((x @ beta)[:, None] * z, 1.0), obs=y)
        with users:
            numpyro.sample("level", dist.Normal((x @ beta)[:, None], 2.0), obs=x[:, :1])

    x, z = X[:101], rng.normal(size=7).astype(np.float32)
    y = rng.normal(size=(101, 7)).astype(np.float32)
    batch_size = {"users": 20, "items": 3}
    whole, summed, blocks = kernels(
        crossed, x, z, y, sources={"x": RecordingSource(x)}, batch_size=batch_size
    )
    assert (blocks.plate.name, blocks.plate.subsample_size) == ("users", 51)
    points = 0.3 * rng.normal(size=(4, DIM))
    for one, other in zip(whole(points), summed(points), strict=True):
        np.testing.assert_allclose(other, one, rtol=3e-6, atol=3e-6 * np.abs(one).max())


def test_a_row_of_zero_density_makes_the_sum_minus_infinity(small_blocks):
    def bounded(x, y):
        scale = numpyro.sample("scale", dist.HalfNormal(5.0))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Uniform(0.0, scale + x), obs=y)

    x, y = np.zeros(100, np.float32), np.full(100, 0.5, np.float32)
    for position in (3, 99):  # also where padding copies of the row are subtracted
        high = np.where(np.arange(100) == position, 2.0, y).astype(np.float32)
        whole, summed, _ = kernels(bounded, x, high, sources={"y": RecordingSource(high)})
        points = np.log([[0.4], [1.0], [3.0]])
        expected = whole.log_density(points)
        np.testing.assert_array_equal(np.isfinite(expected), [False, False, True])
        np.testing.assert_allclose(summed.log_density(points), expected, rtol=1e-6)


def test_no_blocks_if_the_log_density_is_not_a_sum_over_rows(small_blocks):
    def mixture(x, y, inside):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        if not inside:
            k = numpyro.sample("k", dist.Categorical(jnp.array([0.5, 0.5])))
        with numpyro.plate("rows", x.shape[0]):
            if inside:
                k = numpyro.sample("k", dist.Categorical(jnp.array([0.5, 0.5])))
            numpyro.sample("y", dist.Normal(mu[k] + x, 1.0), obs=y)

    def local_latents(x, y):
        with numpyro.plate("rows", x.shape[0]):
            shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(x + shift, 1.0), obs=y)

    x = RecordingSource(X[:, 0])
    points = rng.normal(size=(3, 2))
    whole, summed, _ = kernels(mixture, X[:, 0], Y, True, sources={"x": x})
    np.testing.assert_allclose(summed(points)[1], whole(points)[1], rtol=1e-3, atol=1e-3)
    for model, args in ((mixture, (X[:, 0], Y, False)), (local_latents, (X[:, 0], Y))):
        arguments, known = split(model, args, {})
        target = build_marginalized(model, arguments, batch_request(50, None), frozenset())
        assert _all_rows.all_rows(target, Batch({"y": known["y"]}), {"x": x}) is None
        assert _all_rows.all_rows(target, Batch(known), {}) == Batch(known)


def test_without_subsampling_the_batch_is_the_full_data(small_blocks):
    arguments, known = split(regression, (X, Y), {})
    target = build_marginalized(regression, arguments, None, frozenset())
    assert _all_rows.all_rows(target, Batch(known), {}) == Batch(known)
