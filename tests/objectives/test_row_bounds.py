"""Importance-weighted bounds with per-row weights, for independent rows."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp

from tests.groups import Encoder, groups
from vijax.contracts import Batch, LossContext, Variables
from vijax.guides import Amortized, MeanField
from vijax.model import batch_request, build, split
from vijax.objectives import IWAE, Renyi
from vijax.objectives.estimators.particles import has_independent_rows

ROWS = 12
Y = np.random.default_rng(0).normal(0.0, 2.0, (ROWS, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(3), 4000)


def shared(y):
    top = numpyro.sample("top", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", y.shape[0], dim=-2):
        numpyro.sample("y", dist.Normal(top, 1.0), obs=y[:, :1])


def scaled(y):
    with numpyro.plate("rows", y.shape[0], dim=-2):
        theta = numpyro.sample("theta", dist.LogNormal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y[:, :1])


def context(model=groups, guide=None, size=None, index=None, key=KEYS[0]):
    arguments, data = split(model, (Y,), {})
    target = build(model, arguments, batch_request(size, None)).on_batch
    guide = guide or Amortized(Encoder, "y")
    return LossContext({}, key, target, guide, Batch(data, index or {}), jnp.zeros(()))


def parameters(at, exact=False):
    zeros = {s.name: jnp.zeros(s.z_shape) for s in at.target.space.sites}
    params = at.guide.init(jax.random.key(0), at.target.space, zeros, at.batch)
    kernel = jnp.full((3, 2), 1 / 3.25).at[:, 1].set(0.0)
    kernel = kernel if exact else kernel * 0.7
    bias = jnp.array([0.0, 0.5 * np.log(1 / 3.25) - np.log(0.3)]) + (0.0 if exact else 0.2)
    encoder = {"layer": {"kernel": kernel, "bias": bias}}
    return params._replace(encoder=encoder, gate=jnp.ones(1))


def evidence(rows):
    """Log marginal likelihood of every row."""
    covariance = np.eye(3) + 4
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return -0.5 * (log_det + np.einsum("ri,ij,rj->r", rows, np.linalg.inv(covariance), rows))


@pytest.mark.parametrize(
    "objective",
    [pytest.param(IWAE(3), marks=pytest.mark.slow), IWAE(3, "plain"), Renyi(0.5, 3)],
    ids=repr,
)
def test_the_bound_of_an_exact_encoder_is_the_evidence(objective):
    at = context()
    loss = objective(Variables(parameters(at, exact=True)), at)[0]
    np.testing.assert_allclose(-loss, evidence(Y).sum(), rtol=1e-4)


@pytest.mark.slow
def test_a_batch_is_scaled_to_all_rows():
    rows = np.array([3, 5, 0, 9], np.int32)
    at = context(size=4, index={"rows": rows})
    loss = IWAE(2)(Variables(parameters(at, exact=True)), at)[0]
    np.testing.assert_allclose(-loss, ROWS / 4 * evidence(Y[rows]).sum(), rtol=1e-4)


@pytest.mark.slow
def test_weights_are_per_row():
    at, num = context(), 5
    params = parameters(at)
    found = IWAE(num, "plain")(Variables(params), at)[0]
    log_weights = []
    for key in jax.random.split(at.key, num):
        z = at.guide.draw(params, at.target.space, key, at.batch).z["theta"]
        log_q = at.guide.row_log_probs(params, at.target.space, {"theta": z}, at.batch)
        log_p = dist.Normal(0.0, 2.0).log_prob(z)[:, 0] + dist.Normal(z, 1.0).log_prob(Y).sum(1)
        log_weights.append(log_p - log_q)
    bound = (logsumexp(np.stack(log_weights), axis=0) - np.log(num)).sum()
    np.testing.assert_allclose(-found, bound, rtol=1e-5)


@pytest.mark.slow
def test_doubly_reparameterized_gradients_of_rows_are_unbiased():
    at = context()
    params = parameters(at)

    def slopes(objective):
        def one(key):
            return jax.grad(lambda p: objective(Variables(p), at._replace(key=key))[0])(params)

        return jax.tree.leaves(jax.jit(jax.vmap(one))(KEYS))

    for dreg, plain in zip(slopes(IWAE(4)), slopes(IWAE(4, "plain")), strict=True):
        error = np.sqrt((dreg.var(0) + plain.var(0)) / len(KEYS))
        assert (np.abs(dreg.mean(0) - plain.mean(0)) < 5 * error + 1e-3).all()
        assert dreg.var(0).sum() <= plain.var(0).sum() * 1.05


def test_when_weights_are_per_row():
    assert has_independent_rows(context())
    # not with a guide without rows, a Jacobian or a latent site outside of the plate
    assert not has_independent_rows(context(guide=MeanField()))
    assert not has_independent_rows(context(scaled))
    assert not has_independent_rows(context(shared))


def test_doubly_reparameterized_gradients_take_one_backward_pass():
    def decoder(y):
        w = numpyro.param("w", jnp.ones((16, 64)) / 16)
        with numpyro.plate("rows", y.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(16), 1.0).to_event(1))
            numpyro.sample("y", dist.Normal(z @ w @ w.T @ w, 1.0).to_event(1), obs=y)

    arguments, data = split(decoder, (jnp.ones((8, 64)),), {})
    target, guide = build(decoder, arguments), MeanField()
    start = {"z": jnp.zeros((8, 16))}
    variables = Variables(guide.init(KEYS[0], target.space, start), {"w": jnp.ones((16, 64)) / 16})

    def flops(objective):
        def gradient(variables, data):
            at = LossContext({}, KEYS[0], target, guide, Batch(data), jnp.zeros(()))
            return jax.grad(lambda v: objective(v, at)[0])(variables)

        return jax.jit(gradient).lower(variables, data).compile().cost_analysis()["flops"]

    assert flops(IWAE(10)) < 1.1 * flops(IWAE(10, "plain"))
