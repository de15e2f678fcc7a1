"""`ELBO(beta=...)`: the weight of the divergence from the prior, by number and by schedule."""

import functools

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from vijax import GuideError
from vijax.algorithms import Gradient, Optimizer
from vijax.contracts import Batch, Variables
from vijax.engine.engine import Engine
from vijax.engine.initialization import origin
from vijax.engine.problem import Problem
from vijax.engine.run import Budget
from vijax.guides import MeanField
from vijax.model import split_and_build
from vijax.objectives import ELBO, IWAE, Tempered
from vijax.objectives.divergence_weight import weighted_target

RNG = np.random.default_rng(0)
Y = np.float32(1.5)
FIXED = {"guide": "meanfield", "optimizer": optax.sgd(0.0), "progress_bar": False}


def model(y):
    scale = numpyro.sample("scale", dist.Gamma(3.0, 3.0))  # whose log Jacobian is part of the prior
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, scale), obs=y)


def cycles():
    ramp = optax.linear_schedule(0.0, 1.0, 4)
    return optax.join_schedules([ramp, ramp], [8])


def fit(beta, num_steps=20):
    return vijax.fit(model, Y, objective=ELBO(beta=beta), num_steps=num_steps, **FIXED)


@functools.cache
def problem():
    arguments, arrays, target = split_and_build(model, (Y,), {}, None)
    return Problem(model, arguments, target, MeanField(), Batch(arrays), jax.random.key(0))


def losses(beta, *stops):
    """Losses of the steps to the last stop, each with the parameters of the start."""
    one = problem()
    engine = Engine(one, Gradient(ELBO(beta=beta), Optimizer(optax.sgd(0.0))))
    params = one.guide.init(one.key, one.target.space, origin(one.target.space))
    run = engine.start([Variables(params)], {})
    for stop in stops:
        run = engine.advance(run, Budget(stop))
    return run.losses[:, 0]


def test_the_weight_of_a_step_is_that_of_the_schedule():
    """The loss is the likelihood plus the weight times the rest; also when a run is continued."""
    without, whole = losses(0.0, 500), losses(1.0, 20)
    weights = np.array([cycles()(t) for t in range(20)])
    scheduled = losses(cycles(), 11, 20)
    np.testing.assert_array_equal(scheduled, losses(cycles(), 20))
    difference = whole - without[:20]
    np.testing.assert_allclose(scheduled, without[:20] + weights * difference, rtol=2e-5)
    space = problem().target.space
    params = problem().guide.init(problem().key, space, origin(space))
    sds = {name: np.exp(value) for name, value in params.log_scale.items()}
    z = {name: RNG.normal(params.loc[name], sds[name], 50_000) for name in space.names}
    likelihood = np.asarray(dist.Normal(z["z"], np.exp(z["scale"])).log_prob(Y))
    assert abs(without.mean() + likelihood.mean()) < 5 * without.std() / len(without) ** 0.5


def normal(y):
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.slow
def test_a_constant_weight_scales_the_prior_and_the_elbo_reported_is_that_of_the_model():
    """The optimum has the precision `1 + 1 / beta`; its ELBO is the evidence less a divergence."""
    posterior = vijax.fit(normal, Y, guide="meanfield", objective=ELBO(beta=4.0), num_steps=3000)
    variance = posterior.covariance()[0, 0]
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
    assert algorithm.maximizes_elbo
    assert algorithm.scheduled
    assert not Gradient(ELBO(beta=2.0), Optimizer(optax.adam(0.1))).maximizes_elbo
    assert not Gradient(IWAE(2), Optimizer(optax.adam(0.1))).scheduled
    assert Tempered(objective=ELBO(beta=cycles())).scheduled


def mixture(y):
    label = numpyro.sample("label", dist.Bernoulli(0.5))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu + label, 1.0), obs=y)


def test_what_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match=r"beta: expected a number from 0 up"):
        ELBO(beta=-1.0)
    with pytest.raises(ValueError, match=r"num_steps: .*schedule"):
        Gradient(ELBO(beta=cycles()), Optimizer(optax.sgd(0.1))).for_fit(None, MeanField())
    with pytest.raises(GuideError, match=r"beta: expected continuous sites, got 'label'"):
        weighted_target(split_and_build(mixture, (Y,), {}, None)[2], 0.5)


@pytest.mark.slow
def test_a_fit_with_a_schedule_is_saved_and_resumed(tmp_path):
    posterior = fit(cycles(), num_steps=11)
    posterior.save(tmp_path / "fit")
    loaded = vijax.load(
        tmp_path / "fit", model, Y, objective=ELBO(beta=cycles()), optimizer=FIXED["optimizer"]
    )
    np.testing.assert_array_equal(loaded.resume(9, progress_bar=False).losses, fit(cycles()).losses)
