import jax
import jax.numpy as jnp
import numpy as np

from tests.targets import problem
from vijax.contracts import DensityGuide
from vijax.guides import Delta


def test_the_elbo_is_the_log_joint_density_in_unconstrained_space():
    p = problem("gamma_poisson")
    guide, space = Delta(), p.target.space
    params = guide.init(jax.random.key(0), space, {"rate": jnp.asarray(0.7)})

    @jax.jit
    def elbo(params):
        draw = guide.draw(params, space, jax.random.key(0), p.batch)
        return p.target.log_density(draw.z, p.batch) - draw.log_q

    joint = jax.jit(p.target.log_density)({"rate": jnp.asarray(0.7)}, p.batch)
    np.testing.assert_allclose(elbo(params), joint, rtol=1e-6)
    # the density of log(rate) under Gamma(a, b) peaks at log(a / b), that of rate at (a - 1) / b
    mode = params._replace(loc={"rate": jnp.log(jnp.asarray(p.mean[0], jnp.float32))})
    np.testing.assert_allclose(jax.grad(elbo)(mode).loc["rate"], 0, atol=1e-5)


def test_a_point_has_no_density():
    assert not isinstance(Delta(), DensityGuide)
