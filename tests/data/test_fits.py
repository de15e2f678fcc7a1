"""Fits of rows that are read in batches equal those of arrays in memory, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from vijax import ModelError, data
from vijax.data.arrays import SparseRows

ROWS, COLUMNS, BATCH = 320_000, 20, 64  # too large to be read into memory
WEIGHTS = np.linspace(-1.0, 1.0, COLUMNS)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    y = (x @ WEIGHTS + rng.normal(size=ROWS)).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, x)
    return x, y, path


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.deterministic("fitted", x @ w)
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def local_shifts(x, y):
    with numpyro.plate("rows", x.shape[0]):
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x.sum(-1) + shift, 1.0), obs=y)


def fit(model, *args, num_steps=700, batch_size=BATCH, **options):
    return vijax.fit(
        model,
        *args,
        batch_size=batch_size,
        optimizer=optax.adam(0.02),
        num_steps=num_steps,
        progress_bar=False,
        **options,
    )


def assert_same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)


@pytest.fixture(scope="module")
def in_memory(arrays):
    x, y, _ = arrays
    return fit(regression, x, y, guide="meanfield")


@pytest.mark.slow
def test_a_memory_map_gives_the_same_fit_and_stays_on_disk(arrays, in_memory):
    _, y, path = arrays
    mapped = fit(regression, np.load(path, mmap_mode="r"), y, guide="meanfield")
    assert_same(mapped._result.run.loop, in_memory._result.run.loop)
    assert_same(mapped._result.variables, in_memory._result.variables)
    np.testing.assert_array_equal(mapped.losses, in_memory.losses)
    assert mapped.elbo == pytest.approx(in_memory.elbo, rel=1e-5)
    assert max(a.size for a in jax.live_arrays()) <= max(x.size for x in arrays[:2])
    # latent sites and predictions need no row on disk
    assert set(mapped.sample(10)) == {"w"}
    np.testing.assert_allclose(mapped.sample(500)["w"].mean(0), WEIGHTS, atol=0.05)
    assert mapped.predict(arrays[0][:7], arrays[1][:7], num_draws=5)["y"].shape == (5, 7)
    for method in (mapped.predict, mapped.nuts):
        with pytest.raises(ModelError, match="'x' is read batch by batch"):
            method()
    # sums over rows are computed in blocks
    one, other = (fit.log_evidence("elbo", rng_key=1, num_draws=50) for fit in (mapped, in_memory))
    assert one.value == pytest.approx(other.value, abs=0.5)  # out of 450,000 in single precision
    assert one.se == pytest.approx(other.se, rel=1e-3)
    density = in_memory.log_predictive_density(rng_key=1, num_draws=20)["y"]
    found = mapped.log_predictive_density(rng_key=1, num_draws=20)["y"]
    np.testing.assert_allclose(found, density, rtol=1e-5, atol=1e-5)
    assert max(a.size for a in jax.live_arrays()) <= max(x.size for x in arrays[:2])


def test_evidence_on_all_rows_is_available_on_request(arrays, in_memory):
    x, y = (array.astype(np.float64) for array in arrays[:2])
    loc, scale = in_memory.params.loc["w"], np.exp(in_memory.params.log_scale["w"])
    second = (y - x @ loc) @ (y - x @ loc) + (x**2).sum(0) @ scale**2
    prior = COLUMNS * np.log(2 * np.pi) + loc @ loc + scale @ scale
    entropy = np.log(scale).sum() + 0.5 * COLUMNS * (1 + np.log(2 * np.pi))
    elbo = -0.5 * (ROWS * np.log(2 * np.pi) + second + prior) + entropy
    assert np.isnan(in_memory.khat)
    found = in_memory.log_evidence("elbo", num_draws=100)
    assert abs(found.value - elbo) < 5 * found.se
    # from minibatches, its error is that of a sum over the rows of one of them
    assert abs(in_memory.elbo - elbo) < 5 * in_memory.elbo_se


def test_any_source_gives_the_same_fit(arrays, in_memory):
    x, y, _ = arrays
    sparse = fit(regression, SparseRows(x), y, guide="meanfield")
    assert_same(sparse._result.variables, in_memory._result.variables)


def test_resumed_fits_equal_an_uninterrupted_one(arrays, in_memory, tmp_path):
    _, y, path = arrays
    x = data.npy(path)
    first = fit(regression, x, y, num_steps=300, guide="meanfield")  # ends within a chunk
    first.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", regression, x, y, optimizer=optax.adam(0.02))
    for again in (first, loaded):
        assert_same(
            again.resume(400, progress_bar=False)._result.run.loop, in_memory._result.run.loop
        )


@pytest.mark.slow
def test_local_latent_variables_of_rows_on_disk(arrays):
    x, y, path = arrays
    one, other = (
        fit(local_shifts, a, y, num_steps=60, batch_size=512)
        for a in (x, np.load(path, mmap_mode="r"))
    )
    assert_same(one._result.variables, other._result.variables)
    assert other.sample(2)["shift"].shape == (2, ROWS)


class Loader:
    def __init__(self, x, y, size=1000):
        self.batches = x, y, size

    def __iter__(self):
        x, y, size = self.batches
        yield from ((x[i : i + size], y[i : i + size]) for i in range(0, len(x), size))


def test_a_stream_is_fitted_in_order(arrays):
    x, y, _ = arrays
    streamed = fit(regression, *data.stream(Loader(x, y), ROWS), guide="meanfield")
    np.testing.assert_array_equal(
        streamed._result.engine.problem.schedule.index(3)["rows"], np.arange(3, 4 * BATCH)[-64:]
    )
    resumed = fit(regression, *data.stream(Loader(x, y), ROWS), guide="meanfield", num_steps=200)
    assert_same(resumed.resume(500, progress_bar=False)._result.run.loop, streamed._result.run.loop)
    np.testing.assert_allclose(streamed.sample(500)["w"].mean(0), WEIGHTS, atol=0.05)


def test_a_checkpoint_of_other_rows_raises(arrays, tmp_path):
    x, y, path = arrays
    options = {"guide": "meanfield", "num_steps": 20, "checkpoint": tmp_path / "fit"}
    mapped = np.load(path, mmap_mode="r")
    first = fit(regression, mapped, y, **options)
    assert_same(fit(regression, mapped, y, **options)._result.run.loop, first._result.run.loop)
    with pytest.raises(vijax.VijaxError, match="another data set"):
        fit(regression, SparseRows(x + 1), y, **options)


def test_data_that_cannot_be_read_in_batches_raise(arrays):
    x, y, path = arrays
    mapped = np.load(path, mmap_mode="r")

    def indexing(x, y):
        w = numpyro.sample("w", dist.Normal(jnp.zeros(COLUMNS), 1.0).to_event(1))
        with numpyro.plate("rows", ROWS) as rows:
            numpyro.sample("y", dist.Normal(x[rows] @ w, 1.0), obs=y[rows])

    with pytest.raises(ModelError, match=r"'x': expected data that are read from MappedRows"):
        fit(indexing, mapped, y, num_steps=1)
    with pytest.raises(ModelError, match="subsampled along none"):
        fit(regression, mapped, y, num_steps=1, batch_size=ROWS)
    broken = np.array(x[:300_000])
    broken[:, 3] = np.nan
    with pytest.raises(ModelError, match=r"'x', in the first batch: 64 of 1280 values"):
        fit(regression, SparseRows(broken), y[:300_000], num_steps=1)

    def standardizing(x, y):
        regression((x - x.mean(0)) / x.std(0), y)

    with pytest.raises(ModelError, match="not to depend on which other rows"):
        fit(standardizing, mapped, y, num_steps=1)
    latents = fit(local_shifts, mapped, y, num_steps=1, batch_size=512)
    with pytest.raises(ModelError, match="'x' is read batch by batch"):
        latents.importance()


LIMITED = """
import resource, sys
import numpy as np, numpyro, numpyro.distributions as dist, optax, vijax

limit = 3 * 2**28
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
path, columns = sys.argv[1], 50
x = np.lib.format.open_memmap(path, "w+", np.float32, (4 * limit // (4 * columns), columns))
x[:1000] = 1.0  # the rest of the file is zeros that take no space on disk
del x
x = np.load(path, mmap_mode="r")
try:
    np.array(x)
except MemoryError:
    pass
else:
    sys.exit("no limit")


def model(x, y):
    w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(mu + x @ w, 1e3), obs=y)


y = np.full(len(x), 0.5, np.float16)
fit = vijax.fit(
    model, x, y, batch_size=4096, guide="meanfield", num_steps=3000, optimizer=optax.adam(0.01),
    progress_bar=False,
)
draws = fit.sample(2000)
# x is almost zero: w keeps its prior, and mu has the precision of all rows
rows = len(x) / 1e6
assert abs(draws["mu"].mean() - 0.5 * rows / (1 + rows)) < 0.05, draws["mu"].mean()
assert abs(draws["mu"].std() * np.sqrt(1 + rows) - 1) < 0.1, draws["mu"].std()
assert abs(draws["w"].std() - 1) < 0.05, draws["w"].std()
print("fitted")
"""


@pytest.mark.slow
def test_data_of_four_times_the_memory_limit_can_be_fitted(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "x.npy")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "fitted", done.stderr[-3000:]
