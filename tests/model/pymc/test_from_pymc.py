"""PyMC models against PyMC's own log density."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

import vijax
from vijax.contracts import Batch
from vijax.model import build, split, unwrap
from vijax.runtime.errors import ModelError

pm = pytest.importorskip("pymc")

from tests.model.pymc.models import MODELS, VOTES, Y, hierarchy  # noqa: E402

pytestmark = pytest.mark.slow  # two minutes, most of them compilation by PyMC


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_log_density_is_that_of_pymc(make):
    model = make()
    converted = vijax.from_pymc(model)
    values = [model.rvs_to_values[rv] for rv in model.free_RVs]
    outputs = [*model.unobserved_value_vars, model.logp(jacobian=False)]
    names = [variable.name for variable in model.unobserved_value_vars]
    exact = model.compile_fn(outputs, inputs=values, mode="FAST_COMPILE", on_unused_input="ignore")
    start, rng = model.initial_point(), np.random.default_rng(1)
    for _ in range(3):
        point = {name: x + 0.3 * rng.normal(size=np.shape(x)) for name, x in start.items()}
        *found, expected = exact(point)
        constrained = dict(zip(names, found, strict=True))
        sites = {rv.name: constrained[rv.name] for rv in model.free_RVs}
        got, trace = log_density(converted, (), {}, sites)
        assert got == pytest.approx(expected, rel=2e-5, abs=2e-4)
        for variable in model.deterministics:
            np.testing.assert_allclose(
                trace[variable.name]["value"], constrained[variable.name], rtol=1e-4, atol=1e-5
            )


def test_own_transforms_have_pymcs_jacobians():
    transforms = pm.distributions.transforms
    with pm.Model() as model:
        pm.Normal("ordered", 0, 1, shape=3, transform=transforms.ordered)
        pm.ZeroSumNormal("zero_sum", 1.0, shape=4)
        pm.TruncatedNormal("truncated", 0, 1, lower=-1.0, upper=2.0, shape=2)
        pm.LKJCholeskyCov("factor", n=3, eta=2.0, sd_dist=pm.Exponential.dist(1.0))
        pm.HalfStudentT("half_student_t", nu=3, sigma=2.0)
    fn, args, kwargs = unwrap(vijax.from_pymc(model), (), {})
    arguments, data = split(fn, args, kwargs)
    target = build(fn, arguments)
    values = [model.rvs_to_values[rv] for rv in model.free_RVs]
    exact = model.compile_fn(model.logp(), inputs=values, mode="FAST_COMPILE")
    start, rng = model.initial_point(), np.random.default_rng(2)
    point = {name: x + 0.5 * rng.normal(size=np.shape(x)) for name, x in start.items()}
    z = {rv.name: point[model.rvs_to_values[rv].name] for rv in model.free_RVs}
    got = target.log_density(jax.tree.map(jnp.asarray, z), Batch(data))
    assert got == pytest.approx(exact(point), rel=1e-5, abs=1e-4)


def test_names_dims_and_predictions():
    posterior = vijax.fit(vijax.from_pymc(hierarchy()), progress_bar=False)
    tree = posterior.to_datatree(num_draws=200)
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "group")
    assert list(tree["posterior"]["slope"].coords["feature"].values) == ["u", "v"]
    assert tree["posterior"]["mean"].dims == ("chain", "draw", "row")
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    # predictions are the deterministic and noise
    draws = posterior.sample(4000)
    predicted = posterior.predict(num_draws=4000)["y"]
    se = predicted.std(0) * np.sqrt(2 / 1000)
    np.testing.assert_array_less(np.abs(predicted.mean(0) - draws["mean"].mean(0)), 5 * se)
    new = posterior.predict(x=np.zeros((7, 2)), index=np.zeros(7, int), y=None, num_draws=9)
    assert new["y"].shape == new["mean"].shape == (9, 7)
    np.testing.assert_allclose(new["mean"], np.repeat(new["mean"][:, :1], 7, 1), rtol=1e-5)
    with pytest.raises(ModelError, match=r"site 'y': expected data of shape \(7,\), got \(12,\)"):
        posterior.predict(x=np.zeros((7, 2)), index=np.zeros(7, int))


def test_data_are_arguments():
    model = hierarchy()
    first = vijax.from_pymc(model)
    with model:
        pm.set_data({"x": np.ones((12, 2))})
    second, rebuilt = vijax.from_pymc(model), vijax.from_pymc(hierarchy(y=Y + 1))
    assert first.args == second.args == rebuilt.args  # the same program
    assert second.keywords["x"][0, 0] == 1
    np.testing.assert_array_equal(rebuilt.keywords["y"], Y + 1)
    with pm.Model() as one:
        pm.Normal("a", 0.0, pm.HalfCauchy("scale", 1.0))
    with pm.Model() as other:
        pm.Normal("a", 0.0, pm.HalfCauchy("scale", 2.0))
    assert vijax.from_pymc(one).args != vijax.from_pymc(other).args


def test_jax_is_left_as_it_was():
    assert not jax.config.read("jax_enable_x64")
    assert "host_platform_device_count=100" not in os.environ.get("XLA_FLAGS", "")


def test_what_cannot_be_fitted_is_named():
    with pm.Model() as discrete:
        pm.Bernoulli("switch", 0.5)
    with pytest.raises(ModelError, match="site 'switch': expected continuous free variables"):
        vijax.from_pymc(discrete)
    with pm.Model() as minibatches:
        pm.Normal("y", pm.Normal("mu"), 1.0, observed=VOTES, total_size=100)
    with pytest.raises(ModelError, match="site 'y': expected all data, got total_size"):
        vijax.from_pymc(minibatches)
    with pytest.raises(ModelError, match=r"model: expected a pymc\.Model, got int"):
        vijax.from_pymc(3)
