"""Steps per second after compilation: vijax, the same computation by hand, NumPyro.

By hand means one jitted `lax.scan` over an ELBO gradient and `optax.adam`, for which a user writes
the log density, the guide, and the rows of each minibatch. NumPyro's `SVI.run` compiles at every
call; here it is jitted once, which few users do.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import vijax
from bench import _problems, _report
from bench.peers import by_numpyro
from vijax.engine.run import Budget

_ADAM = optax.adam(1e-3)
_LOG_2PI = math.log(2 * math.pi)


class Case(NamedTuple):
    """One problem: model and guides for vijax and NumPyro, and the hand-written loop."""

    problem: _problems.Problem
    guide: str
    autoguide: type
    by_hand: Callable[..., Callable[[], Any]]
    steps: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps per second after compilation.")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", choices=CASES, help="one problem")
    options = parser.parse_args()
    results = {}
    for name in [options.only] if options.only else CASES:
        case = CASES[name]()
        seconds = _report.interleaved(_contenders(case), options.repeats)
        results[name] = _summarize(seconds, case.steps)
        print(f"\n{name}: {case.problem.source}, {case.steps} steps, {options.repeats} repeats")
        lines = [(method, *row.values()) for method, row in results[name].items()]
        _report.table(("", "microseconds per step", "speed relative to by hand"), lines)
    _report.save("throughput", results)


def _summarize(seconds: dict[str, list[float]], steps: int) -> dict[str, dict[str, Any]]:
    return {
        method: {
            "step": _report.median_range(1e6 / steps * np.asarray(one)),
            "speed": _report.ratios(seconds["by hand"], one),
        }
        for method, one in seconds.items()
    }


def _contenders(case: Case) -> dict[str, Callable[[], Any]]:
    """The functions to time, already compiled."""
    model, args, _ = case.problem
    fitted = vijax.fit(
        model, *args, guide=case.guide, optimizer=_ADAM, num_steps=case.steps, progress_bar=False
    )

    def engine() -> Any:
        run = fitted._result.engine.advance(
            fitted._result.run, Budget(fitted._result.run.step + case.steps)
        )
        return jax.block_until_ready(run.loop)

    candidates = {
        "vijax": engine,
        "by hand": case.by_hand(case.steps, *args),
        "NumPyro": by_numpyro.compiled(model, args, case.autoguide, case.steps),
    }
    for contender in candidates.values():
        contender()
    return candidates


def _loop(
    loss: Callable[..., jax.Array], params: Any, steps: int, data: tuple[Any, ...], rows: Any = None
) -> Callable[[], Any]:
    """A jitted scan that minimizes `loss(params, key, *data, rows of the step)`."""

    @jax.jit
    def run(carry, key, rows, *data):
        def step(carry, now):
            params, state = carry
            t, *row = now
            value, gradient = jax.value_and_grad(loss)(
                params, jax.random.fold_in(key, t), *data, *row
            )
            update, state = _ADAM.update(gradient, state, params)
            return (optax.apply_updates(params, update), state), value

        return lax.scan(step, carry, (jnp.arange(steps), *rows))

    carry = (params, _ADAM.init(params))
    data = tuple(jnp.asarray(one) for one in data)
    rows = () if rows is None else (rows,)
    return lambda: jax.block_until_ready(run(carry, jax.random.key(0), rows, *data))


def _logistic_log_density(beta: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    logits = x @ beta
    prior = -0.5 * jnp.sum(beta**2) - 0.5 * beta.size * _LOG_2PI
    return prior + jnp.sum(y * logits - jax.nn.softplus(logits))


def _entropy(log_scale: jax.Array) -> jax.Array:
    return jnp.sum(log_scale) + 0.5 * log_scale.size * (1 + _LOG_2PI)


def _mean_field_logistic(steps: int, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    def loss(params, key, x, y):
        loc, log_scale = params
        beta = loc + jnp.exp(log_scale) * jax.random.normal(key, loc.shape)
        return -_logistic_log_density(beta, x, y) - _entropy(log_scale)

    dim = x.shape[1]
    return _loop(loss, (jnp.zeros(dim), jnp.full(dim, -2.0)), steps, (x, y))


def _full_rank_logistic(steps: int, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    def loss(params, key, x, y):
        loc, log_scale, lower = params
        factor = jnp.tril(lower, -1) + jnp.diag(jnp.exp(log_scale))
        beta = loc + factor @ jax.random.normal(key, loc.shape)
        return -_logistic_log_density(beta, x, y) - _entropy(log_scale)

    dim = x.shape[1]
    params = (jnp.zeros(dim), jnp.full(dim, -2.0), jnp.zeros((dim, dim)))
    return _loop(loss, params, steps, (x, y))


def _mean_field_network(steps: int, x: jax.Array, y: jax.Array) -> Callable[[], Any]:
    scale = len(y) / _problems.BATCH

    def loss(params, key, x, y, rows):
        layers, prior, entropy = [], 0.0, 0.0
        for i, layer in enumerate(params):
            drawn = []
            for j, (loc, log_scale) in enumerate(layer):
                noise = jax.random.normal(jax.random.fold_in(key, 2 * i + j), loc.shape)
                z = loc + jnp.exp(log_scale) * noise
                prior += -0.5 * jnp.sum(z**2) - 0.5 * z.size * _LOG_2PI
                entropy += _entropy(log_scale)
                drawn.append(z)
            layers.append(drawn)
        log_probs = jax.nn.log_softmax(_problems.forward(layers, x[rows]))
        likelihood = jnp.take_along_axis(log_probs, y[rows][:, None], axis=1).sum()
        return -(scale * likelihood + prior + entropy)

    def start(shape):
        return jnp.zeros(shape), jnp.full(shape, -2.0)

    widths = zip(_problems.LAYERS, _problems.LAYERS[1:], strict=False)
    params = [(start(shape), start(shape[1:])) for shape in widths]
    shuffled = np.random.default_rng(0).permutation(len(y))[: steps * _problems.BATCH]
    rows = jnp.asarray(shuffled.reshape(steps, _problems.BATCH))
    return _loop(loss, params, steps, (x, y), rows)


CASES: dict[str, Callable[[], Case]] = {
    "mean-field logistic": lambda: Case(
        _problems.wide_logistic(), "meanfield", AutoNormal, _mean_field_logistic, 2000
    ),
    "full-rank logistic": lambda: Case(
        _problems.wide_logistic(),
        "fullrank",
        functools.partial(AutoMultivariateNormal, init_scale=0.1),
        _full_rank_logistic,
        2000,
    ),
    "mean-field network": lambda: Case(
        _problems.network(), "meanfield", AutoNormal, _mean_field_network, 400
    ),
}


if __name__ == "__main__":
    main()
