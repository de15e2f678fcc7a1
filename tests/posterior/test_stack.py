"""Mixtures of fits: evidence weights, stacking weights, gradient steps."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.stats import norm

import vijax
from tests.laws import assert_mean, keys
from tests.posteriors import replaced
from tests.targets import problem
from vijax.contracts import Batch, LossContext, Variables
from vijax.guides import FullRank, MeanField, Mixture
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.guides.mixture import MixtureParams
from vijax.model import build, split
from vijax.objectives import ELBO
from vijax.runtime.errors import GuideError, ModelError, VijaxError

SHARE = 0.7


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def two_modes():
    """A mixture of unit normals at -4 and 4 with weights 0.7 and 0.3; the evidence is one."""
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    modes = [dist.Normal(sign * 4.0, 1.0).log_prob(x) for sign in (-1, 1)]
    weights = jnp.log(jnp.asarray([SHARE, 1 - SHARE]))
    numpyro.factor("target", jnp.logaddexp(modes[0] + weights[0], modes[1] + weights[1]))


def held(posterior, params):
    """A posterior with its parameters replaced."""
    return replaced(posterior, variables=Variables(params))


def normals(loc, sd):
    return MeanFieldParams({"x": jnp.float32(loc)}, {"x": jnp.log(jnp.float32(sd))})


def at_modes():
    """A fit at each mode."""
    found = fit(two_modes, guide="fullrank")
    zero = jnp.zeros(1)
    return [held(found, FullRankParams(zero + loc, zero, jnp.zeros((1, 1)))) for loc in (-4, 4)]


def test_evidence_weights_recover_the_probabilities_of_modes():
    both = vijax.stack(at_modes(), "evidence")
    assert both.guide == Mixture((FullRank(), FullRank()))
    weights = jax.nn.softmax(both.params.logits)
    np.testing.assert_allclose(weights[0], SHARE, atol=0.01)
    assert both.status == "certified"
    np.testing.assert_allclose(both.elbo, 0.0, atol=0.01)
    x = both.sample(4000)["x"]
    assert abs(np.mean(x < 0) - SHARE) < 5 * np.sqrt(SHARE * (1 - SHARE) / 4000)
    assert "2 fits by evidence, weights 0.7" in both.stop_reason


def mean_of(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", y.size):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def narrow(y, loc):
    """A fit with guide `N(loc, 0.1)`."""
    found = fit(mean_of, y, guide="meanfield", init={"mu": np.float32(loc)}, num_steps=1)
    params = MeanFieldParams({"mu": jnp.float32(loc)}, {"mu": jnp.log(jnp.float32(0.1))})
    return held(found, params)


@pytest.mark.slow
def test_stacking_weights_maximize_the_predictive_density():
    """Two of three fits explain parts of the data; the weights are optimal on a grid."""
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2.0, 1.0, 60), rng.normal(2.0, 1.0, 30)]).astype(np.float32)
    fits = [narrow(y, loc) for loc in (-2.0, 2.0, 9.0)]
    both = vijax.stack(fits)
    assert len(both.guide.components) == 2  # the one at nine has negligible weight
    found = float(jax.nn.softmax(both.params.logits)[0])
    # the predictive density under N(loc, 0.1) is N(loc, sqrt(1.01)); leaving one observation out
    # of a narrow fit moves it by the ratio of its precision to the fit's
    scores = []
    for loc in (-2.0, 2.0):
        precision = 100.0 - 1.0
        mean = (100.0 * loc - y.astype(float)) / precision
        variance = 1 + 1 / precision
        scores.append(np.exp(-0.5 * (y - mean) ** 2 / variance) / np.sqrt(variance))
    grid = np.linspace(0.001, 0.999, 999)
    value = [np.log(w * scores[0] + (1 - w) * scores[1]).mean() for w in grid]
    np.testing.assert_allclose(found, grid[int(np.argmax(value))], atol=0.01)


def test_incompatible_fits_are_rejected():
    exact = problem("regression")
    one = fit(exact.model, *exact.args, guide="meanfield")
    other = fit(exact.model, exact.args[0], exact.args[1] + 1, guide="meanfield")
    with pytest.raises(ModelError, match=r"posteriors\[1\]: expected the model, data"):
        vijax.stack([one, other])
    with pytest.raises(GuideError, match=r"posteriors\[0\]: expected a guide with a density"):
        vijax.stack([fit(exact.model, *exact.args, guide="map")])
    with pytest.raises(VijaxError, match="at least one"):
        vijax.stack([])
    with pytest.raises(VijaxError, match="weights: expected one of"):
        vijax.stack([one], "equal")


def elbo_gradient(logit, phase):
    """Losses and gradients in the first logit, of a mixture with displaced components."""
    arguments, data = split(two_modes, (), {})
    target, guide = build(two_modes, arguments), Mixture((MeanField(), MeanField()))
    parts = tuple(normals(loc, np.exp(0.2)) for loc in (-3.5, 3.0))

    def loss(logit, key):
        params = MixtureParams(jnp.stack([logit, jnp.zeros_like(logit)]), parts)
        return ELBO()(Variables(params), LossContext({}, key, target, guide, Batch(data), phase))[0]

    return jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0)))(
        jnp.float32(logit), keys(0, 4000)
    )


@pytest.mark.parametrize("phase", [0, 1])
def test_stratified_losses_and_gradients_are_unbiased(phase):
    """Compared with quadrature."""
    x, sd = np.linspace(-12.0, 12.0, 20_001), np.exp(0.2)

    def loss(logit):
        weight = 1 / (1 + np.exp(-logit))
        parts = [
            np.exp(-0.5 * ((x - loc) / sd) ** 2) / sd / np.sqrt(2 * np.pi) for loc in (-3.5, 3)
        ]
        q = weight * parts[0] + (1 - weight) * parts[1]
        modes = [norm.pdf(x, loc) for loc in (-4.0, 4.0)]
        p = SHARE * modes[0] + (1 - SHARE) * modes[1]
        return np.trapezoid(q * np.log(q / p), x)

    values, slopes = elbo_gradient(0.3, jnp.int32(phase))
    assert_mean(values, loss(0.3), floor=1e-4)
    assert_mean(slopes, (loss(0.301) - loss(0.299)) / 0.002, floor=1e-4)


@pytest.mark.slow
def test_gradient_steps_find_the_weights():
    both = vijax.stack(at_modes(), "evidence")
    even = held(both, both.params._replace(logits=jnp.zeros(2)))
    posterior = fit(two_modes, guide=both.guide, init=even)
    weights = jax.nn.softmax(posterior.params.logits)
    np.testing.assert_allclose(weights[0], SHARE, atol=0.02)
    np.testing.assert_allclose(posterior.elbo, 0.0, atol=0.01)
