"""Location and scale of priors in unconstrained space, against draws."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions import biject_to

from vijax.model.prior_location import prior_location

NUM = 20_000


@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(50.0, 25.0),
        dist.LogNormal(1.0, 2.0),
        dist.HalfNormal(3.0),
        dist.HalfCauchy(2.0),
        dist.Exponential(5.0),
        dist.Gamma(2.0, 0.1),
        dist.InverseGamma(3.0, 2.0),
        dist.Beta(2.0, 5.0),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_moments_are_those_of_unconstrained_draws(prior):
    location, scale = prior_location(prior, ())
    z = np.asarray(biject_to(prior.support).inv(prior.sample(jax.random.key(0), (NUM,))))
    assert abs(z.mean() - location) < 5 * scale / np.sqrt(NUM) + 0.001
    assert abs(np.log(z.std() / scale)) < 0.05


def test_parameters_broadcast_and_unknown_priors_have_none():
    location, scale = prior_location(dist.Normal(1.0, 2.0).expand([3]).to_event(1), (3,))
    np.testing.assert_array_equal(location, np.ones(3))
    np.testing.assert_array_equal(scale, np.full(3, 2.0))
    assert prior_location(dist.Uniform(0.0, 1.0), ()) is None

    def traced(loc):
        assert prior_location(dist.Normal(loc, 1.0), ()) is None
        return loc

    jax.make_jaxpr(traced)(0.0)
