"""Implicit reparameterization gradients, against quadrature and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import constraints
from scipy import stats
from scipy.special import i0e, ive

import vijax
from tests.laws import assert_mean
from vijax.guides.numpyro.implicit_reparameterization import (
    ImplicitReparameterization,
    has_gradient,
    with_implicit_gradient,
)
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import draw_keys, rejection_key

NUM = 50_000
LOGITS, LOCS, SCALES = jnp.array([0.3, -0.4, 0.1]), jnp.array([-2.0, 0.5, 1.0]), jnp.ones(3) / 2


def normals(p):
    return dist.MixtureSameFamily(dist.Categorical(logits=p[0]), dist.Normal(p[1], p[2]))


def heterogeneous(p):
    parts = [dist.Normal(p[1], 0.5), dist.Laplace(1.0, p[2])]
    return dist.MixtureGeneral(dist.Categorical(logits=jnp.stack([p[0], 0.0])), parts)


def von_mises(p):
    return dist.VonMises(*p)


SCALARS = {
    "normals": (normals, (LOGITS, LOCS, SCALES)),
    "heterogeneous": (heterogeneous, (jnp.array(0.3), jnp.array(-1.0), jnp.array(0.7))),
    "exp": (lambda p: dist.TransformedDistribution(normals(p), _exp()), (LOGITS, LOCS, SCALES)),
    "von Mises": (von_mises, (jnp.array(0.4), jnp.array(2.0))),
    "flat von Mises": (von_mises, (jnp.array(-3.0), jnp.array(0.05))),
    "narrow von Mises": (von_mises, (jnp.array(3.1), jnp.array(500.0))),
}


def _exp():
    return dist.transforms.ExpTransform()


def gradients(make, p, f):
    """Gradients of `f` with respect to the parameters, one for every draw."""
    flat, unravel = jax.flatten_util.ravel_pytree(p)
    draws = make(p).sample(jax.random.key(0), (NUM,))
    slopes = jax.vmap(
        jax.jacfwd(lambda q, x: f(with_implicit_gradient(make(unravel(q)), x))), (None, 0)
    )
    return jax.jit(slopes)(flat, draws)


SLOW = (
    "flat von Mises",
    "heterogeneous",
    "narrow von Mises",
    "von Mises",
)  # as "normals", other parameters


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in SCALARS],
)
def test_gradients_equal_quadrature(name):
    make, p = SCALARS[name]
    assert not make(p).has_rsample
    assert has_gradient(make(p).expand([2]).to_event(1))
    grid = jnp.linspace(-12.0, 12.0, 20_001)
    if make is von_mises:
        grid = jnp.linspace(-3.1415925, 3.1415925, 20_001)

    def f(x):
        return jnp.stack([jnp.sin(x), jnp.cos(2 * x)])

    def expected(flat):
        fn = make(unravel(flat))
        x, density = grid, fn
        if name == "exp":
            x, density = jnp.exp(grid), fn.base_dist
        return jnp.trapezoid(f(x) * jnp.exp(density.log_prob(grid)), grid)

    flat, unravel = jax.flatten_util.ravel_pytree(p)
    found = gradients(make, p, f)
    exact = jax.jacfwd(expected)(flat)
    for i in np.ndindex(*exact.shape):
        assert_mean(found[(slice(None), *i)], exact[i])


def independent(p):
    parts = dist.Normal(p[1], jnp.exp(p[2])).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=p[0]), parts)


def correlated(p):
    factor = jnp.tril(p[2], -1) + jnp.exp(p[2] * jnp.eye(2))
    factor = jnp.tril(factor)
    parts = dist.MultivariateNormal(p[1], scale_tril=factor)
    return dist.MixtureSameFamily(dist.Categorical(logits=p[0]), parts)


CENTERS = jnp.array([[0.0, 1.0], [-1.0, 0.3], [1.5, -0.5]])
VECTORS = {
    "independent": (independent, (LOGITS, CENTERS, jnp.full((3, 2), -0.7))),
    "correlated": (
        correlated,
        (LOGITS, CENTERS, jnp.tile(jnp.array([[0.1, 0], [0.4, 0.0]]), (3, 1, 1))),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VECTORS)
def test_gradients_of_vectors_equal_closed_forms(name):
    make, p = VECTORS[name]
    direction = jnp.array([0.7, -1.1])

    def f(x):
        return jnp.stack([jnp.sin(x @ direction), x[0] * x[1], x[1] ** 2])

    def expected(flat):
        fn = make(unravel(flat))
        parts = fn.component_distribution
        if name == "independent":
            covariance = jax.vmap(jnp.diag)(parts.base_dist.scale**2)
            m = parts.base_dist.loc
        else:
            covariance, m = parts.covariance_matrix, parts.loc
        variance = jnp.einsum("kij,i,j->k", covariance, direction, direction)
        second = covariance + m[:, :, None] * m[:, None, :]
        each = jnp.stack(
            [jnp.sin(m @ direction) * jnp.exp(-variance / 2), second[:, 0, 1], second[:, 1, 1]]
        )
        return each @ fn.mixing_distribution.probs

    flat, unravel = jax.flatten_util.ravel_pytree(p)
    found, exact = gradients(make, p, f), jax.jacfwd(expected)(flat)
    assert np.abs(exact[:2]).max() > 0.1
    for i in np.ndindex(*exact.shape):
        assert_mean(found[(slice(None), *i)], exact[i])


def test_draws_equal_numpyros():
    def guide():
        with numpyro.plate("rows", 3):
            numpyro.sample("z", normals((LOGITS, LOCS, SCALES)))

    ours = handlers.trace(ImplicitReparameterization(handlers.seed(guide, 3))).get_trace()
    theirs = handlers.trace(handlers.seed(guide, 3)).get_trace()
    np.testing.assert_allclose(ours["z"]["value"], theirs["z"]["value"], rtol=1e-6)


def test_rejection_sampling_is_correct_under_vmap():
    """With XLA's generator all draws would share random numbers after the first acceptance."""
    keys = draw_keys(jax.random.key(0), 4000, 1)
    draw = jax.jit(jax.vmap(lambda key: dist.VonMises(0.0, 14.0).sample(rejection_key(key))))
    assert stats.kstest(np.asarray(draw(keys), float), stats.vonmises(14.0).cdf).pvalue > 1e-3


ANGLES = np.array([0.3, 1.2, -0.2, 0.8, 0.5], np.float32)


def circular(angles):
    mu = numpyro.sample("mu", dist.VonMises(0.0, 1.0))
    with numpyro.plate("rows", len(angles)):
        numpyro.sample("angles", dist.VonMises(mu, 3.0), obs=angles)


def circular_guide(angles):
    loc = numpyro.param("loc", -0.5)
    concentration = numpyro.param("concentration", 2.0, constraint=constraints.positive)
    numpyro.sample("mu", dist.VonMises(loc, concentration))


@pytest.mark.slow
def test_a_von_mises_guide_converges_to_the_conjugate_posterior():
    posterior = vijax.fit(
        circular, ANGLES, guide=circular_guide, num_steps=4000, progress_bar=False
    )
    east = 1 + 3 * np.cos(ANGLES).sum()
    north = 3 * np.sin(ANGLES).sum()
    length = np.hypot(east, north)
    params = posterior.params
    assert float(params["loc"]) == pytest.approx(np.arctan2(north, east), abs=0.02)
    assert float(np.exp(params["concentration"])) == pytest.approx(length, rel=0.05)

    def log_i0(k):
        return np.log(i0e(k)) + k

    exact = log_i0(length) - log_i0(1.0) - 5 * (np.log(2 * np.pi) + log_i0(3.0))
    assert exact - 0.03 < posterior.elbo < exact + 5 * posterior.elbo_se + 1e-4
    evidence = posterior.log_evidence()
    assert abs(evidence.value - exact) < 5 * evidence.se + 1e-4
    cosine = np.cos(posterior.sample(20_000)["mu"] - np.arctan2(north, east))
    assert cosine.mean() == pytest.approx(ive(1, length) / i0e(length), abs=0.005)


def skewed():
    numpyro.sample("z", normals((LOGITS[:2], jnp.array([-1.0, 1.0]), jnp.array([1.0, 0.6]))))


def mixture_guide():
    logits = numpyro.param("logits", jnp.zeros(2))
    locs = numpyro.param("locs", jnp.array([-0.5, 0.5]))
    scales = numpyro.param("scales", jnp.ones(2), constraint=constraints.positive)
    numpyro.sample("z", normals((logits, locs, scales)))


@pytest.mark.slow
def test_a_mixture_guide_converges_to_a_mixture_posterior():
    posterior = vijax.fit(skewed, guide=mixture_guide, num_steps=4000, progress_bar=False)
    # the smallest divergence of a Gaussian is 0.043
    assert -0.01 < posterior.elbo < 5 * posterior.elbo_se + 1e-3
    assert posterior.importance(4000).ess > 0.97 * 4000


def test_distributions_without_a_gradient_raise_errors():
    def model():
        numpyro.sample("z", dist.Beta(2.0, 2.0))

    def betas():
        a = numpyro.param("a", jnp.array([1.0, 3.0]), constraint=constraints.positive)
        numpyro.sample(
            "z", dist.MixtureSameFamily(dist.Categorical(jnp.ones(2) / 2), dist.Beta(a, 2.0))
        )

    with pytest.raises(GuideError, match="Betainc gradient with respect to a and b not supported"):
        vijax.fit(model, guide=betas, progress_bar=False)
    levels = dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.Dirichlet(jnp.ones((2, 3)))
    )
    assert not has_gradient(levels)
    assert not has_gradient(dist.Levy(0.0, 1.0))
