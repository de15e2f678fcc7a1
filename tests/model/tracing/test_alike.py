"""Many small sites of one kind: evaluated together, the same log density as one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from vijax.contracts import Batch
from vijax.model import build, split
from vijax.model.centering import with_centering
from vijax.model.tracing import alike, shared_priors
from vijax.runtime.errors import ModelError

N = 9
Y = np.linspace(-1.0, 2.0, N).astype(np.float32)


def loop(y):
    """Scalars of several kinds in a loop, one of them observed, one of another shape."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    for i in range(N):
        x = numpyro.sample(f"x{i}", dist.Normal(0.1 * i, scale))
        with numpyro.handlers.scale(scale=2.0 if i == 3 else 1.0):
            numpyro.sample(f"y{i}", dist.Normal(x, 1.5), obs=y[i])
        rate = numpyro.sample(f"rate{i}", dist.Gamma(2.0, 1.0))
        numpyro.sample(f"n{i}", dist.Poisson(rate), obs=i)
        size = 3 if i == 5 else 2
        numpyro.sample(f"v{i}", dist.StudentT(4.0, x, 1.0).expand([size]).to_event(1))
    numpyro.factor("shift", -0.5)


@pytest.fixture(scope="module")
def made():
    arguments, data = split(loop, (Y,), {})
    return build(loop, arguments), Batch(data)


def at(target, seed):
    rng = np.random.default_rng(seed)
    return {
        site.name: jnp.asarray(rng.normal(size=site.z_shape), jnp.float32)
        for site in target.space.sites
    }


def test_the_log_density_is_that_of_single_sites(made, monkeypatch):
    target, batch = made
    z = at(target, 0)
    found = jax.jit(jax.value_and_grad(lambda z: target.log_density(z, batch, {}, {})))(z)
    monkeypatch.setattr(alike, "MANY", 1000)
    single = jax.jit(jax.value_and_grad(lambda z: target.log_density(z, batch, {}, {})))(z)
    np.testing.assert_allclose(found[0], single[0], rtol=1e-6)
    for one, other in zip(jax.tree.leaves(found[1]), jax.tree.leaves(single[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_alike_sites_add_few_operations(made, monkeypatch):
    target, batch = made
    counted = []
    for many in (alike.MANY, 1000):
        monkeypatch.setattr(alike, "MANY", many)
        jaxpr = jax.make_jaxpr(lambda z: target.log_density(z, batch, {}, {}))(at(target, 0))
        counted.append(str(jaxpr).count("log"))
    assert counted[0] < counted[1] / 3


def test_only_sites_with_a_scale_that_depends_on_latents_are_hierarchical(made):
    target, _ = made
    assert set(target.structure.hierarchical) == {f"x{i}" for i in range(N)}


def test_an_error_names_a_site():
    def wrong():
        for i in range(N):
            numpyro.sample(f"z{i}", dist.ImproperUniform(dist.constraints.real, (), ()))
            numpyro.sample(f"y{i}", dist.Normal(jnp.zeros(3), 1.0), obs=jnp.zeros(2))

    arguments, _ = split(wrong, (), {})
    with pytest.raises(ModelError, match="site 'y0'"):
        build(wrong, arguments)


def groups(y, build):  # a target for each value of `build`
    """Two groups of scalars, each with its own scale, and a chain, where no two share a prior."""
    scales = [numpyro.sample(f"scale{j}", dist.HalfNormal(1.0)) for j in range(2)]
    before = 0.0
    for i in range(N):
        numpyro.sample(f"a{i}", dist.Normal(0.5, scales[0]))
        numpyro.sample(f"b{i}", dist.LogNormal(0.0, scales[1]).expand([2]).to_event(1))
        before = numpyro.sample(f"x{i}", dist.Normal(before, scales[0]))
        numpyro.sample(f"y{i}", dist.Normal(before, 1.0), obs=y[i])


def test_centered_sites_of_one_prior_are_transformed_together(monkeypatch):
    rng, found, counted = np.random.default_rng(0), [], []
    weights = {}
    for many in (shared_priors.MANY, 1000):
        monkeypatch.setattr(shared_priors, "MANY", many)
        arguments, data = split(groups, (Y, many), {})
        target = build(groups, arguments)
        names = target.structure.hierarchical
        weights = weights or {
            site.name: rng.random(site.z_shape).astype(np.float32)
            for site in target.space.sites
            if site.name in names
        }
        batch = with_centering(Batch(data), weights)

        def every(z, target=target, batch=batch):
            values = target.constrain(z, batch, {}, {})
            latent = {name: values[name] for name in z}
            sds = target.log_prior_sds(z, batch, {}, {})
            again = target.unconstrain(latent, batch, {}, {})
            return target.log_density(z, batch, {}, {}), values, sds, again

        z = at(target, 0)
        found.append(jax.jit(every)(z))
        counted.append(str(jax.make_jaxpr(every)(z)).count("exp"))
    for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for name, value in z.items():  # the value given was rounded
        np.testing.assert_allclose(found[0][-1][name], value, rtol=1e-4, atol=1e-5)
    assert counted[0] < counted[1] - 2 * N


def test_a_value_of_another_shape_is_named_beside_sites_of_its_group():
    arguments, data = split(groups, (Y, 0), {})
    target = build(groups, arguments)
    shapes = {site.name: site.z_shape for site in target.space.sites}
    weights = {name: np.zeros(shapes[name], np.float32) for name in target.structure.hierarchical}
    values = {f"a{i}": np.zeros(2 if i == 3 else ()) for i in range(N)}
    with pytest.raises(ModelError, match="site 'a3': expected a value of shape"):
        target.unconstrain(values, with_centering(Batch(data), weights), {}, {})
