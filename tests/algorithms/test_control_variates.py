"""Learned control variates: stored and resumed with the fit."""

import dataclasses
import functools

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
from vijax.algorithms import Adam, Gradient, Optimizer
from vijax.contracts import Batch, ControlVariateObjective, LossContext, Variables
from vijax.guides import AmortizedDiscrete, Discrete
from vijax.objectives import ELBO, Tempered
from vijax.objectives.estimators.discrete import Rebar, Relax

rng = np.random.default_rng(0)
WEIGHTS = np.array([[1.5, -1.0, 0.5], [-0.5, 2.0, 1.0], [1.0, 1.0, -1.0]], np.float32)
ON = rng.integers(0, 2, (40, 3)).astype(np.float32)
Y = (np.tanh(ON @ WEIGHTS) + 0.7 * rng.normal(size=(40, 3))).astype(np.float32)
LEARNED = [Rebar(0.5, learned=True), Relax()]


def network(y):
    """Units that are dependent given the data, and one shared by all rows."""
    top = numpyro.sample("top", dist.Bernoulli(0.3))
    with numpyro.plate("rows", y.shape[0]):
        h = numpyro.sample("h", dist.Bernoulli(0.3 + 0.3 * top).expand([3]).to_event(1))
        loc = jnp.tanh(h @ jnp.asarray(WEIGHTS))
        numpyro.sample("y", dist.Normal(loc, 0.7).to_event(1), obs=y)


def fit(estimator, num_steps=300, model=network, y=Y, **options):
    return vijax.fit(
        model,
        y,
        **{
            "guide": "discrete",
            "objective": ELBO(discrete=estimator),
            "optimizer": optax.adam(0.02),
            "num_steps": num_steps,
            "progress_bar": False,
        }
        | options,
    )


def control_params(posterior):
    return jax.device_get(posterior._result.run.loop.state.control_params)


def assert_same(one, other):
    """Bitwise equality of the state of two runs."""
    found = (jax.tree.leaves(jax.device_get((p.run.loop, p.losses))) for p in (one, other))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@functools.cache
def full_fit(estimator):
    return fit(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LEARNED, ids=repr)
def test_100_and_200_steps_are_300_in_process_and_through_a_file(estimator, tmp_path):
    part = fit(estimator, 100)
    part.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", network, Y, optimizer=optax.adam(0.02))
    for first in (part, loaded):
        assert_same(first.resume(200, progress_bar=False), full_fit(estimator))
    start, end = (jax.tree.leaves(control_params(p)) for p in (part, full_fit(estimator)))
    assert any(np.abs(a - b).max() > 0.01 for a, b in zip(start, end, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LEARNED, ids=repr)
def test_an_interrupted_fit_resumes_to_the_same_result(estimator, tmp_path):
    def interrupt(run, losses, step):
        if step >= 100:
            raise StopIteration

    path = vijax.Checkpoint(tmp_path / "fit", 0.0)
    assert fit(estimator, checkpoint=path, callbacks=[interrupt]).num_steps < 300
    assert_same(fit(estimator, checkpoint=path), full_fit(estimator))


@pytest.mark.slow
def test_restarts_learn_separately():
    posterior = fit(Relax(), 300, num_restarts=2)
    for leaf in jax.tree.leaves(control_params(posterior)):
        assert leaf.shape[0] == 2
        assert (leaf[0] != leaf[1]).any()
    part = fit(Relax(), 100, num_restarts=2)
    assert_same(part.resume(200, progress_bar=False), posterior)


def linear(rngs):
    return nnx.Linear(3, 3, rngs=rngs)


def rows(y):
    with numpyro.plate("rows", y.shape[0]):
        h = numpyro.sample("h", dist.Bernoulli(0.4).expand([3]).to_event(1))
        loc = jnp.tanh(h @ jnp.asarray(WEIGHTS))
        numpyro.sample("y", dist.Normal(loc, 0.7).to_event(1), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [Discrete(), AmortizedDiscrete(linear, "y")], ids=["rows", "net"])
def test_batches(guide):
    """Per-row parameters are packed, those of control variates are shared by all rows."""
    options = {"model": rows, "guide": guide, "batch_size": 10}
    posterior = fit(Relax(), **options)
    assert_same(fit(Relax(), 100, **options).resume(200, progress_bar=False), posterior)
    state = posterior._result.run.loop.state
    learned = (state.rest if isinstance(guide, Discrete) else state).control_params
    first = learned.surrogate["h"]["layers"][0]["kernel"]
    assert first.shape[1] == 2 * 3  # per row: noise and logits of three units


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LEARNED, ids=repr)
def test_learned_control_variates_reduce_the_variance(estimator):
    posterior = fit(estimator, 2000)
    objective, target = ELBO(discrete=estimator), posterior._result.target
    at = LossContext(
        {}, jax.random.key(4), target, posterior.guide, posterior._result.batch, jnp.zeros(())
    )
    keys = jax.random.split(jax.random.key(5), 2000)

    def variance(controls):
        def one(key):
            context = at._replace(key=key, control_params=controls)
            slopes = jax.grad(lambda v: objective(v, context)[0])(posterior._result.variables)
            return jax.flatten_util.ravel_pytree(slopes)[0]

        slopes = np.asarray(jax.jit(lambda: jax.lax.map(one, keys, batch_size=500))(), float)
        return slopes.var(0).sum()

    learned = jax.tree.map(lambda leaf: leaf[0], control_params(posterior))
    assert variance(learned) < 0.8 * variance(objective.init_control_params(at))


@pytest.mark.slow
def test_the_state_has_no_leaves_for_objectives_without_them():
    posterior = fit(Rebar(), 10)
    state = posterior._result.run.loop.state
    assert jax.tree.leaves((state.control_params, state.control_optimizer)) == []
    continuous = vijax.fit(continuous_rows, Y, guide="meanfield", num_steps=10, progress_bar=False)
    assert jax.tree.leaves(continuous._result.run.loop.state.control_params) == []


def continuous_rows(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)


@pytest.mark.slow
def test_a_tempered_objective_passes_them_on():
    posterior = fit("auto", 50, objective=Tempered((0.5,), ELBO(discrete=Relax())))
    assert control_params(posterior).surrogate.keys() == {"h", "top"}


@dataclasses.dataclass(frozen=True)
class Toy(ControlVariateObjective):
    """A gradient of 1 plus `c` times a random sign; not finite for large `c`."""

    def init_control_params(self, context):
        return jnp.asarray(1.0)

    def __call__(self, variables, context):
        noise = jax.random.rademacher(context.key, (), float)
        x = variables.guide
        return x + context.control_params * noise * (x - jax.lax.stop_gradient(x)), {}


def state_after(algorithm, steps, start=None):
    nothing = (None, Discrete(), Batch({}))
    state = algorithm.init(Variables(jnp.asarray(0.0)), {}, jax.random.key(0), *nothing)
    state = state if start is None else state._replace(control_params=start)
    for t in range(steps):
        state, _ = algorithm.step(state, jax.random.key(t), *nothing)
    return state


def test_control_variates_descend_the_gradient_of_the_squared_norm():
    """`d/dc (1 + c s)^2 = 2 s (1 + c s)`, whose mean is `2 c`."""
    algorithm = Gradient(
        Toy(), Optimizer(optax.sgd(0.0)), control_optimizer=Optimizer(optax.sgd(0.1))
    )
    state = state_after(algorithm, 1)
    sign = float(jax.random.rademacher(jax.random.key(0), (), float))
    assert float(state.control_params) == pytest.approx(1 - 0.1 * 2 * sign * (1 + sign))
    assert abs(float(state_after(algorithm, 100).control_params)) < 0.6


def test_a_non_finite_step_of_the_control_variates_is_skipped():
    algorithm = Gradient(Toy(), Optimizer(optax.sgd(0.0)))
    initial = state_after(algorithm, 0, jnp.asarray(3e38))
    state, _ = algorithm.step(initial, jax.random.key(0), None, Discrete(), Batch({}))
    for new, old in zip(*map(jax.tree.leaves, (state[5:], initial[5:])), strict=True):
        np.testing.assert_array_equal(new, old)


def test_they_are_unchanged_when_the_variables_move():
    algorithm = Gradient(Toy(), Adam(0.1))
    state = state_after(algorithm, 3)
    slower = algorithm.rescale(state, 0.25)
    assert (slower.control_params, slower.control_optimizer) == (
        state.control_params,
        state.control_optimizer,
    )
    kept, reset = (algorithm.move(state, state.variables, flag) for flag in (False, True))
    assert kept.control_params == reset.control_params == state.control_params
    assert kept.control_optimizer[0].count == 3
    assert reset.control_optimizer[0].count == 0


def wide(width, rngs):
    return nnx.Linear(2 * width, 2, rngs=rngs)


def dropout(width, rngs):
    return nnx.Sequential(nnx.Linear(2 * width, 1, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))


@pytest.mark.parametrize(
    ("surrogate", "message"),
    [
        (wide, r"surrogate's outputs: expected one number for each of \d+ rows"),
        (dropout, r"surrogate: expected no state but nnx.Param"),
    ],
)
def test_unsuitable_networks_raise(surrogate, message):
    with pytest.raises(GuideError, match=message):
        fit(Relax(surrogate), 10)
    with pytest.raises(GuideError, match=r"surrogate: expected a function of a width"):
        Relax(3)
