"""Amortized guides on rows on disk: equal to those in memory; supported methods."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import vijax
from vijax import ModelError, data
from vijax.data import arrays as _arrays
from vijax.data.arrays import SparseRows
from vijax.fitting import warm_start
from vijax.guides import Amortized, AmortizedDiscrete

ROWS, COLUMNS = 600, 5
rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
Y = (X.sum(1) + 1.5 + 1.4 * rng.normal(size=ROWS)).astype(np.float32)


def encoder(outputs):
    class Linear(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(COLUMNS + 1, outputs, rngs=rngs)

        def __call__(self, x, y):
            return self.layer(jnp.concatenate([x, y[:, None]], axis=1))

    return Linear


def shifted(x, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        shift = numpyro.sample("shift", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(x.sum(-1) + shift, 1.0), obs=y)


def switched(x, y):
    with numpyro.plate("rows", x.shape[0]):
        on = numpyro.sample("on", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(x.sum(-1) + 3.0 * on, 1.0), obs=y)


TWO, ONE = encoder(2), encoder(1)
SHIFTED = {"shift": Amortized(TWO, ("x", "y")), ...: "fullrank"}
SWITCHED = AmortizedDiscrete(ONE, ("x", "y"))


@pytest.fixture(autouse=True)
def keep_on_disk(monkeypatch):
    monkeypatch.setattr(_arrays, "_MAX_IN_MEMORY", 0)


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def fit(model, guide, x, y=Y, num_steps=60, **options):
    return vijax.fit(
        model,
        x,
        y,
        guide=guide,
        batch_size=64,
        optimizer=optax.adam(0.02),
        num_steps=num_steps,
        progress_bar=False,
        **options,
    )


def assert_same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)


def sources(mapped, tmp_path):
    """The same rows from every kind of source with random access."""
    for i, start in enumerate(range(0, ROWS, 250)):
        np.save(tmp_path / f"{i}.npy", X[start : start + 250])
    return {
        "map": mapped,
        "files": data.npy(tmp_path),
        "sparse": SparseRows(X),
        "records": data.records(list(X)),
    }


@pytest.mark.slow
def test_every_source_equals_the_arrays_in_memory(mapped, tmp_path):
    in_memory = fit(shifted, SHIFTED, X)
    (tmp_path / "parts").mkdir()
    for name, x in sources(mapped, tmp_path / "parts").items():
        there = fit(shifted, SHIFTED, x)
        assert there._result.missing == ("x",), name
        assert_same(there._result.variables, in_memory._result.variables)
        assert there.elbo == pytest.approx(in_memory.elbo, rel=1e-5)


@pytest.mark.slow
def test_discrete_sites_equal_those_in_memory(mapped):
    in_memory, there = (fit(switched, SWITCHED, x) for x in (X, mapped))
    assert_same(there._result.variables, in_memory._result.variables)
    new = X[:7], Y[:7]
    assert_same(there.at(*new).sample(9), in_memory.at(*new).sample(9))


@pytest.mark.slow
def test_a_stream_is_read_in_order():
    parts = [(X[i : i + 100], Y[i : i + 100]) for i in range(0, ROWS, 100)]
    streamed = fit(shifted, SHIFTED, *data.stream(parts, ROWS))
    first = fit(shifted, SHIFTED, *data.stream(parts, ROWS), num_steps=20)
    assert_same(first.resume(40, progress_bar=False)._result.run.loop, streamed._result.run.loop)


@pytest.mark.slow
def test_methods_that_need_no_other_rows(mapped, tmp_path):
    in_memory, there = fit(shifted, SHIFTED, X), fit(shifted, SHIFTED, mapped)
    there.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", shifted, guide=SHIFTED)
    whole = vijax.load(
        tmp_path / "fit", shifted, mapped, Y, guide=SHIFTED, optimizer=optax.adam(0.02)
    )
    new = X[:7] + 1, Y[:7]
    for posterior in (there, loaded, whole):
        got, want = (one.predict(*new, rng_key=2, num_draws=5) for one in (posterior, in_memory))
        assert_same(got, want)
        assert_same(
            posterior.at(*new).sample(5, rng_key=1), in_memory.at(*new).sample(5, rng_key=1)
        )
        assert posterior.elbo == there.elbo
    got, want = (p.log_predictive_density(*new, rng_key=3)["y"] for p in (there, in_memory))
    np.testing.assert_array_equal(got, want)
    assert_same(
        whole.resume(30, progress_bar=False)._result.variables, there.resume(30)._result.variables
    )


def test_methods_that_need_all_rows_raise(mapped, tmp_path):
    there = fit(shifted, SHIFTED, mapped)
    values = {"mu": np.zeros(()), "shift": np.zeros(ROWS)}
    for method in ("sample", "summary", "predict", "covariance", "median", "as_numpyro", "nuts"):
        with pytest.raises(ModelError, match=r"'x' is read batch by batch.*at\(x\[:1000\]\)"):
            getattr(there, method)()
    with pytest.raises(ModelError, match=r"log_prob: .*'x' is read batch by batch"):
        there.log_prob(values)
    with pytest.raises(
        ModelError, match=r"posteriors\[0\]: expected a fit with all data in memory"
    ):
        vijax.stack([there, there])
    there.save(tmp_path / "fit")
    with pytest.raises(ModelError, match="loaded without 'x'"):
        vijax.load(tmp_path / "fit", shifted, guide=SHIFTED).sample()


@pytest.mark.slow
def test_per_row_parameters_start_from_the_encoder(mapped, monkeypatch):
    monkeypatch.setattr(warm_start, "_ROWS", 250)
    network = fit(shifted, SHIFTED, mapped)
    per_row = {"shift": "meanfield", ...: "fullrank"}
    there, in_memory = (fit(shifted, per_row, x, init=network, num_steps=3) for x in (mapped, X))
    assert_same(there._result.variables, in_memory._result.variables)
    layer = network.params[1].encoder["layer"]
    loc = np.column_stack([X, Y]) @ layer["kernel"][:, 0] + layer["bias"][0]
    assert np.abs(there.params[1].loc["shift"] - loc).max() < 0.1  # three steps of 0.02
    assert np.abs(loc).max() > 1
    given = fit(shifted, per_row, mapped, init={"mu": 3.0}, num_steps=1)
    assert abs(given.params[0].loc[0] - 3.0) < 0.03


def shifted_mean(x, y):
    """The encoder takes only observations."""
    with numpyro.plate("rows", x.shape[0]):
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        numpyro.deterministic("level", shift + x.sum(-1))
        numpyro.sample("y", dist.Normal(shift + x.sum(-1), 1.0), obs=y)


@pytest.mark.slow
def test_only_inputs_of_the_encoder_are_needed(mapped, tmp_path):
    class OnY(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(1, 2, rngs=rngs)

        def __call__(self, y):
            return self.layer(y[:, None])

    guide = Amortized(OnY, "y")
    there, in_memory = fit(shifted_mean, guide, mapped), fit(shifted_mean, guide, X)
    in_memory.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", shifted_mean, guide=guide)  # the file holds its inputs
    assert loaded._result.missing == ("x",)
    want = in_memory.sample(4)
    for posterior in (there, loaded):
        got = posterior.sample(4)
        assert set(got) == {"shift"}
        np.testing.assert_array_equal(got["shift"], want["shift"])
    assert set(want) == {"shift", "level"}
