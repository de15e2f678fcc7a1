"""Arguments of distributions are validated as by NumPyro, and nothing of it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from vijax.model.tracing.validation import validate_concrete_arguments


@pytest.fixture(autouse=True)
def validation():
    """NumPyro validates by default since 0.22."""
    with numpyro.validation_enabled():
        yield


@pytest.mark.parametrize(
    "make",
    [
        lambda: dist.Normal(0.0, -1.0),
        lambda: dist.Normal(jnp.zeros(2), np.array([1.0, 0.0])),
        lambda: dist.MultivariateNormal(0.0, scale_tril=np.array([[1.0, 2.0], [0.0, 1.0]])),
        lambda: dist.Gamma(2.0, 1.0).mask(False).base_dist.__class__(-2.0, 1.0),
        lambda: dist.Normal(0.0, -1.0, validate_args=True),
    ],
)
def test_invalid_concrete_arguments_are_refused_as_by_numpyro(make):
    with pytest.raises(ValueError, match="got invalid") as theirs:
        make()
    with validate_concrete_arguments(), pytest.raises(ValueError, match="got invalid") as ours:
        make()
    assert str(ours.value) == str(theirs.value)


def test_distributions_without_validation_are_not_validated():
    with validate_concrete_arguments():
        assert dist.Normal(0.0, -1.0, validate_args=False).scale == -1.0
        assert np.isneginf(dist.Unit(-jnp.inf).log_factor)


def test_a_traced_covariance_is_not_validated():
    def log_prob(covariance, value):
        with validate_concrete_arguments():
            return dist.MultivariateNormal(0.0, covariance_matrix=covariance).log_prob(value)

    assert "eigh" not in str(jax.make_jaxpr(log_prob)(jnp.eye(3), jnp.ones(3)))


def test_values_outside_the_support_still_have_no_density():
    def log_prob(scale, value):
        with validate_concrete_arguments():
            prior = dist.HalfNormal(scale)
            inside = prior.log_prob(value)
        return inside, prior.log_prob(value)

    inside, outside = jax.jit(log_prob)(1.0, jnp.array([-1.0, 1.0]))
    np.testing.assert_array_equal(inside, outside)
    assert np.isneginf(inside[0])
    assert np.isfinite(inside[1])
