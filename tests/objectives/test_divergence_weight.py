"""`ELBO(beta=...)`: the weight of the divergence from the prior, by number and by schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from vijax import GuideError
from vijax.algorithms import Gradient, Optimizer
from vijax.objectives import ELBO, IWAE, Tempered

Y = np.float32(1.5)
FIXED = {"guide": "meanfield", "optimizer": optax.sgd(0.0), "progress_bar": False}


def model(y):
    scale = numpyro.sample("scale", dist.Gamma(3.0, 3.0))  # whose log Jacobian is part of the prior
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, scale), obs=y)


def cycles():
    ramp = optax.linear_schedule(0.0, 1.0, 4)
    return optax.join_schedules([ramp, ramp], [8])


def losses(beta, num_steps=20, **options):
    return vijax.fit(model, Y, objective=ELBO(beta=beta), num_steps=num_steps, **FIXED, **options)


def test_the_weight_of_a_step_is_that_of_the_schedule():
    """The loss is linear in the weight; also after `resume` and from a checkpoint."""
    without, whole = losses(0.0).losses, losses(1.0).losses
    weights = np.array([cycles()(t) for t in range(20)])
    scheduled = losses(cycles()).losses
    np.testing.assert_allclose(scheduled, without + weights * (whole - without), rtol=2e-5)
    resumed = losses(cycles(), num_steps=11).resume(9, progress_bar=False)
    np.testing.assert_array_equal(resumed.losses, scheduled)


def test_priors_and_no_likelihood_are_weighted():
    """Without the divergence the loss is the expected likelihood at the initial distribution."""
    posterior = losses(0.0, num_steps=200)
    draws = posterior.sample(20_000, corrected=False)
    expected = -dist.Normal(draws["z"], draws["scale"]).log_prob(Y)
    error = np.std(posterior.losses) / 200**0.5
    assert abs(posterior.losses.mean() - expected.mean()) < 5 * error


def normal(y):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_a_constant_weight_scales_the_prior_and_the_elbo_reported_is_that_of_the_model():
    """The optimum has the precision `1 + 1 / beta`; its ELBO is the evidence less a divergence."""
    posterior = vijax.fit(normal, Y, guide="meanfield", objective=ELBO(beta=4.0), num_steps=3000)
    mean, variance = posterior.sample(1, corrected=False)["z"], posterior.covariance()[0, 0]
    del mean
    assert variance == pytest.approx(1 / 1.25, rel=0.05)
    loc, sd = float(posterior.params.loc["z"]), variance**0.5
    assert loc == pytest.approx(Y * 0.25 / 1.25, abs=0.05)
    evidence = float(dist.Normal(0.0, 2**0.5).log_prob(Y))
    gap = np.log(0.5**0.5 / sd) + (sd**2 + (loc - Y / 2) ** 2) / (2 * 0.5) - 0.5
    assert abs(posterior.elbo - (evidence - gap)) < 5 * posterior.elbo_se


def test_equal_schedules_are_equal_objectives():
    assert ELBO(beta=cycles()) == ELBO(beta=cycles())
    assert hash(ELBO(beta=cycles())) == hash(ELBO(beta=cycles()))
    assert ELBO(beta=cycles()) != ELBO(beta=optax.linear_schedule(0.0, 1.0, 5))
    assert ELBO(beta=1) == ELBO()
    algorithm = Gradient(ELBO(beta=cycles()), Optimizer(optax.adam(0.1)))
    assert algorithm.maximizes_elbo and algorithm.scheduled
    assert not Gradient(ELBO(beta=2.0), Optimizer(optax.adam(0.1))).maximizes_elbo
    assert not Gradient(IWAE(2), Optimizer(optax.adam(0.1))).scheduled
    assert Tempered(objective=ELBO(beta=cycles())).scheduled


def mixture(y):
    label = numpyro.sample("label", dist.Bernoulli(0.5))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu + label, 1.0), obs=y)


def test_what_has_no_meaning_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"beta: expected a number from 0 up"):
        ELBO(beta=-1.0)
    with pytest.raises(ValueError, match=r"num_steps: .*schedule"):
        losses(cycles(), num_steps=None)
    with pytest.raises(GuideError, match=r"beta: expected continuous sites, got 'label'"):
        vijax.fit(mixture, Y, objective=ELBO(beta=0.5), num_steps=2, **FIXED)


def test_a_fit_with_a_schedule_is_saved_and_resumed(tmp_path):
    posterior = losses(cycles(), num_steps=11)
    posterior.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", model, Y, objective=ELBO(beta=cycles()), optimizer=FIXED["optimizer"])
    np.testing.assert_array_equal(
        loaded.resume(9, progress_bar=False).losses, losses(cycles()).losses
    )
