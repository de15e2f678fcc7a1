"""IVON finds the best mean-field Gaussian: exactly known for a linear model."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import vijax
from vijax.algorithms import IVON

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(200, 3)) + 0.7 * RNG.normal(size=(200, 1))).astype(np.float32)
Y = (X @ np.array([1.0, -0.5, 0.2]) + 0.5 * RNG.normal(size=200)).astype(np.float32)


def linear(x, y=None):
    factory = lambda rngs: nnx.Linear(3, 1, use_bias=False, rngs=rngs)  # noqa: E731
    net = vijax.nn.network("net", factory, dist.Normal(0.0, 0.4))
    with numpyro.plate("rows", 200, subsample_size=None):
        numpyro.sample("y", dist.Normal(net(x)[:, 0], 0.5), obs=y)


@pytest.mark.parametrize("noise", ["shared", "flipout"])
def test_fixed_point_is_the_best_mean_field_gaussian(noise):
    precision = X.T.astype(float) @ X / 0.25 + np.eye(3) / 0.16
    mean = np.linalg.solve(precision, X.T.astype(float) @ Y / 0.25)
    schedule = optax.cosine_decay_schedule(1.0, 6000)
    posterior = vijax.fit(
        linear,
        X,
        Y,
        guide=vijax.guides.MeanField(noise=noise),
        algorithm=IVON(rate=0.02, decay=0.999, schedule=schedule),
        num_steps=6000,
        progress_bar=False,
    )
    sd = 1 / np.sqrt(np.diag(precision))
    found = posterior.params
    assert np.all(np.abs(np.ravel(found.loc["net/kernel"]) - mean) < 0.2 * sd)
    np.testing.assert_allclose(np.exp(np.ravel(found.log_scale["net/kernel"])), sd, rtol=0.1)


def test_what_ivon_cannot_fit_is_named():
    with pytest.raises(vijax.GuideError, match="meanfield"):
        vijax.fit(linear, X, Y, guide="fullrank", algorithm="ivon")
    with pytest.raises(ValueError, match="IVON"):
        vijax.fit(linear, X, Y, algorithm="ivon", optimizer=optax.adam(1e-3))
    with pytest.raises(ValueError, match="rate"):
        IVON(rate=-1.0)
    with pytest.raises(vijax.GuideError, match="flipout"):
        vijax.fit(linear, X, Y, guide=vijax.guides.MeanField(noise="local"), algorithm="ivon")
