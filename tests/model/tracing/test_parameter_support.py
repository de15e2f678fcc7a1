"""Where a parameter is not in its support, the log density is minus infinity."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vijax
from vijax.contracts import Batch
from vijax.model import build, split
from vijax.model.tracing.parameter_support import valid_parameters

SHARES = np.array([0.5, 0.52, 0.55, 0.45, 0.6], np.float32)

FAMILIES = {
    "Beta": (lambda c: dist.Beta(c, 2.0), 0.4),
    "BetaBinomial": (lambda c: dist.BetaBinomial(2.0, c, total_count=5), 2),
    "BetaProportion": (lambda c: dist.BetaProportion(0.5, c), 0.4),
    "Gamma": (lambda c: dist.Gamma(c, 1.0), 0.4),
    "Chi2": (lambda c: dist.Chi2(c), 0.4),
    "InverseGamma": (lambda c: dist.InverseGamma(c, 1.0), 0.4),
    "GammaPoisson": (lambda c: dist.GammaPoisson(c, 1.0), 2),
    "NegativeBinomial2": (lambda c: dist.NegativeBinomial2(2.0, c), 2),
    "NegativeBinomial": (lambda c: dist.NegativeBinomial(c, logits=0.3), 2),
    "Dirichlet": (lambda c: dist.Dirichlet(jnp.stack([c, c + 1])), np.array([0.4, 0.6])),
    "DirichletMultinomial": (
        lambda c: dist.DirichletMultinomial(jnp.stack([c, c + 1]), 5),
        np.array([2, 3]),
    ),
    "event": (lambda c: dist.Beta(jnp.stack([c, 1 + c]), 2.0).to_event(1), np.array([0.4, 0.6])),
    "expanded event": (
        lambda c: dist.Beta(c, 2.0).expand([3, 2]).to_event(2),
        np.full((3, 2), 0.4),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_invalid_parameters_are_known(name):
    family, value = FAMILIES[name]
    shape = family(0.7).log_prob(value).shape

    def valid(c):
        with numpyro.validation_enabled(False):
            return jnp.broadcast_to(valid_parameters(family(c)), shape)

    np.testing.assert_array_equal(jax.jit(valid)(-0.3), np.zeros(shape, bool))
    np.testing.assert_array_equal(jax.jit(valid)(0.7), np.ones(shape, bool))


@pytest.mark.parametrize("value", [None, 0.4], ids=["latent", "observed"])
def test_the_density_is_zero_where_a_parameter_is_invalid(value):
    def model():
        c = numpyro.sample("c", dist.Normal(0, 1))
        numpyro.sample("y", dist.Beta(c, 2.0), obs=value)

    target = build(model, split(model, (), {})[0])
    at = jax.jit(lambda c: target.log_density({"c": c, "y": jnp.zeros(())}, Batch({})))
    assert at(-0.3) == -np.inf
    x, log_jacobian = (0.5, np.log(0.25)) if value is None else (value, 0.0)
    exact = stats.beta.logpdf(x, 0.7, 2.0) + stats.norm.logpdf(0.7) + log_jacobian
    assert at(0.7) == pytest.approx(exact, rel=1e-5)


def test_parameters_of_masked_rows_are_not_looked_at():
    def model():
        c = numpyro.sample("c", dist.Normal(0, 1).expand([2]).to_event(1))
        with numpyro.plate("rows", 2), numpyro.handlers.mask(mask=np.array([True, False])):
            numpyro.sample("y", dist.Beta(c, 2.0), obs=0.4)

    target = build(model, split(model, (), {})[0])
    at = jax.jit(lambda c: target.log_density({"c": c}, Batch({})))
    assert at(jnp.array([-0.3, 1.0])) == -np.inf
    assert np.isfinite(at(jnp.array([1.0, -0.3])))


def test_constants_and_other_families_add_nothing_to_the_program():
    def normal(scale):
        with numpyro.validation_enabled(False):
            return valid_parameters(dist.Normal(0.0, scale))

    assert valid_parameters(dist.Beta(2.0, 3.0)) is None
    assert jax.make_jaxpr(normal)(1.0).jaxpr.eqns == []


def beta_by_mean_and_sd(y):
    mu, sd = numpyro.sample("mu", dist.Uniform(0, 1)), numpyro.sample("sd", dist.HalfNormal(1.0))
    c = mu * (1 - mu) / sd**2 - 1  # negative where sd is too large
    numpyro.sample("y", dist.Beta(mu * c, (1 - mu) * c), obs=y)


def test_a_density_that_is_not_defined_everywhere_is_fitted():
    mu, sd = np.meshgrid(np.linspace(0.005, 0.995, 199), np.linspace(0.002, 0.498, 249))
    c = np.maximum(mu * (1 - mu) / sd**2 - 1, 1e-9)
    log_p = stats.beta.logpdf(SHARES, (mu * c)[..., None], ((1 - mu) * c)[..., None]).sum(-1)
    p = np.exp(log_p - 0.5 * sd**2) * (c > 1e-9)
    mean = (p * sd).sum() / p.sum()
    posterior = vijax.fit(beta_by_mean_and_sd, SHARES, progress_bar=False)
    assert posterior.status in ("certified", "corrected")
    assert posterior.summary().loc["sd", "mean"] == pytest.approx(mean, abs=0.004)


def test_a_start_is_found_in_the_prior():
    def model():
        a = numpyro.sample("a", dist.Normal(0, 10))
        numpyro.sample("y", dist.Normal(0.0, jnp.sqrt(a - 20)), obs=0.5)

    posterior = vijax.fit(model, num_steps=1, guide="map", progress_bar=False)
    assert posterior.median()["a"] > 20
