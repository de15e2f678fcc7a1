"""Guides with a conjugate part: the optimum of the factorization, and what is refused."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.model.conjugacy.densities import table

QUIET = {"progress_bar": False}


def model(x, y):
    sigma = numpyro.sample("sigma", dist.HalfNormal(3.0))
    w = numpyro.sample("w", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ w, sigma), obs=y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)).astype(np.float32)
    return x, (x @ np.array([1.0, -1.0]) + 0.7 * rng.normal(size=60)).astype(np.float32)


def test_it_reaches_the_optimum_of_the_same_factorization(data):
    """Given a log-normal scale the optimum of the coefficients is normal, as is full rank."""
    found = vijax.fit(model, *data, guide={"sigma": "meanfield", ...: "conjugate"}, **QUIET)
    same = vijax.fit(model, *data, guide={"sigma": "meanfield", ...: "fullrank"}, **QUIET)
    assert abs(found.elbo - same.elbo) < 5 * np.hypot(found.elbo_se, same.elbo_se) + 0.01
    assert found.diagnostics.plan == ("w: normal of 2 dimensions",)
    for corrected in (found, same):
        draws = corrected.sample(4000, corrected=False)
        np.testing.assert_allclose(draws["w"].mean(axis=0), [1.0, -1.0], atol=0.3)
    widths = [one.sample(4000, corrected=False)["w"].std(axis=0) for one in (found, same)]
    np.testing.assert_allclose(widths[0], widths[1], rtol=0.06)


def test_what_is_not_conjugate_given_the_others_is_named(data):
    with pytest.raises(vijax.GuideError, match=r"'sigma'.*no family has all of these statistics"):
        vijax.fit(model, *data, guide="conjugate", **QUIET)
    with pytest.raises(vijax.GuideError, match="no family has all of these statistics"):
        vijax.fit(model, *data, guide={"w": "meanfield", ...: "conjugate"}, **QUIET)


def test_a_part_is_saved(data, tmp_path):
    guide = {"sigma": "meanfield", ...: "conjugate"}
    posterior = vijax.fit(model, *data, guide=guide, num_steps=20, **QUIET)
    posterior.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", model)
    own, again = (one.sample(100, corrected=False)["w"] for one in (posterior, loaded))
    np.testing.assert_array_equal(own, again)
    assert jnp.isfinite(posterior.elbo)


def test_options_that_do_not_apply_and_wrong_readings_are_refused(data, monkeypatch):
    guide = {"sigma": "meanfield", ...: "conjugate"}
    with pytest.raises(ValueError, match="expected a PartlyConjugate for guide='conjugate' on a"):
        vijax.fit(model, *data, guide=guide, algorithm="gradient", **QUIET)
    data = tuple(rows[:40] for rows in data)  # no program of it is compiled yet
    names, row = table.ROWS[dist.Normal]
    wrong = (names, lambda *arguments: 1.0 + row(*arguments))
    monkeypatch.setitem(table.ROWS, dist.Normal, wrong)
    with pytest.raises(vijax.GuideError, match="expected the log density of site"):
        vijax.fit(model, *data, guide=guide, **QUIET)
