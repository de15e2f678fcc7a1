"""The training loop: exact resumption, stopping, restarts, non-finite steps."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.primitives import mutable

import vijax
from tests import targets
from vijax.engine import engine as _engine
from vijax.guides import FullRank, MeanField


def fit(problem, **options):
    options = {"algorithm": "gradient", "progress_bar": False, **options}
    return vijax.fit(problem.model, *problem.args, **options)


def leaves(posterior):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(posterior._result.variables)]


def same(a, b):
    return all((x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))


REGRESSION = targets.problem("regression")


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(restarts):
    options = {"guide": "fullrank", "num_restarts": restarts}
    whole = fit(REGRESSION, num_steps=330, **options)
    resumed = fit(REGRESSION, num_steps=105, **options).resume(225, progress_bar=False)
    np.testing.assert_array_equal(whole.losses, resumed.losses)
    assert same(whole, resumed)
    assert whole.elbo == resumed.elbo


def test_results_do_not_depend_on_the_segment_length(monkeypatch):
    whole = fit(REGRESSION, num_steps=330, guide="fullrank")
    monkeypatch.setattr(_engine, "_next_length", lambda length, seconds: 10)
    segments = fit(REGRESSION, num_steps=330, guide="fullrank")
    np.testing.assert_array_equal(whole.losses, segments.losses)
    assert same(whole, segments)


def test_the_stopping_rule_ends_at_the_exact_posterior():
    posterior = fit(REGRESSION, guide="fullrank")
    assert posterior.converged
    assert posterior.stop_reason.startswith("converged")
    assert posterior.elbo == pytest.approx(REGRESSION.log_evidence, abs=0.02)
    sd = np.sqrt(np.diag(REGRESSION.z_covariance))
    mean = posterior.guide.mean(posterior.params, posterior.space)
    assert np.max(np.abs(mean - REGRESSION.z_mean) / sd) < 0.05
    assert np.max(np.abs(np.sqrt(np.diag(posterior.covariance())) / sd - 1)) < 0.05
    assert posterior.status == "certified"


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(1e-2, momentum=0.9),
        optax.adabelief(3e-2),
        optax.lion(1e-3),
        optax.adam(optax.exponential_decay(0.05, 500, 0.3)),
        optax.contrib.dowg(),
        optax.chain(optax.clip_by_global_norm(10.0), optax.rmsprop(1e-2)),
    ],
    ids=["sgd", "adabelief", "lion", "schedule", "dowg", "chain"],
)
def test_any_optax_transformation_works(optimizer):
    problem = targets.problem("normal_mean")
    objective = vijax.objectives.ELBO(num_particles=16, estimator="stl")
    posterior = fit(
        problem, guide="meanfield", optimizer=optimizer, objective=objective, num_steps=1500
    )
    sd = np.sqrt(problem.z_covariance[0, 0])
    assert abs(posterior.params.loc["mu"] - problem.z_mean[0]) < 0.25 * sd
    assert posterior.elbo > problem.log_evidence - 0.1


@pytest.mark.slow
def test_line_searches_receive_the_value_function():
    problem = targets.problem("normal_mean")
    start = {"guide": "meanfield", "init": {"mu": 30.0}, "num_steps": 60}
    objective = vijax.objectives.ELBO(num_particles=64, estimator="entropy")
    posterior = fit(problem, optimizer=optax.lbfgs(), objective=objective, **start)
    assert posterior.losses[0] > 500
    assert posterior.elbo > problem.log_evidence - 5


def test_callbacks_receive_the_losses_and_can_stop():
    seen = []

    def callback(state, losses, step):
        seen.append((step, len(losses)))
        if step >= 200:
            raise StopIteration

    posterior = fit(REGRESSION, callbacks=[callback], guide="meanfield")
    assert posterior.stop_reason == "stopped by a callback"
    assert posterior.num_steps == seen[-1][0] >= 200
    assert all(step == count for step, count in seen)


def test_ctrl_c_returns_the_current_posterior():
    def interrupt(state, losses, step):
        if step >= 500:
            raise KeyboardInterrupt

    with pytest.warns(vijax.VijaxWarning, match="interrupted by Ctrl-C"):
        posterior = fit(REGRESSION, callbacks=[interrupt], guide="meanfield")
    assert posterior.stop_reason == "interrupted by Ctrl-C"
    assert posterior.status == "approximate"
    assert 500 <= posterior.num_steps < 5000
    assert posterior.losses.shape == (posterior.num_steps,)
    assert abs(posterior.elbo - REGRESSION.log_evidence) < 3


def test_max_seconds_ends_the_fit():
    posterior = fit(REGRESSION, max_seconds=0.01, guide="meanfield", num_steps=10**6)
    assert posterior.stop_reason.startswith("max_seconds=0.01 reached")
    assert posterior.num_steps < 10**6


def two_modes():
    weights = jnp.log(jnp.array([0.1, 0.9]))
    z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    parts = dist.Normal(jnp.array([-10.0, 10.0]), 1.0).log_prob(z) + weights
    numpyro.factor("mixture", jax.nn.logsumexp(parts))


def test_the_best_of_several_restarts_is_returned():
    posterior = vijax.fit(
        two_modes,
        guide="meanfield",
        num_restarts=8,
        num_steps=1500,
        algorithm="gradient",
        progress_bar=False,
    )
    assert posterior.losses.shape == (1500, 8)
    assert posterior.params.loc["z"] == pytest.approx(10, abs=0.3)
    assert posterior.elbo == pytest.approx(np.log(0.9), abs=0.05)


def trap():
    """A log density that is not finite to the right of 1.5."""
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.factor("trap", jnp.where(z > 1.5, jnp.nan, 0.0))


def test_nonfinite_steps_are_skipped_and_reported():
    posterior = vijax.fit(
        trap, guide="meanfield", num_steps=2000, algorithm="gradient", progress_bar=False
    )
    (nonfinite,) = posterior._result.run.nonfinite_steps
    assert nonfinite.site == "trap"
    assert nonfinite.quantity == "log density"
    assert np.isnan(posterior.losses[nonfinite.step])
    assert np.isfinite(posterior.losses).mean() > 0.6
    assert np.isfinite(posterior.params.loc["z"])
    assert posterior.status != "certified"
    assert "site 'trap'" in posterior.report()
    # the key reproduces the non-finite draw
    key = jax.random.wrap_key_data(jnp.array(nonfinite.key, dtype="uint32"))
    before = vijax.fit(
        trap, guide="meanfield", num_steps=nonfinite.step, algorithm="gradient", progress_bar=False
    )
    params = _engine.select_restart(before._result.run.loop.state.variables.guide, 0)
    z = before.guide.draw(params, before.space, key, before._result.batch).z
    assert z["z"] > 1.5


def test_nonfinite_steps_do_not_change_earlier_ones():
    options = {"guide": "meanfield", "algorithm": "gradient", "progress_bar": False}
    posterior = vijax.fit(trap, num_steps=2000, **options)
    first = posterior._result.run.nonfinite_steps[0].step
    clean = vijax.fit(trap, num_steps=first, **options)
    np.testing.assert_allclose(posterior.losses[:first], clean.losses, rtol=1e-5)


def minibatched(x, y, batch):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", x.shape[0], subsample_size=batch) as rows:
        numpyro.sample("y", dist.Normal(beta * x[rows], 1.0), obs=y[rows])


@pytest.mark.slow
def test_minibatches_find_the_full_posterior():
    rng = np.random.default_rng(0)
    x = rng.normal(size=500).astype(np.float32)
    y = (0.7 * x + rng.normal(size=500)).astype(np.float32)
    precision = 1 + np.sum(x.astype(float) ** 2)
    mean, sd = np.sum(x.astype(float) * y) / precision, precision**-0.5
    posterior = vijax.fit(minibatched, x, y, 50, guide="meanfield", progress_bar=False)
    assert abs(posterior.params.loc["beta"] - mean) < 0.25 * sd
    assert np.exp(posterior.params.log_scale["beta"]) == pytest.approx(sd, rel=0.1)
    assert posterior.status == "approximate"
    resumed = vijax.fit(minibatched, x, y, 50, num_steps=130, progress_bar=False).resume(
        90, progress_bar=False
    )
    whole = vijax.fit(minibatched, x, y, 50, num_steps=220, progress_bar=False)
    np.testing.assert_array_equal(whole.losses, resumed.losses)


def empirical_bayes(y):
    center = numpyro.param("center", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("rows", y.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(center, scale))
        numpyro.sample("y", dist.Normal(theta, 0.5), obs=y)


@pytest.mark.parametrize("guide", ["meanfield", pytest.param("fullrank", marks=pytest.mark.slow)])
def test_model_parameters_are_fitted_jointly(guide):
    y = np.random.default_rng(1).normal(2.0, 1.5, size=60).astype(np.float32)
    posterior = vijax.fit(empirical_bayes, y, guide=guide, progress_bar=False)
    # the marginal likelihood is N(center, scale^2 + 0.25), maximized in closed form
    assert posterior.model_params["center"] == pytest.approx(y.mean(), abs=0.02)
    assert posterior.model_params["scale"] == pytest.approx(np.sqrt(y.var() - 0.25), rel=0.02)
    exact = dist.Normal(y.mean(), y.std()).log_prob(y).sum()
    assert posterior.elbo == pytest.approx(float(exact), abs=0.1)


def running_mean(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    state = mutable("state", {"steps": 0.0, "mean": 0.0})
    state["steps"] = state["steps"] + 1.0
    state["mean"] = 0.9 * state["mean"] + 0.1 * jax.lax.stop_gradient(mu)
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_mutable_state_is_passed_from_step_to_step():
    options = {"guide": "meanfield", "algorithm": "gradient", "progress_bar": False}
    short = vijax.fit(running_mean, np.ones(50, np.float32), num_steps=100, **options)
    long = vijax.fit(running_mean, np.ones(50, np.float32), num_steps=600, **options)
    assert long._result.mutable["state"]["steps"] - short._result.mutable["state"]["steps"] == 500
    assert long._result.mutable["state"]["mean"] == pytest.approx(50 / 51, abs=0.2)


@pytest.mark.parametrize("guide", [MeanField(), FullRank()])
def test_a_warm_start_continues_the_parameters(guide):
    first = fit(REGRESSION, guide=guide)
    again = fit(REGRESSION, guide=guide, init=first, num_steps=10)
    assert np.mean(again.losses) == pytest.approx(-first.elbo, abs=5 * np.std(again.losses) + 0.5)
    assert again.elbo == pytest.approx(first.elbo, abs=0.3)
