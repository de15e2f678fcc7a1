"""In float32, from tiny to large concentrations: accurate, finite, and draws inside the support."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.families.gamma import Gamma
from vijax.families.special import digamma, gammaln_rest
from vijax.families.wishart import Wishart

CONCENTRATIONS = np.geomspace(1e-3, 1e6, 10).astype(np.float32)
EYES = np.broadcast_to(np.eye(2, dtype=np.float32), (10, 2, 2))
FAMILIES = {
    "gamma": Gamma(CONCENTRATIONS, CONCENTRATIONS[::-1]),
    "scale": Gamma(CONCENTRATIONS, CONCENTRATIONS[::-1], -2),
    "beta": Beta(CONCENTRATIONS, CONCENTRATIONS[::-1]),
    "dirichlet": Dirichlet(np.stack([CONCENTRATIONS, CONCENTRATIONS], -1)),
    "wishart": Wishart(1 + CONCENTRATIONS, EYES),
    "inverse wishart": Wishart(1 + CONCENTRATIONS, EYES, -1),
}
REST = ("dirichlet", "wishart")  # with the same code as the beta and the inverse Wishart
ALL = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in REST else name for name in FAMILIES],
)


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 2e-14), (False, 2e-6)])
def test_digamma_and_the_rest_of_gammaln(x64, tolerance):
    with jax.enable_x64(x64):
        a = jnp.asarray(np.geomspace(1e-6, 1e6, 4001))
        psi, rest = jax.jit(lambda a: (digamma(a), gammaln_rest(a)))(a)
        slope = jax.jit(jax.vmap(jax.grad(digamma)))(a)
    a = np.asarray(a, np.float64)
    np.testing.assert_allclose(psi, special.digamma(a), tolerance, tolerance)
    np.testing.assert_allclose(slope, special.polygamma(1, a), 20 * tolerance)
    a = a[a < 100]  # beyond, the difference is rounded
    leading = (a - 0.5) * np.log(a) - a + 0.5 * np.log(2 * np.pi)
    exact = special.gammaln(a) - leading
    np.testing.assert_allclose(rest[: len(a)], exact, 1e-10, 50 * tolerance)


@ALL
def test_expectations_and_entropy_are_accurate(name):
    family = FAMILIES[name]

    def both(family):
        other = jax.tree.map(lambda x: x * np.float32(1.1), family)
        divergence = () if isinstance(family, Wishart) else family.divergence(other)
        return family.expectations, family.entropy, divergence

    found = jax.jit(both)(family)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))
    with jax.enable_x64(True):
        exact = jax.jit(both)(jax.tree.map(np.float64, family))
    for x, expected in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(x, expected, 1e-5, 1e-5)


@ALL
def test_draws_are_inside_the_support(name):
    family = FAMILIES[name]
    values = jax.vmap(family.draw)(jax.random.split(jax.random.key(0), 200))
    assert jnp.isfinite(values).all()
    if isinstance(family, Wishart):
        assert (jnp.diagonal(values, axis1=-2, axis2=-1) > 0).all()
        return
    assert (values >= jnp.finfo(jnp.float32).tiny).all()
    if isinstance(family, (Beta, Dirichlet)):
        assert (values < 1).all()

    def log_prob(family, values):
        return jax.vmap(family.log_prob)(values)

    found = jax.jit(log_prob)(family, values)
    with jax.enable_x64(True):
        family, values = jax.tree.map(np.float64, (family, values))
        exact = jax.jit(log_prob)(family, values)
    np.testing.assert_allclose(found, exact, 2e-5, 1e-2)
