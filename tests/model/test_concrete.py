"""Models that read sizes off their data: the argument is static by content."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from vijax.contracts import Batch
from vijax.model import concrete, split_and_build
from vijax.runtime.errors import ModelError, VijaxWarning

GROUP = np.repeat(np.arange(6), 5)
Y = np.linspace(-1.0, 2.0, 30).astype(np.float32)


@pytest.fixture(autouse=True)
def _nothing_known():
    concrete._known.clear()


def reference(group, y):
    with numpyro.plate("groups", 6):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(group)):
        numpyro.sample("y", dist.Normal(mu[group], 1.0), obs=y)


def with_size(size):
    def model(group, y=None):
        with numpyro.plate("groups", size(group)):
            mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        with numpyro.plate("rows", len(group)):
            numpyro.sample("y", dist.Normal(mu[group], 1.0), obs=y)

    return model


def of_a_mask(group, y):
    with numpyro.plate("groups", 6):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(group)):
        mean = jnp.zeros(30).at[group > -1].set(mu[group[group > -1]])
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def in_a_scan(group, y):
    with numpyro.plate("groups", 6):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))

    def step(last, row):
        g, y = row
        size = 1 + int(group.max())
        numpyro.sample("y", dist.Normal(mu[:size][g], 1.0), obs=y)
        return last, None

    scan(step, 0.0, (jnp.asarray(group), y))


MODELS = {
    "max": with_size(lambda g: int(g.max()) + 1),
    "unique": with_size(lambda g: len(np.unique(g))),
    "bincount": with_size(lambda g: np.bincount(g).size),
    "range": with_size(lambda g: len([0 for _ in range(g[-1] + 1)])),
    "mask": of_a_mask,
    "scan": in_a_scan,
}


def density(model, group):
    arguments, data, target = split_and_build(model, (group, Y), {}, None)
    mu = {"mu": jnp.arange(6) / 10}
    return arguments, float(target.log_density(mu, Batch(data)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_the_density_is_that_of_given_sizes(name, convert):
    _, expected = density(reference, GROUP)
    with pytest.warns(VijaxWarning, match=r"argument 'group'.*static.*J=int\(J\)"):
        arguments, found = density(MODELS[name], convert(GROUP))
    assert found == pytest.approx(expected, rel=1e-5)
    assert arguments.by_content == {"group"}
    assert set(arguments.avals) == {"y"}
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        assert density(MODELS[name], convert(GROUP))[1] == found


def test_other_values_are_another_model():
    model = with_size(lambda g: int(g.max()) + 1)
    with pytest.warns(VijaxWarning, match="static"):
        _, first = density(model, GROUP)
    _, second = density(model, GROUP[::-1])
    assert first != second
    assert second == pytest.approx(density(reference, GROUP[::-1])[1], rel=1e-5)


def test_only_the_arguments_whose_values_are_needed():
    arguments, _ = density(reference, GROUP)
    assert arguments.by_content == frozenset()


def test_values_of_latents_stay_abstract():
    def model(group, y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu if mu > 0 else -mu, 1.0), obs=y)

    with pytest.raises(ModelError, match=r"needs the value of an array.*jnp\.where"):
        split_and_build(model, (GROUP, Y), {}, None)


def test_fit_predict_and_load(tmp_path):
    model = MODELS["max"]
    with pytest.warns(VijaxWarning, match="static"):
        posterior = vijax.fit(model, GROUP, Y, guide="meanfield", progress_bar=False)
    drawn = posterior.sample(500)["mu"]
    means = Y.reshape(6, 5).sum(1) / (5 + 0.01)
    assert np.abs(drawn.mean(0) - means).max() < 5 * np.sqrt(0.2 / 500)
    assert posterior.predict(rng_key=1, num_draws=3)["y"].shape == (3, 30)
    assert posterior.predict(GROUP[::5], rng_key=1, num_draws=3)["y"].shape == (3, 6)
    posterior.save(tmp_path / "posterior.vijax")
    loaded = vijax.load(tmp_path / "posterior.vijax", model)
    assert np.array_equal(loaded.sample(500)["mu"], drawn)
    with pytest.raises(ModelError, match=r"argument 'group'.*as in the fit"):
        vijax.load(tmp_path / "posterior.vijax", model, GROUP[::-1])
