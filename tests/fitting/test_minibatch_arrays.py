"""Models with local latents and arrays of the size of a minibatch, which run on as many rows."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from vijax import ModelError
from vijax.contracts import Batch
from vijax.model import build, split

N, B = 7, 3
Y = np.random.default_rng(0).normal(1.0, 1.0, N).astype(np.float32)


def model(y, size=B):
    shift = jnp.broadcast_to(numpyro.param("shift", 0.5), (size,))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y), subsample_size=size) as rows:
        z = numpyro.sample("z", dist.Normal(mu, 1.0))
        numpyro.deterministic("sum", z + y[rows])
        numpyro.sample("y", dist.Normal(z + shift, 1.0), obs=y[rows])


def test_the_density_of_the_rows_in_use():
    arguments, data = split(model, (Y,), {})
    target = build(model, arguments)
    assert {site.name: site.z_shape for site in target.space.sites} == {"mu": (), "z": (N,)}
    assert not target.subsampling.whole
    assert target.structure.priors.keys() == {"mu"}
    rows, z = np.array([5, 0, 2]), np.float32([0.1, -0.4, 0.7])
    log_density = jax.jit(target.log_density)(
        {"mu": jnp.zeros(()), "z": z}, Batch(data, {"rows": rows})
    )
    local = dist.Normal(0, 1).log_prob(z) + dist.Normal(z + 0.5, 1).log_prob(Y[rows])
    exact = dist.Normal(0, 1).log_prob(0.0) + N / B * local.sum()
    np.testing.assert_allclose(log_density, exact, rtol=1e-5)
    assert [plate.name for plate in target.term_info(Batch(data))["y"].plates] == ["rows"]


def test_draws_of_every_row():
    posterior = vijax.fit(
        model, Y, guide="meanfield", num_steps=10, optimizer=optax.adam(0.1), progress_bar=False
    )
    drawn = posterior.sample(5)
    assert drawn["z"].shape == (5, N)
    np.testing.assert_allclose(drawn["sum"], drawn["z"] + Y, rtol=1e-6)  # every row its own data
    assert posterior.status in ("approximate", "failed")
    with pytest.raises(ModelError, match=r"predict .* all 7 rows of plate 'rows'.* of 3 rows"):
        posterior.predict(rng_key=1)


def test_a_single_minibatch_is_not_all_rows():
    def loaded(y):
        with numpyro.plate("rows", N, subsample_size=len(y)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ModelError, match="site 'z': expected data for all 7 rows of plate 'rows'"):
        build(loaded, split(loaded, (Y[:B],), {})[0])
