"""NUTS on a target: space, order of the mass matrix, and exact moments."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size
from scipy.special import ive

import vijax
from tests import targets
from vijax.contracts import Batch, Site, Space
from vijax.model import build, run_nuts, split
from vijax.model.nuts import inverse_mass

QUICK = {"num_warmup": 200, "num_samples": 500, "progress_bar": False}


def run(model, args, covariance=None, model_params=None, chains=1, **options):
    arguments, data = split(model, args, {})
    target = build(model, arguments)
    initial_z = {site.name: np.zeros((chains, *site.z_shape)) + 0.1 for site in target.space.sites}
    return run_nuts(
        target,
        Batch(data),
        jax.random.key(0),
        initial_z,
        covariance,
        model_params or {},
        {},
        **QUICK | {"num_chains": chains} | options,
    )


def assert_mean(draws, expected):
    """The mean of a chain `(num_samples, ...)` is within five standard errors by its ESS."""
    draws = np.asarray(draws, float)
    error = draws.std(0) / np.sqrt(effective_sample_size(draws[None]))
    np.testing.assert_array_less(np.abs(draws.mean(0) - expected), 5 * error)


@pytest.mark.slow
def test_samples_are_constrained_and_params_fixed():
    def model(y):
        shape = numpyro.param("shape", 10.0, constraint=dist.constraints.positive)
        rate = numpyro.sample("rate", dist.Gamma(shape, 2.0))
        numpyro.deterministic("double", 2 * rate)
        numpyro.sample("y", dist.Poisson(rate).expand([6]).to_event(1), obs=y)

    problem = targets.problem("gamma_poisson")  # its shape is 3
    params = {"shape": jnp.log(jnp.asarray(3.0))}
    mcmc = run(
        model,
        problem.args,
        model_params=params,
        chains=2,
        num_samples=600,
        thinning=2,
        max_tree_depth=3,
        extra_fields=("num_steps",),
    )
    by_chain = mcmc.get_samples(group_by_chain=True)
    assert {name: value.shape for name, value in by_chain.items()} == {
        "rate": (2, 300),
        "double": (2, 300),
    }
    np.testing.assert_allclose(by_chain["double"], 2 * by_chain["rate"], rtol=1e-6)
    assert not np.array_equal(by_chain["rate"][0], by_chain["rate"][1])
    for chain in by_chain["rate"]:
        assert_mean(chain, problem.mean[0])
        assert_mean((chain - problem.mean[0]) ** 2, problem.covariance[0, 0])
    assert np.max(mcmc.get_extra_fields()["num_steps"]) <= 7


@pytest.mark.slow
def test_circles_and_supports_that_depend_on_latents_have_the_exact_moments():
    def model():
        angle = numpyro.sample("angle", dist.VonMises(1.0, 3.0))
        top = numpyro.sample("top", dist.Uniform(1.0, 3.0))
        numpyro.sample("part", dist.Uniform(0.0, top))
        numpyro.deterministic("cos", jnp.cos(angle - 1.0))

    samples = run(model, ()).get_samples()
    assert_mean(samples["cos"], ive(1, 3.0) / ive(0, 3.0))
    assert_mean(samples["top"], 2.0)
    assert_mean(samples["part"], 1.0)
    assert np.all(samples["part"] < samples["top"])


def test_the_mass_matrix_is_in_the_order_of_names():
    space = Space((Site("b", (2,), (2,)), Site("a", (), ()), Site("B", (1,), (1,))))
    root = np.random.default_rng(0).normal(size=(4, 6))
    covariance = root @ root.T
    found = inverse_mass(space, covariance, dense=True)
    z = {"b": np.array([0, 1]), "a": np.array(2), "B": np.array([3])}
    order = jax.flatten_util.ravel_pytree(z)[0]  # the order of NumPyro
    np.testing.assert_allclose(found, covariance[np.ix_(order, order)], rtol=1e-6)
    diagonal = inverse_mass(space, covariance, dense=False)
    np.testing.assert_allclose(diagonal, np.diag(covariance)[order], rtol=1e-6)
    for dense in (True, False):
        from_variances = inverse_mass(space, np.diag(covariance), dense)
        expected = np.diag(diagonal) if dense else diagonal
        np.testing.assert_array_equal(from_variances, expected)


def test_an_invalid_covariance_is_not_used():
    space = Space((Site("a", (2,), (2,)),))
    assert inverse_mass(space, None, dense=True) is None
    assert inverse_mass(space, np.zeros((2, 2)), dense=True) is None
    assert inverse_mass(space, np.array([[1.0, 0.0], [0.0, np.nan]]), dense=True) is None
    singular = inverse_mass(space, np.ones((2, 2)), dense=True)
    np.testing.assert_array_equal(singular, np.eye(2))


def test_an_unknown_option_is_named():
    problem = targets.problem("normal_mean")
    with pytest.raises(TypeError, match=r"nuts: unknown option 'num_sample'.*'num_samples'"):
        run(problem.model, problem.args, num_sample=20)


@pytest.mark.slow
def test_a_posterior_provides_initial_positions_and_scales():
    problem = targets.problem("regression")
    posterior = vijax.fit(problem.model, *problem.args, progress_bar=False)
    mcmc = posterior.nuts(**QUICK | {"num_warmup": 50})
    samples = mcmc.get_samples()
    vectors = np.column_stack([samples["alpha"], samples["beta"]])
    assert_mean(vectors, problem.mean)
    assert_mean((vectors - problem.mean) ** 2, np.diag(problem.covariance))
    assert not np.any(mcmc.get_extra_fields()["diverging"])
