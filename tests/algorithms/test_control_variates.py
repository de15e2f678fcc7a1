"""Control variates that learn as a fit goes on: kept with it, and written down with it."""

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
    """Units that depend on one another given the data, and one for all rows."""
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


def controls(posterior):
    return jax.device_get(posterior._result.run.loop.state.control_params)


def assert_same(one, other):
    """The same bits in everything that a run keeps."""
    found = (jax.tree.leaves(jax.device_get((p.run.loop, p.losses))) for p in (one, other))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@functools.cache
def whole(estimator):
    return fit(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LEARNED, ids=repr)
def test_100_and_200_steps_are_300_in_process_and_through_a_file(estimator, tmp_path):
    part = fit(estimator, 100)
    part.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", network, Y, optimizer=optax.adam(0.02))
    for begun in (part, loaded):
        assert_same(begun.resume(200, progress_bar=False), whole(estimator))
    start, end = (jax.tree.leaves(controls(p)) for p in (part, whole(estimator)))
    assert any(np.abs(a - b).max() > 0.01 for a, b in zip(start, end, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LEARNED, ids=repr)
def test_a_fit_that_was_cut_short_ends_where_it_would_have_ended(estimator, tmp_path):
    def cut(run, losses, step):
        if step >= 100:
            raise StopIteration

    path = vijax.Checkpoint(tmp_path / "fit", 0.0)
    assert fit(estimator, checkpoint=path, callbacks=[cut]).num_steps < 300
    assert_same(fit(estimator, checkpoint=path), whole(estimator))


@pytest.mark.slow
def test_restarts_learn_apart():
    posterior = fit(Relax(), 300, num_restarts=2)
    for leaf in jax.tree.leaves(controls(posterior)):
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
    """Parameters by row are packed, those of control variates serve all rows."""
    options = {"model": rows, "guide": guide, "batch_size": 10}
    posterior = fit(Relax(), **options)
    assert_same(fit(Relax(), 100, **options).resume(200, progress_bar=False), posterior)
    state = posterior._result.run.loop.state
    learned = (state.rest if isinstance(guide, Discrete) else state).controls
    first = learned.surrogate["h"]["layers"][0]["kernel"]
    assert first.shape[1] == 2 * 3  # of a row: noise and logits of three units


@pytest.mark.slow
@pytest.mark.parametrize("estimator", LEARNED, ids=repr)
def test_what_is_learned_lowers_the_variance(estimator):
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

    learned = jax.tree.map(lambda leaf: leaf[0], controls(posterior))
    assert variance(learned) < 0.8 * variance(objective.init_control_params(at))


def test_nothing_is_kept_for_objectives_without_them():
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
def test_a_flattened_target_hands_them_on():
    posterior = fit("auto", 50, objective=Tempered((0.5,), ELBO(discrete=Relax())))
    assert controls(posterior).surrogate.keys() == {"h", "top"}


@dataclasses.dataclass(frozen=True)
class Toy(ControlVariateObjective):
    """A gradient of one, moved by `c` times a sign with mean zero; not finite where `c` asks."""

    def init_control_params(self, context):
        return jnp.asarray(1.0)

    def __call__(self, variables, context):
        noise = jax.random.rademacher(context.key, (), float)
        x = variables.guide
        return x + context.control_params * noise * (x - jax.lax.stop_gradient(x)), {}


def state_after(algorithm, steps, start=None):
    nothing = (None, None, Batch({}))
    state = algorithm.init(Variables(jnp.asarray(0.0)), {}, jax.random.key(0), *nothing)
    state = state if start is None else state._replace(control_params=start)
    for t in range(steps):
        state, _ = algorithm.step(state, jax.random.key(t), *nothing)
    return state


def test_control_variates_follow_the_gradient_of_the_squared_norm():
    """`d/dc (1 + c s)^2 = 2 s (1 + c s)`, whose mean is `2 c`."""
    algorithm = Gradient(
        Toy(), Optimizer(optax.sgd(0.0)), control_optimizer=Optimizer(optax.sgd(0.1))
    )
    state = state_after(algorithm, 1)
    sign = float(jax.random.rademacher(jax.random.key(0), (), float))
    assert float(state.control_params) == pytest.approx(1 - 0.1 * 2 * sign * (1 + sign))
    assert abs(float(state_after(algorithm, 100).controls)) < 0.6


def test_a_step_of_theirs_that_is_not_finite_is_left_out():
    algorithm = Gradient(Toy(), Optimizer(optax.sgd(0.0)))
    begun = state_after(algorithm, 0, jnp.asarray(3e38))
    state, _ = algorithm.step(begun, jax.random.key(0), None, None, Batch({}))
    for new, old in zip(*map(jax.tree.leaves, (state[5:], begun[5:])), strict=True):
        np.testing.assert_array_equal(new, old)


def test_they_stay_where_they_are_when_the_variables_move_on():
    algorithm = Gradient(Toy(), Adam(0.1))
    state = state_after(algorithm, 3)
    slower = algorithm.rescale(state, 0.25)
    assert (slower.control_params, slower.control_optimizer) == (
        state.control_params,
        state.control_optimizer,
    )
    kept, forgotten = (algorithm.move(state, state.variables, forget) for forget in (False, True))
    assert kept.control_params == forgotten.control_params == state.control_params
    assert kept.control_optimizer[0].count == 3
    assert forgotten.control_optimizer[0].count == 0


def wide(width, rngs):
    return nnx.Linear(2 * width, 2, rngs=rngs)


def forgetful(width, rngs):
    return nnx.Sequential(nnx.Linear(2 * width, 1, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))


@pytest.mark.parametrize(
    ("surrogate", "message"),
    [
        (wide, r"surrogate's outputs: expected one number for each of \d+ rows"),
        (forgetful, r"surrogate: expected no state but nnx.Param"),
    ],
)
def test_networks_that_do_not_fit_are_refused(surrogate, message):
    with pytest.raises(GuideError, match=message):
        fit(Relax(surrogate), 10)
    with pytest.raises(GuideError, match=r"surrogate: expected a function of a width"):
        Relax(3)
