"""Prior densities at unconstrained values whose constrained values are rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from vijax.contracts import Batch
from vijax.model import build, split

Z = np.linspace(-3000.0, 3000.0, 200_001)


def density(model, *args):
    arguments, data = split(model, args, {})
    target = build(model, arguments)
    (site,) = target.space.sites

    def at(z):
        return target.log_density({"x": jnp.broadcast_to(z, site.z_shape)}, Batch(data))

    return jax.jit(jax.vmap(at)), site


@pytest.mark.parametrize(
    "fn",
    [
        dist.Beta(0.01, 0.01),
        dist.Beta(0.01, 5.0).expand([1]).to_event(1),
        dist.BetaProportion(0.3, 0.05),
        dist.Gamma(0.01, 0.01),
        dist.Gamma(jnp.array([0.01]), 3.0),
        dist.Chi2(0.05),
        dist.Beta(2.0, 3.0),
        dist.Gamma(2.0, 3.0).mask(True),
    ],
)
def test_they_integrate_to_one(fn):
    def model():
        numpyro.sample("x", fn)

    log_density, _ = density(model)
    found = np.exp(np.asarray(log_density(jnp.asarray(Z, jnp.float32)), float))
    assert np.trapezoid(found, Z) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("fn", [dist.Beta(2.0, 3.0), dist.Gamma(2.0, 3.0)])
def test_masks_scales_and_scans(fn):
    mask = np.array([True, False, True])

    def plain(mask):
        with numpyro.plate("rows", 3), handlers.mask(mask=mask), handlers.scale(scale=2.0):
            numpyro.sample("x", fn)

    def in_a_scan(mask):
        def step(carry, m):
            with handlers.mask(mask=m), handlers.scale(scale=2.0):
                numpyro.sample("x", fn)
            return carry, None

        scan(step, None, mask)

    z = jnp.array([0.3])
    x = jax.nn.sigmoid(z) if isinstance(fn, dist.Beta) else jnp.exp(z)
    log_det = jnp.log(x * (1 - x)) if isinstance(fn, dist.Beta) else z
    expected = 4 * fn.log_prob(x) + 3 * log_det
    for model in (plain, in_a_scan):
        np.testing.assert_allclose(density(model, mask)[0](z), expected, rtol=1e-5)
