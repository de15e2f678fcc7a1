"""The `TopDown` guide: exact on a linear Gaussian model of two levels, where `Amortized` is not."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import vijax
from vijax import GuideError
from vijax.contracts import Batch
from vijax.guides import Amortized, TopDown
from vijax.model import build, split

ROWS, LINK, NOISE = 100, 2.0, 0.5
SDS = (1 + LINK**2, 1 + LINK**2 + NOISE**2)  # variances of z1 and y
Y = np.random.default_rng(0).normal(0, SDS[1] ** 0.5, (ROWS, 1)).astype(np.float32)


def two_levels(y):
    with numpyro.plate("rows", y.shape[0]):
        top = numpyro.sample("top", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        low = numpyro.sample("low", dist.Normal(LINK * top, 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(low, NOISE).to_event(1), obs=y)


class Top(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(1, 2, rngs=rngs)

    def __call__(self, y):
        return self.layer(y)


class Low(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, y, top):
        return self.layer(jnp.concatenate([y, top], axis=1))


class Features(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(1, 1, rngs=rngs)

    def __call__(self, y):
        return self.layer(y)


class Both(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(1, 4, rngs=rngs)

    def __call__(self, y):
        return self.layer(y)


GUIDE = TopDown({"top": Top, "low": Low}, "y", features=Features)
HOW = {"optimizer": optax.adam(optax.cosine_decay_schedule(0.05, 600)), "num_steps": 600}


def evidence():
    return dist.Normal(0, SDS[1] ** 0.5).log_prob(Y).sum()


PRECISION = np.array([[1 + LINK**2, -LINK], [-LINK, 1 + NOISE**-2]])  # of both levels, given y


def test_two_levels_are_exact():
    posterior = vijax.fit(two_levels, Y, guide=GUIDE, progress_bar=False, **HOW)
    assert abs(posterior.elbo - evidence()) < 5 * posterior.elbo_se + 0.01 * ROWS
    draws = posterior.sample(4000, rng_key=1)
    correlation = np.corrcoef(draws["top"][:, 0, 0], draws["low"][:, 0, 0])[0, 1]
    covariance = np.linalg.inv(PRECISION)
    expected = covariance[0, 1] / np.sqrt(np.diag(covariance).prod())
    assert abs(correlation - expected) < 0.05
    assert posterior.at(np.array([[3.0]], np.float32)).sample(10)["low"].shape == (10, 1, 1)
    rows = posterior.log_evidence_rows(Y, num_draws=100)  # weights are nearly constant
    exact = dist.Normal(0, SDS[1] ** 0.5).log_prob(Y)[:, 0]
    assert np.abs(rows.values - exact).max() < 0.05
    assert rows.ess.min() > 98
    with pytest.raises(GuideError, match="latents: expected latents that are independent"):
        posterior.latents()
    assert posterior.diagnostics.latents is None


@pytest.mark.slow
def test_independent_levels_have_the_gap_of_their_correlation():
    posterior = vijax.fit(two_levels, Y, guide=Amortized(Both, "y"), progress_bar=False, **HOW)
    gap = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
    found = (evidence() - posterior.elbo) / ROWS
    assert abs(found - gap) < 5 * posterior.elbo_se / ROWS + 0.01


@pytest.mark.parametrize("order", [("top", "low"), ("low", "top")])
def test_density_and_draw_agree(order):
    arguments, data = split(two_levels, (Y,), {})
    space, batch = build(two_levels, arguments).space, Batch(data)
    guide = TopDown(dict(zip(order, (Top, Low), strict=True)), "y")
    start = {s.name: jnp.zeros(s.z_shape) for s in space.sites}
    params = guide.init(jax.random.key(0), space, start)
    levels = {name: own._replace(gate=jnp.array([0.5])) for name, own in params.levels.items()}
    params = params._replace(levels=levels)
    draw = guide.draw(params, space, jax.random.key(1), batch)
    log_q = guide.log_prob(params, space, draw.z, batch)
    np.testing.assert_allclose(draw.log_q, log_q, rtol=1e-5)
    first, second = (np.asarray(draw.z[name]) for name in order)
    total = 0.0
    for value, inputs, name in (
        (first, Y, order[0]),
        (second, np.concatenate([Y, first], 1), order[1]),
    ):
        loc, raw = (inputs @ levels[name].encoder["layer"]["kernel"]).T
        total += dist.Normal(loc, 0.3 * np.exp(0.5 * raw)).log_prob(value[:, 0]).sum()
    np.testing.assert_allclose(log_q, total, rtol=1e-4)


def test_every_site_has_an_encoder():
    with pytest.raises(GuideError, match=r"encoders: expected one for each .*'top', 'low'"):
        vijax.fit(two_levels, Y, guide=TopDown({"top": Top}, "y"), num_steps=1)
