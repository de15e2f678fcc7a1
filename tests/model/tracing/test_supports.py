"""Bijections onto supports that depend on other values: the density in `z` integrates to one."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints, transforms

from vijax.contracts import Batch
from vijax.model import build, split
from vijax.runtime.errors import ModelError

UNIT = constraints.unit_interval
Z = np.linspace(-30.0, 30.0, 20_001)


def affine(base, loc, scale, domain=constraints.real):
    return dist.TransformedDistribution(base, transforms.AffineTransform(loc, scale, domain))


DISTRIBUTIONS = {
    "interval": lambda a: affine(dist.Uniform(0.0, 1.0), 0.0, a),
    "negative": lambda a: affine(dist.HalfNormal(1.0), 1.0, -a),
    "domain": lambda a: affine(dist.Beta(2.0, 3.0), 1.0, -a, UNIT),
    "moving base": lambda a: affine(dist.Uniform(0.0, a), 1.0, 2.0),
    "nested": lambda a: affine(affine(dist.Beta(2.0, 3.0), 1.0, a), 0.0, -a),
    "composed": lambda a: dist.TransformedDistribution(
        dist.Gamma(2.0, 1.0),
        [transforms.AffineTransform(0.5, a), transforms.ExpTransform()],
    ),
    "expanded": lambda a: affine(dist.Uniform(0.0, 1.0), 0.0, a).expand([1]).to_event(1),
    "masked": lambda a: affine(dist.Uniform(0.0, 1.0), 0.0, a).mask(True),
    "real": lambda a: affine(dist.Normal(0.0, 1.0), 1.0, -a),
    "log normal": lambda a: dist.LogNormal(a, 1.0),
    "absolute": lambda a: dist.FoldedDistribution(dist.Normal(a, 1.0)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_densities_integrate_to_one(name):
    def model(a):
        numpyro.sample("x", DISTRIBUTIONS[name](a))

    arguments, data = split(model, (np.float32(0.7) * np.ones(()),), {})
    target, batch = build(model, arguments), Batch(data)
    (site,) = target.space.sites

    def both(z):
        at = {"x": jnp.full(site.z_shape, z)}
        x = target.constrain(at, batch, {}, {})
        again = target.unconstrain(x, batch, {}, {})["x"]
        return target.log_density(at, batch), again - at["x"]

    log_density, away = jax.jit(jax.vmap(both))(jnp.asarray(Z, jnp.float32))
    assert np.trapezoid(np.exp(log_density), Z) == pytest.approx(1.0, abs=1e-3)
    assert np.abs(away[np.abs(Z) < 3]).max() < 1e-3


def test_a_scaled_unit_interval_is_the_interval():
    """In the same coordinates, for one and the same posterior."""

    def interval(y):
        a = numpyro.sample("a", dist.Uniform(0, 1))
        numpyro.sample("y", dist.Normal(numpyro.sample("loc", dist.Uniform(0, a)), 0.1), obs=y)

    def scaled(y):
        a = numpyro.sample("a", dist.Uniform(0, 1))
        loc = numpyro.sample("loc", affine(dist.Uniform(0, 1), 0, a))
        numpyro.sample("y", dist.Normal(loc, 0.1), obs=y)

    z, found = {"a": jnp.array(0.3), "loc": jnp.array(-1.2)}, []
    for model in (interval, scaled):
        arguments, data = split(model, (np.ones(3),), {})
        found.append(float(build(model, arguments).log_density(z, Batch(data))))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize(
    "fn",
    [
        dist.HurdleGamma(0.3, 2.0, 1.0),
        dist.HurdleLogNormal(0.3, 0.0, 1.0).expand([3]),
        dist.LeftCensoredDistribution(dist.Normal(0.0, 1.0), jnp.array(0.0)),
        dist.MixtureGeneral(
            dist.Categorical(jnp.array([0.3, 0.7])),
            [dist.Delta(0.0), dist.Normal(0.0, 1.0)],
            support=constraints.real,
        ),
    ],
)
def test_atoms_are_refused(fn):
    def model():
        numpyro.sample("x", fn)

    with pytest.raises(ModelError, match=r"site 'x'.*density.*mixture"):
        build(model, split(model, (), {})[0])
