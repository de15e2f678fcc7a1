"""Posteriors exported to ArviZ."""

import subprocess
import sys

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vijax
from tests.posteriors import replaced
from vijax.contracts import Variables
from vijax.diagnostics.assessment import FittedGuide, assess
from vijax.guides.location_scale.mean_field import MeanFieldParams

RNG = np.random.default_rng(0)
X = RNG.normal(size=10).astype(np.float32)
GROUP = np.arange(10) % 3
Y = (0.5 * GROUP + X + 0.5 * RNG.normal(size=10)).astype(np.float32)
DRAWS = 400


def groups(data, group, y=None):
    slope = numpyro.sample("net/slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", 3):  # named like the argument
        effect = numpyro.sample("effect", dist.Normal(0.0, 1.0))
    with numpyro.plate("others", 2):
        numpyro.sample("vector", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    with numpyro.plate("rows", len(group)):
        at = numpyro.deterministic("at", effect[group] + slope * data["x"])
        numpyro.sample("y", dist.Normal(at, 0.5), obs=y)


@pytest.fixture(scope="module")
def posterior():
    return vijax.fit(groups, {"x": X}, GROUP, y=Y, guide="fullrank", progress_bar=False)


@pytest.fixture(scope="module")
def tree(posterior):
    return posterior.to_datatree(DRAWS, rng_key=1)


def values(tree, group, name):
    return tree[group][name].values


def test_groups_dimensions_and_names(tree):
    assert set(tree.children) == {
        "posterior",
        "posterior_predictive",
        "log_likelihood",
        "observed_data",
        "constant_data",
        "sample_stats",
    }
    dims = {name: array.dims for name, array in tree["posterior"].data_vars.items()}
    assert dims == {
        "net.slope": ("chain", "draw"),
        "effect": ("chain", "draw", "group"),
        "vector": ("chain", "draw", "others", "vector_dim_0"),
        "at": ("chain", "draw", "rows"),
    }
    assert dict(tree["posterior"].sizes) == {
        "chain": 1,
        "draw": DRAWS,
        "group": 3,
        "others": 2,
        "vector_dim_0": 4,
        "rows": 10,
    }
    for group in ("posterior_predictive", "log_likelihood"):
        assert {name: array.dims for name, array in tree[group].data_vars.items()} == {
            "y": ("chain", "draw", "rows")
        }
    assert tree["observed_data"]["y"].dims == ("rows",)


def test_data_are_either_observed_or_constant(tree):
    np.testing.assert_array_equal(values(tree, "observed_data", "y"), Y)
    assert set(tree["constant_data"].data_vars) == {"data['x']", "group"}
    np.testing.assert_array_equal(values(tree, "constant_data", "data['x']"), X)
    np.testing.assert_array_equal(values(tree, "constant_data", "group"), GROUP)


def test_groups_are_aligned_and_exact(tree):
    at = values(tree, "posterior", "at")
    slope, effect = (values(tree, "posterior", name) for name in ("net.slope", "effect"))
    np.testing.assert_allclose(at, effect[..., GROUP] + slope[..., None] * X, rtol=1e-4, atol=1e-4)
    exact = stats.norm(at.astype(float), 0.5).logpdf(Y)
    np.testing.assert_allclose(values(tree, "log_likelihood", "y"), exact, rtol=1e-3, atol=1e-3)
    noise = (values(tree, "posterior_predictive", "y") - at).ravel() / 0.5
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    prior = stats.norm(0, 1).logpdf
    log_p = prior(slope) + prior(effect).sum(-1) + exact.sum(-1)
    log_p += prior(values(tree, "posterior", "vector")).sum((-1, -2))
    np.testing.assert_allclose(values(tree, "sample_stats", "log_p"), log_p, rtol=1e-4, atol=1e-3)


def test_log_q_and_weights_belong_to_the_draws(posterior, tree):
    given = {
        "net/slope": values(tree, "posterior", "net.slope")[0],
        "effect": values(tree, "posterior", "effect")[0],
        "vector": values(tree, "posterior", "vector")[0],
    }
    log_q = values(tree, "sample_stats", "log_q")[0]
    # every site is on the real line, so that there is no Jacobian
    np.testing.assert_allclose(log_q, posterior.log_prob(given), rtol=1e-4, atol=1e-3)
    log_weight = values(tree, "sample_stats", "log_weight")[0]
    np.testing.assert_allclose(np.exp(log_weight).sum(), 1.0, rtol=1e-6)
    ratio = values(tree, "sample_stats", "log_p")[0] - log_q
    assert posterior.status == "certified"
    body = ratio < np.quantile(ratio, 0.7)  # the rest is smoothed
    shift = (log_weight - ratio)[body]
    np.testing.assert_allclose(shift, shift[0], atol=1e-3)


def test_resampled_draws_have_equal_weights():
    def model(y):
        mean = numpyro.sample("m", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    fitted = vijax.fit(model, jnp.asarray(0.5), guide="meanfield", num_steps=20, progress_bar=False)
    variables = Variables(MeanFieldParams({"m": jnp.array(0.5)}, {"m": jnp.array(0.0)}))
    key = jax.random.key(0)
    assessment = assess(
        FittedGuide(fitted._result.target, fitted.guide, variables, {}, key, fitted._result.batch),
        True,
    )
    posterior = replaced(fitted, variables=variables, assessment=assessment)
    assert posterior.status == "corrected"
    tree = posterior.to_datatree(1000)
    np.testing.assert_allclose(values(tree, "sample_stats", "log_weight"), -np.log(1000))
    draws = values(tree, "posterior", "m")[0].astype(float)
    assert abs(draws.mean() - 0.25) < 5 * np.sqrt(0.5 / 1000) * 1.5
    exact = stats.norm(0, 1).logpdf(draws) + stats.norm(draws, 1).logpdf(0.5)
    np.testing.assert_allclose(values(tree, "sample_stats", "log_p")[0], exact, rtol=1e-4)


def test_properties_of_the_fit_are_attributes(posterior, tree):
    for attrs in (tree.attrs, tree["posterior"].attrs):
        assert attrs["inference_library"] == "vijax"
        assert attrs["inference_library_version"] == vijax.__version__
        assert attrs["status"] == posterior.status
        assert (attrs["elbo"], attrs["khat"]) == (posterior.elbo, posterior.khat)


def test_options_add_coordinates_and_names(posterior):
    tree = posterior.to_datatree(
        20,
        rng_key=1,
        coords={"rows": list("abcdefghij")},
        dims={"vector": ["others", "axis"], "group": ["rows"]},
        attrs={"/": {"author": "me"}},
    )
    assert list(tree["posterior"]["rows"].values) == list("abcdefghij")
    assert tree["posterior"]["vector"].dims == ("chain", "draw", "others", "axis")
    assert tree["constant_data"]["group"].dims == ("rows",)
    assert tree.attrs["author"] == "me"
    assert tree.attrs["inference_library"] == "vijax"


def test_without_data_there_is_only_the_posterior(posterior, tmp_path):
    posterior.save(tmp_path / "p.npz")
    tree = vijax.load(tmp_path / "p.npz", groups, group=GROUP).to_datatree(20, rng_key=1)
    assert set(tree.children) == {"posterior"}
    assert set(tree["posterior"].data_vars) == {"net.slope", "effect", "vector"}
    assert tree["posterior"]["effect"].dims == ("chain", "draw", "group")


def minibatch(x, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 10, subsample_size=4) as rows:
        at = numpyro.deterministic("at", slope * x[rows])
        numpyro.sample("y", dist.Normal(at, 0.5), obs=y[rows])


@pytest.mark.slow
def test_subsampled_plates_are_exported_in_full():
    posterior = vijax.fit(minibatch, X, Y, guide="meanfield", num_steps=50, progress_bar=False)
    tree = posterior.to_datatree(20)
    slope, at = (values(tree, "posterior", name)[0] for name in ("slope", "at"))
    np.testing.assert_allclose(at, slope[:, None] * X, rtol=1e-5)
    np.testing.assert_array_equal(values(tree, "observed_data", "y"), Y)
    exact = stats.norm(at.astype(float), 0.5).logpdf(Y)
    np.testing.assert_allclose(values(tree, "log_likelihood", "y")[0], exact, rtol=1e-3)
    log_p = exact.sum(-1) + stats.norm(0, 1).logpdf(slope)
    np.testing.assert_allclose(values(tree, "sample_stats", "log_p")[0], log_p, rtol=1e-4)


def reserved(draw):
    level = numpyro.sample("chain", dist.Normal(0.0, 1.0))
    with numpyro.plate("draw", 3):
        numpyro.sample("sample", dist.Normal(level, 1.0), obs=draw)


def test_reserved_names_of_arviz_are_renamed():
    data = np.array([0.1, 0.2, 0.3], np.float32)
    posterior = vijax.fit(reserved, data, guide="meanfield", num_steps=20, progress_bar=False)
    tree = posterior.to_datatree(20)
    assert set(tree["posterior"].data_vars) == {"chain_"}
    assert tree["observed_data"]["sample_"].dims == ("draw_",)


@pytest.mark.filterwarnings("ignore")  # ArviZ's own, about few draws and Pareto k
def test_arviz_computes_with_it(tree):
    names = ["net.slope", "effect"]
    table = arviz_stats.summary(tree, var_names=names, round_to="none")
    draws = values(tree, "posterior", "net.slope")
    assert table.loc["net.slope", "mean"] == pytest.approx(draws.mean(), rel=1e-4)
    loo = arviz_stats.loo(tree)
    # at most the log pointwise predictive density of the data itself, less than 4 parameters' worth
    log_likelihood = values(tree, "log_likelihood", "y")[0].astype(float)
    lppd = np.log(np.exp(log_likelihood).mean(0)).sum()
    assert lppd - 8 < loo.elpd < lppd


@pytest.mark.filterwarnings("ignore")  # matplotlib's and ArviZ's own
def test_arviz_plots_it(tree):
    try:
        import arviz_plots
    except (ImportError, AttributeError) as error:  # ArviZ 0.8 and matplotlib 3.11
        pytest.skip(str(error))
    arviz_plots.plot_dist(tree, var_names=["net.slope", "effect"], backend="none")
    arviz_plots.plot_forest(tree, var_names=["effect"], backend="none")


def test_importing_vijax_does_not_import_arviz():
    program = "import sys, vijax; print([m for m in sys.modules if m.startswith('arviz')])"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
