"""Partially centered parameterizations describe the same distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

from vijax.contracts import Batch
from vijax.model import build, split
from vijax.runtime.errors import ModelError

Y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])


def schools(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("J", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, 10.0), obs=y)


def walk(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1))

    def step(z, y):
        z = numpyro.sample("z", dist.Normal(z, scale))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
        return z, z

    scan(step, 0.0, y)


def families(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    loc = numpyro.sample("loc", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.sample("student", dist.StudentT(4.0, loc, scale).to_event(1))
    numpyro.sample("log_normal", dist.LogNormal(loc[:, None], scale).expand([2, 3, 1]).to_event(3))
    with numpyro.plate("rows", 2, dim=-2):
        numpyro.sample("masked", dist.Laplace(loc, scale).mask(jnp.array([True, False, True])))
    factor = scale * jnp.array([[1.0, 0.0, 0.0], [0.5, 1.2, 0.0], [0.2, -0.3, 0.8]])
    with numpyro.plate("more", 2, dim=-1):
        numpyro.sample("joint", dist.MultivariateNormal(loc, scale_tril=factor))
    numpyro.sample("free", dist.Normal(loc, 1.0).to_event(1))
    numpyro.sample("other", dist.Gamma(2.0, scale))


def fixed_walk(y):
    def step(z, y):
        z = numpyro.sample("z", dist.Normal(z, 0.3))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
        return z, z

    scan(step, 0.0, y)


def make(model):
    arguments, data = split(model, (Y,), {})
    return build(model, arguments), Batch(data)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (schools, ("theta",)),
        (walk, ("z",)),
        (families, ("joint", "log_normal", "masked", "student")),
        (fixed_walk, ()),
    ],
)
def test_hierarchical_sites_have_a_latent_scale(model, expected):
    assert make(model)[0].structure.hierarchical == expected


@pytest.mark.parametrize("model", [schools, walk, families])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_partial_centering_is_a_change_of_variables(model, weight):
    target, plain = make(model)
    space = target.space
    rng = np.random.default_rng(0)
    shapes = {site.name: site.z_shape for site in space.sites}
    centering = {
        name: jnp.asarray(np.clip(weight + 0.1 * rng.random(shapes[name]), 0, 1), jnp.float32)
        for name in target.structure.hierarchical
    }
    batch = plain._replace(centering=centering)
    vector = jnp.asarray(rng.normal(size=space.dim), jnp.float32)

    @jax.jit
    def to_model(vector):
        values = target.constrain(space.unravel(vector), batch, {}, {})
        latents = {name: values[name] for name in space.names}
        return space.ravel(target.unconstrain(latents, plain, {}, {}))

    @jax.jit
    def back(vector):
        values = target.constrain(space.unravel(vector), batch, {}, {})
        latents = {name: values[name] for name in space.names}
        return space.ravel(target.unconstrain(latents, batch, {}, {}))

    np.testing.assert_allclose(back(vector), vector, rtol=1e-4, atol=1e-4)
    sign, log_jacobian = np.linalg.slogdet(
        np.asarray(jax.jit(jax.jacobian(to_model))(vector), float)
    )
    assert sign == 1
    log_density = jax.jit(lambda vector, batch: target.log_density(space.unravel(vector), batch))
    found, in_model = log_density(vector, batch), log_density(to_model(vector), plain)
    np.testing.assert_allclose(found, in_model + log_jacobian, rtol=2e-5, atol=2e-3)


def test_weight_one_is_centered_and_zero_noncentered():
    target, plain = make(schools)
    z = {site.name: jnp.full(site.z_shape, 0.7) for site in target.space.sites}
    centered = target.constrain(z, plain, {}, {})
    for weight in (0.0, 1.0):
        batch = plain._replace(centering={"theta": jnp.full(8, weight)})
        theta = target.constrain(z, batch, {}, {})["theta"]
        expected = centered["theta"] if weight else centered["mu"] + centered["tau"] * 0.7
        np.testing.assert_allclose(theta, expected, rtol=1e-6)
        found = target.log_prior_sds(z, batch, {}, {})["theta"]
        np.testing.assert_allclose(found, np.full(8, weight * np.log(centered["tau"])), rtol=1e-6)


def test_a_site_without_location_and_scale_is_refused():
    target, plain = make(families)
    z = {site.name: jnp.ones(site.z_shape) for site in target.space.sites}
    with pytest.raises(ModelError, match=r"'other'.*location and a scale.*Gamma"):
        target.log_density(z, plain._replace(centering={"other": jnp.zeros(())}))
