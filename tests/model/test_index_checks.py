"""Indices in the data that are beyond the ends of what they select from."""

import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from vijax.contracts import Batch
from vijax.data import arrays
from vijax.model import check_indices, split_and_build, unwrap
from vijax.runtime.errors import ModelError

RNG = np.random.default_rng(0)
G = np.array([0, 3, 1, 2, 3, 0, 2, 1])
Y = RNG.normal(size=len(G)).astype(np.float32)


def checked(model, *args):
    model, args, kwargs = unwrap(model, args, {})
    arguments, data, target = split_and_build(model, args, kwargs, None)
    check_indices(target, arguments, Batch(data))
    return target


def selecting(select):
    """A model of four effects, one of which `select(theta, g)` chooses for every row."""

    def model(g, y):
        with numpyro.plate("schools", 4):
            theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(select(theta, g), 1.0), obs=y)

    return model


def in_a_scan(g, y):
    theta = numpyro.sample("theta", dist.Normal(0.0, 1.0).expand([4]))

    def step(carry, row):
        numpyro.sample("y", dist.Normal(theta[row[0]], 1.0), obs=row[1])
        return carry, None

    scan(step, 0.0, (g, y))


def in_a_subsampled_plate(g, y):
    theta = numpyro.sample("theta", dist.Normal(0.0, 1.0).expand([4]))
    with numpyro.plate("rows", len(y), subsample_size=3) as rows:
        numpyro.sample("y", dist.Normal(theta[g[rows]], 1.0), obs=y[rows])


def by_group(theta, g):
    return theta[g]


SELECTIONS = {
    "brackets": by_group,
    "take": lambda theta, g: jnp.take(theta, g),
    "computed": lambda theta, g: jnp.exp(theta)[g],
    "matrix": lambda theta, g: jnp.stack([theta, -theta], 1)[g, 0],
    "second axis": lambda theta, g: jnp.stack([theta, -theta])[1, g],
    "vmap": lambda theta, g: jax.vmap(lambda i: theta[i])(g),
    "jit": jax.jit(by_group),
    "nested": lambda theta, g: theta[jnp.array([3, 2, 1, 0])[g]],
    "last axis": lambda theta, g: jnp.take_along_axis(
        jnp.broadcast_to(theta, (len(G), 4)), g[:, None], 1
    )[:, 0],
}
MODELS = {name: selecting(select) for name, select in SELECTIONS.items()} | {
    "scan": in_a_scan,
    "subsampled": in_a_subsampled_plate,
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_indices_are_checked_wherever_they_select(model):
    checked(model, G, Y)
    checked(model, G - 4, Y)  # from the end
    expected = (
        r"argument 'g': expected indices from 0 to 3 into .*, got 4 at index \[1\] \(2 in all"
    )
    with pytest.raises(ModelError, match=expected):
        checked(model, G + 1, Y)


def test_the_message_names_array_plate_line_and_remedy():
    model = selecting(by_group)
    with pytest.raises(ModelError) as caught:
        checked(model, G + 1, Y)
    line = by_group.__code__.co_firstlineno + 1
    assert str(caught.value) == (
        "argument 'g': expected indices from 0 to 3 into 'theta' (4 elements along plate "
        f"'schools'), got 4 at index [1] (2 in all) ({__file__}, line {line}). Codes that "
        "start at one? Subtract 1."
    )
    with pytest.raises(ModelError, match=r"got -5 at index \[0\]"):
        checked(model, G - 5, Y)
    with pytest.raises(ModelError, match=r"got 4 from 5 at index \[1\].*Codes that start at one"):
        checked(selecting(lambda theta, g: theta[g - 1]), G + 2, Y)
    with pytest.raises(ModelError, match=r"got 9 at index \[0\] .*write jnp\.clip\(i, 0, n - 1\)"):
        checked(model, np.where(G == 0, 9, G), Y)


MEANT = {
    "from one": (lambda theta, g: theta[g - 1], G + 1),
    "clipped": (lambda theta, g: theta[jnp.clip(g, 0, 3)], G + 1),
    "mode": (lambda theta, g: theta.at[g].get(mode="clip"), G + 1),
    "filled": (lambda theta, g: theta.at[g].get(mode="fill", fill_value=0.0), G + 1),
    "masked": (lambda theta, g: jnp.where(g < 4, theta[g], 0.0), G + 1),
    "times a mask": (lambda theta, g: (g < 4) * theta[g], G + 1),
    "masked take": (lambda theta, g: jnp.where(g < 4, jnp.take(theta, g), 0.0), G + 1),
    "modulo": (lambda theta, g: theta[g % 4], G + 1),
    "halves": (lambda theta, g: theta[g // 2], 2 * G),
}


@pytest.mark.parametrize(("select", "g"), MEANT.values(), ids=MEANT)
def test_what_is_meant_is_not_refused(select, g):
    assert checked(selecting(select), g, Y).structure.gathers or select is not by_group


def test_indices_that_are_not_arguments():
    for inside in (G + 1, jnp.asarray(G + 1)):
        with pytest.raises(ModelError, match=r"an index array: .* into 'theta'.*got 4 \(2 in all"):
            checked(selecting(lambda theta, g, i=inside: theta[i]), G, Y)

    def sized(g, y):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0).expand([int(g.max())]))
        numpyro.sample("y", dist.Normal(theta[g], 1.0), obs=y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vijax.VijaxWarning)
        with pytest.raises(ModelError, match=r"argument 'g': .*got 4 at index \[1\].*Subtract 1"):
            checked(sized, G + 1, Y)


def test_outcomes_out_of_range():
    def model(y, mask=True):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(4)))
        with numpyro.plate("rows", len(y)), numpyro.handlers.mask(mask=mask):
            numpyro.sample("y", dist.Categorical(p), obs=y)

    checked(model, G)
    with pytest.raises(
        ModelError, match=r"argument 'y': expected outcomes from 0 to 3 at site 'y'"
    ):
        checked(model, G + 1)
    checked(model, G + 1, G < 3)


def test_a_fit_and_predictions_are_checked():
    model, fitted = selecting(by_group), {"progress_bar": False, "guide": "meanfield"}
    with pytest.raises(ModelError, match="argument 'g'"):
        vijax.fit(model, G + 1, Y, **fitted)
    with pytest.raises(ModelError, match="argument 'g'"):
        vijax.fit(model, G + 1, Y, batch_size=4, **fitted)
    posterior = vijax.fit(model, G, Y, **fitted)
    for call in (posterior.predict, posterior.log_predictive_density):
        with pytest.raises(ModelError, match=r"argument 'g'.*got 4 at index \[1\]"):
            call(G + 1, Y)
    with pytest.raises(ModelError, match=r"got 9 at index \[0\].*new_groups="):
        posterior.predict(np.full(2, 9), Y[:2])
    assert posterior.predict(G[:2], Y[:2], num_draws=5)["y"].shape == (5, 2)


def test_rows_that_are_read_batch_by_batch(monkeypatch):
    monkeypatch.setattr(arrays, "_MAX_IN_MEMORY", 0)
    g = np.arange(1000) % 4
    g[700] = 4  # not in the first batch
    y = arrays.MappedRows(np.zeros(1000, np.float32))
    with pytest.raises(ModelError, match=r"argument 'g'.*got 4 at index \[700\]"):
        vijax.fit(selecting(by_group), arrays.MappedRows(g), y, batch_size=4, progress_bar=False)


def test_a_pass_over_many_indices_is_quick():
    many = RNG.integers(0, 4, 10**6)
    y = np.zeros(len(many), np.float32)
    arguments, data, target = split_and_build(selecting(by_group), (many, y), {}, None)
    batch = Batch(data)
    times = []
    for _ in range(5):
        start = time.process_time()
        check_indices(target, arguments, batch)
        times.append(time.process_time() - start)
    assert min(times) < 0.02
