"""Encoders with batch normalization and dropout: in steps as in training, elsewhere not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import vijax
from tests.groups import data, groups, hierarchy
from vijax import GuideError
from vijax.algorithms import Gradient, Optimizer
from vijax.contracts import Batch, Variables
from vijax.engine.engine import Engine
from vijax.engine.initialization import origin
from vijax.engine.problem import Problem
from vijax.engine.run import Budget
from vijax.guides import Amortized, resolve
from vijax.model import batch_request, split_and_build
from vijax.objectives import ELBO

Y = data(60) + 3.0
ROWS, STEPS, MOMENTUM = 20, 7, 0.9


class Normalized(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, momentum=MOMENTUM, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.layer = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, y):
        return self.layer(self.dropout(self.norm(y)))


GUIDE = {"theta": Amortized(Normalized, "y"), ...: "meanfield"}


def problem(model, guide):
    arguments, arrays, target = split_and_build(
        model, (Y,), {}, batch_request({"rows": ROWS}, None)
    )
    guide = resolve(guide, target, model, arguments)
    return Problem(model, arguments, target, guide, Batch(arrays), jax.random.key(0))


@pytest.mark.slow
def test_running_statistics_are_those_of_the_batches():
    """Of the inputs themselves, so that they are known; unlike weights they take no step."""
    one = problem(hierarchy, GUIDE)
    space = one.target.space
    engine = Engine(one, Gradient(ELBO(), Optimizer(optax.adamw(0.1, weight_decay=0.5))))
    params = one.guide.init(one.key, space, origin(space))
    run = engine.advance(engine.start([Variables(params)], {}), Budget(STEPS))
    fitted = engine.steps.variables(run.loop).guide[1].encoder
    mean, var = np.zeros(3), np.ones(3)
    for step in range(STEPS):
        rows = Y[one.schedule.index(step)["rows"]]
        mean = MOMENTUM * mean + (1 - MOMENTUM) * rows.mean(0)
        var = MOMENTUM * var + (1 - MOMENTUM) * rows.var(0)
    norm = fitted.statistics["norm"]
    np.testing.assert_allclose(norm["mean"][0], mean, rtol=1e-5)
    np.testing.assert_allclose(norm["var"][0], var, rtol=1e-5)
    assert not np.allclose(
        fitted.params["layer"]["kernel"], params[1].encoder.params["layer"]["kernel"]
    )


def test_steps_drop_and_evaluations_do_not():
    one = problem(groups, Amortized(Normalized, "y"))
    guide, space = one.guide, one.target.on_batch.space
    params = guide.init(one.key, space, origin(space))._replace(gate=jnp.ones(1))
    rows = one.first_batch
    whole = guide.row_params(params, space, rows)
    layer = params.encoder.params["layer"]
    plain = Y[np.asarray(rows.index["rows"])] / np.sqrt(1 + 1e-5) @ layer["kernel"]
    np.testing.assert_allclose(whole.loc["theta"], plain[:, :1], rtol=1e-5)

    @jax.jit
    def in_step(step):
        batch = rows._replace(step=step)
        draw = guide.draw(params, space, jax.random.key(step), batch)
        return draw.log_q, guide.log_prob(params, space, draw.z, batch)

    found = np.array([in_step(step) for step in range(3)])
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-4)  # masks are those of the step
    assert len({*found[:, 0].round(3)}) == 3


@pytest.mark.slow
def test_a_fit_with_normalization_is_exact_and_resumed_bit_for_bit(tmp_path):
    """The encoder can be the exact posterior; encodings of rows do not depend on other rows."""

    def fit(steps):
        options = {"batch_size": {"rows": 50}, "optimizer": optax.adam(0.01)}
        return vijax.fit(groups, y, guide=guide, num_steps=steps, progress_bar=False, **options)

    guide, y = Amortized(OnlyNormalized, "y"), data(400)
    posterior = fit(4000)
    new = np.array([[3.0, 4.0, 5.0], [-1.0, 0.0, 1.0]], np.float32)
    draws = posterior.at(new).sample(4000)["theta"][:, :, 0]
    np.testing.assert_allclose(draws.mean(0), new.sum(1) / 3.25, atol=0.15)
    np.testing.assert_allclose(draws.std(0), 3.25**-0.5, rtol=0.15)
    alone = posterior.at(new[:1]).sample(4000)["theta"][:, :, 0]
    np.testing.assert_allclose(alone.mean(), draws[:, 0].mean(), atol=0.05)
    resumed = fit(1500).resume(2500, progress_bar=False)
    for one, other in zip(
        jax.tree.leaves(posterior.params), jax.tree.leaves(resumed.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    posterior.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", groups, y, guide=guide)
    np.testing.assert_array_equal(
        loaded.at(new).sample(5)["theta"], posterior.at(new).sample(5)["theta"]
    )


class OnlyNormalized(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.layer = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, y):
        return self.layer(self.norm(y))


@pytest.mark.slow
def test_other_algorithms_do_not_update_statistics_and_are_refused():
    guide = {"theta": Amortized(Normalized, "y"), ...: "conjugate"}
    with pytest.raises(GuideError, match=r"algorithm: .*running statistics \(BatchNorm\)"):
        vijax.fit(hierarchy, Y, guide=guide, num_steps=2, progress_bar=False)
