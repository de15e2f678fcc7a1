"""Reordered rows: the same fit bit for bit, unless the model uses row indices."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from tests.groups import data, groups, hierarchy
from vijax.contracts import Plate
from vijax.data.arrays import MappedRows
from vijax.engine import row_order as _row_order
from vijax.engine.row_order import inverse_permutation, reorder
from vijax.engine.row_schedule import RowSchedule
from vijax.runtime import permutation as _permutation

ROWS, BATCH = 600, 48
Y = data(ROWS)


@pytest.fixture(autouse=True)
def few_rows_count_as_many(monkeypatch):
    monkeypatch.setattr(_permutation, "SHUFFLE_LIMIT", 20)
    monkeypatch.setattr("vijax.engine.row_schedule.SHUFFLE_LIMIT", 20)


@pytest.fixture
def no_reordering(monkeypatch):
    """Makes later fits keep the order of rows."""
    return lambda: monkeypatch.setattr(_row_order, "_MAX_COPY_BYTES", -1)


def fit(model, *args, num_steps=60, batch_size=BATCH, **options):
    return vijax.fit(
        model,
        *args,
        batch_size={"rows": batch_size},
        optimizer=optax.adam(0.05),
        num_steps=num_steps,
        progress_bar=False,
        **options,
    )


def assert_same(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    for ours, theirs in leaves:
        np.testing.assert_array_equal(ours, theirs)


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def lookup(y, known):
    """Uses row indices to look up values in a table."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(y)) as rows:
        numpyro.sample("y", dist.Normal(mu + known[rows], 1.0), obs=y)


def schedule(size=1003, batch=48, reordered=(), seed=5):
    return RowSchedule({"rows": Plate("rows", -1, size, batch)}, seed, reordered=reordered)


def test_an_epoch_is_a_permutation_in_runs():
    steps = 1003 // 48
    positions = np.concatenate(
        [schedule(reordered=["rows"]).index(t)["rows"] for t in range(steps)]
    )
    runs = positions.reshape(-1, 16)
    assert (np.diff(runs, axis=1) % 1003 == 1).all()
    rows = np.concatenate([schedule().index(t)["rows"] for t in range(steps)])
    assert len(np.unique(rows)) == steps * 48
    order = schedule().permutation("rows")
    np.testing.assert_array_equal(np.sort(order), np.arange(1003))
    np.testing.assert_array_equal(order[positions], rows)
    np.testing.assert_array_equal(inverse_permutation(order)[rows], positions)


def test_batches_are_distributed_like_draws_without_replacement():
    size, batch, epochs = 4003, 192, 300
    steps, rows = size // batch, []
    for seed in range(epochs):  # each with a different first shuffle
        order = schedule(size, batch, seed=seed)._orders["rows"]
        rows.append(order.rows_at(order._epoch_slice(0, 0, steps * batch)))
    each = np.concatenate(rows).reshape(-1, batch)
    left = 1 - steps * batch / size
    counts = np.bincount(each.reshape(-1), minlength=size)
    assert np.abs(counts - epochs * (1 - left)).max() < 6 * np.sqrt(epochs * left * (1 - left))
    error = np.sqrt(2 / (epochs * (size // 16)))  # of the variance over runs, and over batches
    error += np.sqrt(2 / len(each))
    for marked in (each < size // 2, each % 2 == 0):
        share = marked.mean()
        hypergeometric = batch * share * (1 - share) * (size - batch) / (size - 1)
        assert abs(marked.sum(1).var() / hypergeometric - 1) < 5 * error


@pytest.mark.parametrize("size", [48, 40, 36, 34])
def test_run_lengths_divide_the_batch_size(size):
    order = schedule(batch=size)._orders["rows"]
    assert order.run == {48: 16, 40: 8, 36: 4, 34: 2}[size]


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (regression, "meanfield"),
        pytest.param(hierarchy, {"theta": "meanfield", ...: "fullrank"}, marks=pytest.mark.slow),
        pytest.param(hierarchy, "plates", marks=pytest.mark.slow),
    ],
)
def test_the_fit_is_the_same_bit_for_bit(model, guide, no_reordering, tmp_path):
    args = (np.column_stack([Y, Y**2]), Y[:, 0]) if model is regression else (Y,)
    reordered = fit(model, *args, guide=guide)
    assert reordered._result.engine.reordered == ("rows",)
    resumed = reordered.resume(30, progress_bar=False)
    reordered.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", model, *args, optimizer=optax.adam(0.05))
    again = loaded.resume(30, progress_bar=False)
    at_once = fit(model, *args, num_steps=90, guide=guide)
    assert_same(resumed._result.variables, at_once._result.variables)
    assert_same(again._result.variables, at_once._result.variables)
    no_reordering()
    plain = fit(model, *args, guide=guide)
    assert plain._result.engine.reordered == ()
    assert_same(plain._result.variables, reordered._result.variables)
    assert plain.elbo == reordered.elbo


def test_initial_values_and_parameters_are_in_the_order_of_the_data():
    theta = np.linspace(-3.0, 3.0, ROWS)[:, None].astype(np.float32)
    start = {"theta": theta}
    fitted = vijax.fit(
        groups,
        Y,
        guide="meanfield",
        init=start,
        batch_size={"rows": BATCH},
        optimizer=optax.sgd(0.0),
        num_steps=5,
        progress_bar=False,
    )
    assert fitted._result.engine.reordered == ("rows",)
    np.testing.assert_array_equal(fitted.params.loc["theta"], theta)


def test_rows_are_not_reordered_if_the_model_uses_their_indices():
    known = np.linspace(-1.0, 1.0, ROWS).astype(np.float32)
    options = {"guide": "meanfield", "batch_axes": {"y": 0, "known": None}}
    fitted = fit(lookup, Y[:, 0], known, num_steps=1, **options)
    assert fitted._result.engine.reordered == ()


@pytest.mark.slow
def test_parameters_of_rows_on_disk_are_reordered(monkeypatch, no_reordering):
    monkeypatch.setattr("vijax.data.arrays._MAX_IN_MEMORY", 0)
    on_disk = fit(hierarchy, MappedRows(Y), guide="meanfield")
    assert on_disk._result.engine.reordered == ("rows",)
    no_reordering()
    assert_same(fit(hierarchy, Y, guide="meanfield")._result.variables, on_disk._result.variables)


def test_a_posterior_keeps_no_second_copy_of_the_data():
    fitted = fit(regression, np.column_stack([Y, Y**2]), Y[:, 0], guide="meanfield")
    assert fitted._result.engine.problem.batch.data["x"] is fitted._result.batch.data["x"]
    assert "steps" not in vars(fitted._result.engine)


def test_arrays_are_reordered_along_every_plate_axis():
    table = np.arange(12).reshape(3, 4)
    order = {"a": np.array([2, 0, 1]), "b": np.array([3, 2, 1, 0])}
    found = reorder({"t": table, "s": table}, {"t": (("a", 0), ("b", 1))}, order)
    np.testing.assert_array_equal(found["t"], table[[2, 0, 1]][:, ::-1])
    np.testing.assert_array_equal(found["s"], table)
