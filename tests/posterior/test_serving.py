"""Predictors of rows: the model's own predictions for any number of rows, also from a file."""

import ast
import concurrent.futures
import dataclasses
import inspect
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats

import vijax
from vijax.posterior.posterior import Posterior
from vijax.runtime import predictor as standalone

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2))
GROUP = RNG.integers(0, 3, 30)
Y = X @ [1.0, -1.0] + 0.5 * GROUP + 0.3 * RNG.normal(size=30)
DRAWS = 500


def latents(x):
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    return alpha, beta, numpyro.sample("sigma", dist.HalfNormal(1.0))


def model(x, group, y=None):
    alpha, beta, sigma = latents(x)
    mean = numpyro.deterministic("mean", alpha[group] + x @ beta)
    numpyro.deterministic("largest", alpha.max())
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


@pytest.fixture(scope="module")
def posterior():
    return vijax.fit(model, X, GROUP, Y, guide="laplace", progress_bar=False)


@pytest.fixture(scope="module")
def predictor(posterior):
    return posterior.predictor(num_draws=DRAWS, max_rows=16)


def of(posterior, other):
    """The posterior of another model with the same latents."""
    return Posterior(dataclasses.replace(posterior._result, model=other))


def test_predictions_are_those_of_the_model(posterior, predictor):
    assert predictor.rows == ("x", "group")  # data of observed sites have no effect
    expected = posterior.predict(X, GROUP, num_draws=DRAWS)
    found = predictor(X, GROUP, Y)
    assert found.keys() == {"mean", "y"}  # "largest" has no value for each row
    np.testing.assert_allclose(found["mean"], expected["mean"], atol=1e-5)
    sigma = np.asarray(predictor._state[0]["sigma"])[:, None]
    noise = (found["y"] - found["mean"]) / sigma
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    for dependent in (np.corrcoef(noise.T), np.corrcoef(noise)):  # of rows, of draws
        off_diagonal = dependent[np.triu_indices(len(dependent), 1)]
        count = noise.size / len(dependent)
        assert abs(off_diagonal.std() * np.sqrt(count) - 1) < 0.1
    assert not np.allclose(predictor(X, GROUP, rng_key=1)["y"], found["y"])
    lists = predictor(X[:4].tolist(), group=GROUP[:4].tolist(), y=[0.0, 1.0])  # as from JSON
    np.testing.assert_allclose(lists["y"], found["y"][:, :4], rtol=1e-5, atol=1e-5)


def test_rows_do_not_depend_on_their_number_and_compile_nothing(predictor):
    whole = predictor(X, GROUP)
    for num in (0, 1, 3, 7, 17, 29):
        part = predictor(X[:num], group=GROUP[:num])
        assert part["y"].shape == (DRAWS, num)
        np.testing.assert_allclose(part["y"], whole["y"][:, :num], rtol=1e-5, atol=1e-5)
    assert predictor.sizes == (1, 4, 16)
    compiled = predictor._program._cache_size()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        every = list(pool.map(lambda num: predictor(X[:num], GROUP[:num])["y"], range(1, 31)))
    for num, part in enumerate(every, 1):
        np.testing.assert_allclose(part, whole["y"][:, :num], rtol=1e-5, atol=1e-5)
    assert predictor._program._cache_size() == compiled == 3


def test_statistics_are_those_of_the_draws(posterior, predictor):
    draws = predictor(X[:4], GROUP[:4])
    sigma = np.asarray(predictor._state[0]["sigma"])
    options = {"num_draws": DRAWS, "max_rows": 4}
    summary = posterior.predictor(returns="summary", ci_prob=0.8, **options)(X[:4], GROUP[:4])
    variance = np.mean(sigma**2) + draws["mean"].var(0)  # exact given the posterior draws
    np.testing.assert_allclose(summary["y"]["mean"], draws["mean"].mean(0), atol=1e-5)
    np.testing.assert_allclose(summary["y"]["sd"], np.sqrt(variance), rtol=1e-4)
    for name, level in (("low", 0.1), ("high", 0.9)):
        exact = np.quantile(draws["y"], level, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(summary["y"][name], exact, atol=1e-5)
    above = posterior.predictor(returns=lambda row: {"p": jnp.mean(row["y"] > 0)}, **options)
    np.testing.assert_allclose(above(X[:4], GROUP[:4])["p"], (draws["y"] > 0).mean(0))


def test_probabilities_of_categories_are_averages_over_the_posterior(posterior):
    def categories(x, group, y=None):
        alpha, beta, _ = latents(x)
        logits = alpha + (x @ beta)[:, None] * jnp.arange(3)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    other = of(posterior, categories)
    predictor = other.predictor(X, GROUP, returns="probs", num_draws=DRAWS, max_rows=4)
    found, fixed = predictor(X[:3], GROUP[:3])["y"], predictor._state[0]
    slope = np.asarray(fixed["beta"]) @ X[:3].T
    logits = np.asarray(fixed["alpha"])[:, None] + slope[..., None] * np.arange(3)
    np.testing.assert_allclose(found, jax.nn.softmax(logits).mean(0), atol=1e-5)
    with pytest.raises(vijax.ModelError, match="returns='probs'"):
        other.predictor(X, GROUP, returns="mean")


def standardized(x, group, y=None):
    without_plate((x - x.mean(0)) / x.std(0), group, y)


def centered(x, group, y=None):
    model(x - x.mean(0), group, y)


def trend(x, group, y=None):
    alpha, _, sigma = latents(x)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(alpha[group] + jnp.arange(len(x)), sigma), obs=y)


def gaussian_process(x, group, y=None):
    alpha, _, _ = latents(x)
    squared = jnp.sum((x[:, None] - x) ** 2, -1)
    kernel = jnp.exp(-0.5 * squared) + jnp.eye(len(x))
    numpyro.sample("y", dist.MultivariateNormal(alpha[group], kernel), obs=y)


def total(x, group, y=None):
    numpyro.deterministic("total", x.sum())
    model(x, group, y)


def fixed_size(x, group, y=None):
    alpha, _, sigma = latents(x)
    with numpyro.plate("rows", 30):
        numpyro.sample("y", dist.Normal(alpha[group], sigma), obs=y)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (standardized, "'y' of a row depends on other rows"),
        (centered, "'mean' of a row depends on other rows"),
        (trend, "'y' of a row depends on other rows"),
        (gaussian_process, "'y' of a row depends on other rows"),
        (total, "'total' is one value of all rows"),
        (fixed_size, "does not run on 2"),
    ],
)
def test_rows_that_affect_each_other_are_refused(posterior, other, expected):
    with pytest.raises(vijax.ModelError, match=expected) as error:
        of(posterior, other).predictor(X, GROUP)
    assert "posterior.predict(*rows)" in str(error.value)


def without_plate(x, group, y=None):
    """A joint distribution of independent rows; `squeeze` drops the axis of a single row."""
    alpha, beta, sigma = latents(x)
    slope = (x @ beta[:, None]).squeeze()
    numpyro.sample("y", dist.Normal(alpha[group] + slope, sigma).to_event(1), obs=y)


def columns(x, group, y=None):
    """Rows along the last axis, noise in the model, a latent for each row, groups without one."""
    alpha, _, sigma = latents(x)
    numpyro.deterministic("known", jnp.where(group < 3, alpha[group], 0.0))
    keep = jax.random.bernoulli(numpyro.prng_key(), 0.5, (len(x),))
    with numpyro.plate("rows", len(x), dim=-1):
        effect = numpyro.sample("effect", dist.Normal(0.0, sigma))
        with numpyro.plate("columns", 3, dim=-2):
            numpyro.sample("y", dist.Normal(alpha[:, None] + keep * effect, sigma), obs=y)


def test_what_has_independent_rows_is_recognized(posterior):
    options = {"num_draws": 20, "max_rows": 4}
    found = of(posterior, without_plate).predictor(X, GROUP, returns="mean", **options)
    draws = jax.device_get(found._state[0])
    mean = (draws["alpha"][:, GROUP[:3]] + draws["beta"] @ X[:3].T).mean(0)
    np.testing.assert_allclose(found(X[:3], GROUP[:3])["y"], mean, atol=1e-5)
    rows, group = of(posterior, columns).predictor(X, GROUP, **options), np.array([9, 0, 1])
    two, three = (rows(X[:num], group[:num]) for num in (2, 3))
    assert (two["y"].shape, three["y"].shape) == ((20, 3, 2), (20, 3, 3))
    np.testing.assert_allclose(two["y"], three["y"][..., :2], atol=1e-5)
    np.testing.assert_array_equal(two["known"][:, 0], 0.0)


def test_latents_of_the_rows_are_drawn_from_their_prior_or_refused():
    def local(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            theta = numpyro.sample("theta", dist.Normal(mu, 3.0))
            numpyro.sample("y", dist.Normal(theta, 0.1), obs=y)

    posterior = vijax.fit(local, Y, guide="laplace", progress_bar=False)
    with pytest.raises(vijax.ModelError, match=r"from_prior=\['theta'\]"):
        posterior.predictor()
    found = posterior.predictor(from_prior=["theta"], num_draws=DRAWS)(Y[:2])
    assert found.keys() == {"theta", "y"}
    assert abs(found["theta"].std() - 3.0) < 0.3


def test_data_frames_are_encoded_as_in_the_fit(tmp_path):
    def schools(data):
        effect = numpyro.sample("effect", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
        with numpyro.plate("rows", len(data)):
            mean = numpyro.deterministic("mean", effect[data["school"]] + data["x"])
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=data.get("y"))

    frame = pd.DataFrame({"school": np.array(["b", "a", "c"])[GROUP], "x": X[:, 0], "y": Y})
    posterior = vijax.fit(schools, frame, guide="laplace", progress_bar=False)
    predictor = posterior.predictor(returns="mean")
    assert predictor.rows == ("data['school']", "data['x']")
    new = pd.DataFrame({"x": [0.0, 1.0], "other": ["?", "?"], "school": ["c", "a"]})
    expected = posterior.sample()["effect"].mean(0)[[2, 0]] + [0.0, 1.0]
    np.testing.assert_allclose(predictor(new)["mean"], expected, atol=0.05)
    predictor.export(tmp_path / "schools.zip")
    loaded = vijax.load_predictor(tmp_path / "schools.zip")
    np.testing.assert_allclose(loaded(new)["mean"], predictor(new)["mean"], atol=1e-5)
    with pytest.raises(ValueError, match="labels of the fit, 'a', 'b', 'c'; got 'd'"):
        loaded(new.assign(school="d"))


def test_errors_name_the_argument_and_the_remedy(posterior, predictor):
    with pytest.raises(ValueError, match=r"'x': expected shape \(rows, 2\), got \(2,\)"):
        predictor(X[0], GROUP[:1])
    with pytest.raises(ValueError, match="'group': expected 2 rows, as 'x' has, got 3"):
        predictor(X[:2], GROUP[:3])
    with pytest.raises(TypeError, match="got no 'group'"):
        predictor(X[:2])
    with pytest.raises(TypeError, match="'group': expected numbers of type int32, got float64"):
        predictor(X[:2], GROUP[:2] + 0.5)
    with pytest.raises(ValueError, match=r"'group': expected indices from 0 to 2, .* got 3"):
        predictor(X[:2], np.array([GROUP[0], 3]))
    with pytest.raises(TypeError, match="got 'z'"):
        predictor(X[:2], GROUP[:2], z=1)
    with pytest.raises(ValueError, match=r"'x': expected numbers.*NaN at index \[1, 0\]"):
        predictor(np.array([[0.0, 1.0], [np.nan, 1.0]]), GROUP[:2])
    with pytest.raises(vijax.ModelError, match="two or more different rows, got 1"):
        posterior.predictor(X[:1], GROUP[:1])
    with pytest.raises(vijax.ModelError, match="different rows, got equal ones"):
        posterior.predictor(X[[0, 0, 0]], GROUP[[0, 0, 0]])
    with pytest.raises(vijax.ModelError, match=r"batch_axes=\{'x': 0\}"):
        posterior.predictor(X[:2], GROUP[:2])
    assert posterior.predictor(X[:2], GROUP[:2], batch_axes={"x": 0}).rows == ("x", "group")
    with pytest.raises(ValueError, match="returns: expected one of 'draws', 'mean'"):
        posterior.predictor(returns="median")


@pytest.fixture(scope="module")
def exported(predictor, tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "predictor.zip"
    predictor.export(path)
    return path


def test_an_exported_predictor_is_the_same(predictor, exported):
    loaded = vijax.load_predictor(exported)
    with jax.enable_x64(True):  # as other code in the process may
        found = loaded(X[:3], GROUP[:3])
    expected = predictor(X[:3], GROUP[:3])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)
    with zipfile.ZipFile(exported) as file:
        module = ast.parse(file.read("vijax_predictor.py"))
        assert file.read("vijax_predictor.py").decode() == inspect.getsource(standalone)
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(module)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported - sys.stdlib_module_names == {"jax", "numpy"}
    other = exported.with_name("other.zip")
    other.write_text("not one")
    with pytest.raises(vijax.VijaxError, match=r"expected a file written by Predictor\.export"):
        vijax.load_predictor(other)


@pytest.mark.slow
def test_an_exported_predictor_needs_neither_numpyro_nor_the_library(predictor, exported):
    code = f"""
import sys
sys.path.insert(0, {str(exported)!r})
from vijax_predictor import load
import numpy as np
found = load({str(exported)!r})(np.ones((5, 2)), np.zeros(5, int))
assert not {{"numpyro", "vijax"}} & set(sys.modules)
print(found["y"].sum())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=exported.parent,
    )
    expected = predictor(np.ones((5, 2)), np.zeros(5, int))["y"].sum()
    assert abs(float(done.stdout) - expected) < 1e-2 * abs(expected)
