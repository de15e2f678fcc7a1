"""RowSchedule in an order of their own: the same fit bit for bit, where nothing looks at their numbers."""

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
from vijax.engine import row_order as _arrangement
from vijax.engine.row_order import inverse, reorder
from vijax.engine.row_schedule import RowSchedule
from vijax.runtime import permutation as _permutation

ROWS, BATCH = 600, 48
Y = data(ROWS)


@pytest.fixture(autouse=True)
def few_rows_are_many(monkeypatch):
    monkeypatch.setattr(_permutation, "SHUFFLE_LIMIT", 20)
    monkeypatch.setattr("vijax.engine.row_schedule.SHUFFLE_LIMIT", 20)


@pytest.fixture
def as_they_are(monkeypatch):
    """Makes fits leave rows where they are."""
    return lambda: monkeypatch.setattr(_arrangement, "_COPY", -1)


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


def naming(y, known):
    """Looks its rows up in a table, by their numbers."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", len(y)) as rows:
        numpyro.sample("y", dist.Normal(mu + known[rows], 1.0), obs=y)


def schedule(size=1003, batch=48, arranged=(), seed=5):
    return RowSchedule({"rows": Plate("rows", -1, size, batch)}, seed, reordered=arranged)


def test_rows_come_in_runs_of_places_and_every_row_once():
    steps = 1003 // 48
    places = np.concatenate([schedule(arranged=["rows"]).at(t)["rows"] for t in range(steps)])
    runs = places.reshape(-1, 16)
    assert (np.diff(runs, axis=1) % 1003 == 1).all()
    rows = np.concatenate([schedule().at(t)["rows"] for t in range(steps)])
    assert len(np.unique(rows)) == steps * 48
    order = schedule().order("rows")
    np.testing.assert_array_equal(np.sort(order), np.arange(1003))
    np.testing.assert_array_equal(order[places], rows)
    np.testing.assert_array_equal(inverse(order)[rows], places)


def test_all_rows_are_seen_equally_often_and_batches_spread_as_draws_without_replacement():
    size, batch, epochs = 4003, 192, 300
    steps, rows = size // batch, []
    for seed in range(epochs):  # each with a first shuffle of its own
        order = schedule(size, batch, seed=seed)._orders["rows"]
        rows.append(order.numbers(order._part(0, 0, steps * batch)))
    each = np.concatenate(rows).reshape(-1, batch)
    left = 1 - steps * batch / size
    counts = np.bincount(each.reshape(-1), minlength=size)
    assert np.abs(counts - epochs * (1 - left)).max() < 6 * np.sqrt(epochs * left * (1 - left))
    error = np.sqrt(2 / (epochs * (size // 16)))  # of the variance of runs, and that of batches
    error += np.sqrt(2 / len(each))
    for marked in (each < size // 2, each % 2 == 0):
        share = marked.mean()
        hypergeometric = batch * share * (1 - share) * (size - batch) / (size - 1)
        assert abs(marked.sum(1).var() / hypergeometric - 1) < 5 * error


@pytest.mark.parametrize("size", [48, 40, 36, 34])
def test_runs_fit_into_a_batch(size):
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
def test_the_fit_is_the_same_bit_for_bit(model, guide, as_they_are, tmp_path):
    args = (np.column_stack([Y, Y**2]), Y[:, 0]) if model is regression else (Y,)
    arranged = fit(model, *args, guide=guide)
    assert arranged._result.engine.reordered == ("rows",)
    resumed = arranged.resume(30, progress_bar=False)
    arranged.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", model, *args, optimizer=optax.adam(0.05))
    again = loaded.resume(30, progress_bar=False)
    at_once = fit(model, *args, num_steps=90, guide=guide)
    assert_same(resumed._result.variables, at_once._result.variables)
    assert_same(again._result.variables, at_once._result.variables)
    as_they_are()
    plain = fit(model, *args, guide=guide)
    assert plain._result.engine.reordered == ()
    assert_same(plain._result.variables, arranged._result.variables)
    assert plain.elbo == arranged.elbo
    assert_same(plain.resume(30, progress_bar=False)._result.variables, resumed._result.variables)


def test_start_values_and_answers_are_in_the_order_of_the_data():
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


def test_rows_that_are_looked_up_by_number_stay_where_they_are():
    known = np.linspace(-1.0, 1.0, ROWS).astype(np.float32)
    options = {"guide": "meanfield", "batch_axes": {"y": 0, "known": None}}
    fitted = fit(naming, Y[:, 0], known, num_steps=1, **options)
    assert fitted._result.engine.reordered == ()


@pytest.mark.slow
def test_parameters_of_rows_on_disk_are_arranged_too(monkeypatch, as_they_are):
    monkeypatch.setattr("vijax.data.arrays._MAX_IN_MEMORY", 0)
    on_disk = fit(hierarchy, MappedRows(Y), guide="meanfield")
    assert on_disk._result.engine.reordered == ("rows",)
    as_they_are()
    assert_same(fit(hierarchy, Y, guide="meanfield")._result.variables, on_disk._result.variables)


def test_a_posterior_keeps_no_second_copy_of_the_data():
    fitted = fit(regression, np.column_stack([Y, Y**2]), Y[:, 0], guide="meanfield")
    assert fitted._result.engine.problem.batch.data["x"] is fitted._result.batch.data["x"]
    assert "steps" not in vars(fitted._result.engine)


def test_arrays_are_cut_along_every_axis_that_follows_a_plate():
    table = np.arange(12).reshape(3, 4)
    order = {"a": np.array([2, 0, 1]), "b": np.array([3, 2, 1, 0])}
    found = reorder({"t": table, "s": table}, {"t": (("a", 0), ("b", 1))}, order)
    np.testing.assert_array_equal(found["t"], table[[2, 0, 1]][:, ::-1])
    np.testing.assert_array_equal(found["s"], table)
