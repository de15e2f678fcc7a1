"""The Kronecker-factored Gaussian: draws, density and moments against a dense one."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal, ortho_group

from tests.laws import assert_mean
from vijax.contracts import Batch, Site, Space
from vijax.guides.location_scale.kronecker import Kronecker, KroneckerFactors

SPACE = Space(tuple(Site(n, s, s) for n, s in [("bias", (2,)), ("kernel", (3, 2)), ("other", ())]))
GUIDE = Kronecker((("kernel", "bias", 3, 2),))
RNG = np.random.default_rng(0)


def params():
    start = GUIDE.init(None, SPACE, {s.name: jnp.zeros(s.shape) for s in SPACE.sites})
    factors = KroneckerFactors(
        *(RNG.uniform(0.5, 1.5, 4), ortho_group.rvs(4, random_state=1)),
        *(ortho_group.rvs(2, random_state=2), RNG.normal(size=(4, 2)) * 0.3),
    )
    loc = {name: jnp.asarray(RNG.normal(size=x.shape), float) for name, x in start.loc.items()}
    return start._replace(
        loc=loc,
        layers={"kernel": jax.tree.map(jnp.asarray, factors)},
        log_scale={"other": jnp.asarray(-0.7)},
    )


@jax.jit
def moments_of(p):
    return GUIDE.mean(p, SPACE), GUIDE.covariance(p, SPACE), GUIDE.entropy(p, SPACE)


def moments(p):
    return tuple(np.asarray(x, float) for x in moments_of(p))


def test_density_draws_and_entropy_are_those_of_its_moments():
    p = params()
    mean, covariance, entropy = moments(p)
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    @jax.vmap
    def draw(key):
        found = GUIDE.draw(p, SPACE, key, Batch({}))
        return SPACE.ravel(found.z), found.log_q, GUIDE.log_prob(p, SPACE, found.z, Batch({}))

    vectors, log_q, log_prob = (np.asarray(x, float) for x in draw(keys))
    exact = multivariate_normal(mean, covariance)
    np.testing.assert_allclose(log_q, exact.logpdf(vectors), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_prob, log_q, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(entropy, exact.entropy(), rtol=1e-5)
    centered = vectors - np.asarray(mean)
    assert_mean(centered, 0.0)
    assert_mean(centered[:, :, None] * centered[:, None, :], covariance)


def test_covariance_is_that_of_kronecker_factors():
    """`(A (x) G + P (x) I)^-1`, inputs first."""
    p = params()
    f = jax.tree.map(lambda x: np.asarray(x, float), p.layers["kernel"])
    information = np.exp(-2 * f.log_scale)  # of the whitened weights, prior included
    basis = np.kron(f.inputs, f.outputs)
    whitened = basis @ np.diag(information.ravel()) @ basis.T
    unit = np.repeat(f.unit, 2)
    expected = np.linalg.inv(whitened / unit[:, None] / unit)
    order = [6, 7, *range(6)]  # the bias is the last input, and the first site
    found = moments(p)[1][:8, :8]
    np.testing.assert_allclose(found, expected[np.ix_(order, order)], rtol=1e-4, atol=1e-5)
