"""Gradients through 200 Bernoulli variables: a sigmoid belief network on binarized MNIST.

    python -m bench.gradients --data mnist_static_binarized.npz [--steps 20000]
    python -m bench.gradients --data ... --steps 300000 --rate 3e-3 --cosine --only REBAR

Encoder and decoder have one linear layer, as the linear networks of DisARM: an antithetic gradient
estimator for binary latent variables, Dong, Mnih, Tucker, 2020: 200 units, batches of 50 images,
Adam at 1e-4 for the network and plain gradient steps at 1e-2 for the prior. The paper draws a new
binarization for every batch, here it is Larochelle's fixed one. `--cosine` decays the network's
learning rate to zero. Each estimator trains a separate network by `vijax.fit`; then the variances
of all gradients are computed at the same network, DisARM's, after some steps in which learned
control variates adapt to it. `--data` is an `.npz` file with the images as packed bits, 98 bytes
each, under `train` and `test`.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from jax import Array

import vijax
from bench import _report
from vijax.algorithms import Gradient, Optimizer
from vijax.contracts import Batch, LossContext, Target, Variables
from vijax.diagnostics import importance as weights
from vijax.engine.run import Budget
from vijax.guides import AmortizedDiscrete
from vijax.objectives import ELBO
from vijax.objectives.estimators import discrete

_HIDDEN, _PIXELS, _BATCH = 200, 784, 50
_RATE, _PRIOR_RATE = 1e-4, 1e-2
_STEPS = 20_000
_WINDOW = 500  # steps whose losses are averaged
_HELD_OUT = 1000
_LEARNING = 2000  # steps in which control variates adapt to a network
_FEW = 50  # draws of all held-out images; gradients, where one takes 201 evaluations

ESTIMATORS: dict[str, discrete.Estimator] = {
    "local expectation": discrete.LocalExpectation(),
    "DisARM": discrete.DisARM(),
    "leave-one-out, 2 draws": discrete.LeaveOneOut(2),
    "leave-one-out, 4 draws": discrete.LeaveOneOut(4),
    "REBAR": discrete.Rebar(),
    "REBAR, learned": discrete.Rebar(learned=True),
    "RELAX, learned": discrete.Relax(),
    "Gumbel-softmax (biased)": discrete.GumbelSoftmax(),
    "straight-through (biased)": discrete.StraightThrough(),
}
_REFERENCE, _UNAFFORDABLE = "DisARM", "local expectation"


class Encoder(nnx.Module):
    """From an image, minus the mean image, to the logits of the units."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(_PIXELS, _HIDDEN, rngs=rngs)

    def __call__(self, seen: Array) -> Array:
        return self.layer(seen)


def network(x: Array, seen: Array) -> None:
    """Images `x`; `seen`, the input of the encoder."""
    del seen

    def random(key: Array) -> Array:
        return jax.random.normal(key, (_HIDDEN, _PIXELS)) / jnp.sqrt(_HIDDEN)

    def odds(key: Array) -> Array:
        return jax.scipy.special.logit(jnp.clip(jnp.mean(x, axis=0), 0.01, 0.99))

    prior = numpyro.param("prior", jnp.zeros(_HIDDEN))
    decoder, pixels = numpyro.param("decoder", random), numpyro.param("pixels", odds)
    with numpyro.plate("images", x.shape[0]):
        h = numpyro.sample("h", dist.Bernoulli(logits=prior).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=h @ decoder + pixels).to_event(1), obs=x)


class Clock:
    """Callback that records the time and the step; the first call is after compilation."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []

    def __call__(self, state: Any, losses: Any, step: int) -> None:
        self.marks.append((time.perf_counter(), step))

    @property
    def seconds_a_step(self) -> float:
        (started, first), (ended, last) = self.marks[0], self.marks[-1]
        return (ended - started) / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--draws", type=int, default=500, help="number of gradients per variance")
    parser.add_argument("--rate", type=float, default=_RATE, help="Adam's learning rate")
    parser.add_argument("--cosine", action="store_true", help="cosine decay to zero")
    parser.add_argument("--only", nargs="+", default=list(ESTIMATORS), help="estimators")
    parser.add_argument(
        "--save",
        help="store as bench/results/SAVE.json; by default only the complete table is stored",
    )
    options = parser.parse_args()
    names = [name for name in ESTIMATORS if name in (*options.only, _REFERENCE)]
    packed = np.load(options.data)
    train, test = (
        np.unpackbits(packed[part], axis=1)[:, :_PIXELS].astype(np.float32)
        for part in ("train", "test")
    )
    mean = train.mean(axis=0)
    held_out = test[:: len(test) // _HELD_OUT]  # the first thousand are harder than the others
    rate: optax.ScalarOrSchedule = options.rate
    if options.cosine:
        rate = optax.cosine_decay_schedule(options.rate, options.steps)
    rows: dict[str, dict[str, Any]] = {}
    curves, posteriors = {}, {}
    for name in names:
        rows[name] = {}
        if name == _UNAFFORDABLE:
            continue
        clock = Clock()
        posterior = _fitted(name, train, mean, options.steps, rate, clock)
        curves[name] = -posterior.losses / len(train)
        rows[name]["milliseconds_a_step"] = 1e3 * clock.seconds_a_step
        rows[name]["elbo_after_steps"] = _last(curves[name])
        rows[name]["test_elbo"] = _held_out(posterior, held_out, mean)
        posteriors[name] = posterior if name == _REFERENCE else None
        print(name, rows[name], flush=True)
    seconds = options.steps * min(r["milliseconds_a_step"] for r in rows.values() if r) / 1e3
    # with a cosine schedule, an intermediate network differs from the end of a shorter fit
    for name, curve in ({} if options.cosine else curves).items():
        reached = int(seconds / rows[name]["milliseconds_a_step"] * 1e3)
        rows[name]["elbo_after_seconds"] = _last(curve[:reached])
    images = {"x": train[:_BATCH], "seen": train[:_BATCH] - mean}
    for name in names:
        draws = min(options.draws, _FEW) if name == _UNAFFORDABLE else options.draws
        reference = posteriors[_REFERENCE]
        controls = _learned(name, reference)
        rows[name]["variance"] = _variance(name, reference, controls, images, draws)
    _show(rows, seconds)
    settings = {one: getattr(options, one) for one in ("steps", "rate", "cosine", "draws")}
    usual = (options.steps, options.rate, options.cosine) == (_STEPS, _RATE, False)
    complete = usual and names == [*ESTIMATORS]
    if options.save or complete:
        found = settings | {"seconds": seconds, "estimators": rows}
        _report.save(options.save or "gradients", found)


def _fitted(
    name: str,
    train: np.ndarray,
    mean: np.ndarray,
    steps: int,
    rate: optax.ScalarOrSchedule,
    clock: Clock,
) -> vijax.Posterior:
    """The network trained with one estimator."""
    # the loss is a sum over all images, the rate is meant for their mean
    prior = optax.sgd(_PRIOR_RATE / len(train))

    def labels(variables: Variables) -> Variables:
        model = {one: "prior" if one == "prior" else "network" for one in variables.model}
        return Variables(jax.tree.map(lambda _: "network", variables.guide), model)

    return vijax.fit(
        network,
        train,
        train - mean,
        guide=AmortizedDiscrete(Encoder, "seen"),
        objective=ELBO(discrete=ESTIMATORS[name]),
        optimizer=optax.multi_transform({"network": optax.adam(rate), "prior": prior}, labels),
        batch_size=_BATCH,
        num_steps=steps,
        callbacks=[clock],
        progress_bar=False,
    )


def _learned(name: str, posterior: vijax.Posterior) -> Any:
    """The control variates' parameters after steps with a fixed network."""
    assert posterior._result.engine is not None
    fixed = Gradient(ELBO(discrete=ESTIMATORS[name]), Optimizer(optax.set_to_zero()))
    engine = dataclasses.replace(posterior._result.engine, algorithm=fixed, anneal=False)
    run = engine.start([posterior._result.variables], posterior._result.mutable)
    steps = _LEARNING if jax.tree.leaves(run.loop.state.control_params) else 0
    run = engine.advance(run, Budget(steps))
    return jax.tree.map(lambda leaf: leaf[0], run.loop.state.control_params)


def _held_out(posterior: vijax.Posterior, images: np.ndarray, mean: np.ndarray) -> float:
    """ELBO of held-out images, in nats per image."""
    held_out = posterior.at(images, images - mean)
    result = held_out._result
    state = (result.target, held_out.guide, result.variables, result.mutable)
    found = weights.draw(*state, jax.random.key(0), result.batch, _FEW)
    return float(weights.elbo(found.log_weights)[0]) / len(images)


def _last(curve: np.ndarray) -> float:
    return float(curve[-_WINDOW:].mean())


def _variance(
    name: str,
    posterior: vijax.Posterior,
    controls: Any,
    images: Mapping[str, np.ndarray],
    num: int,
) -> float:
    """Variance of the gradient of the mean ELBO of images, summed over the encoder's weights."""
    given = posterior.at(*images.values())
    target = given._result.target
    program = target.program(_gradient_moments, given.guide, ELBO(discrete=ESTIMATORS[name]))
    keys = jax.random.split(jax.random.key(3), num)
    mean, squared = program(keys, posterior._result.variables, controls, given._result.batch)
    excess = [
        np.asarray(b, float) - np.asarray(a, float) ** 2 for a, b in zip(mean, squared, strict=True)
    ]
    return float(sum(one.sum() for one in excess)) * num / (num - 1)


def _gradient_moments(
    target: Target,
    guide: Any,
    objective: ELBO,
    keys: Array,
    at: Variables,
    controls: Any,
    batch: Batch,
) -> Any:
    """Means of the entries of the gradient, minus those of the first draw, and of their squares."""

    def one(key: Array) -> list[Array]:
        def loss(params: Any) -> Array:
            setting = LossContext({}, key, target, guide, batch, jnp.zeros(()), controls)
            return objective(at._replace(guide=params), setting)[0] / _BATCH

        return jax.tree.leaves(jax.grad(loss)(at.guide))

    first = one(keys[0])

    def add(totals: Any, key: Array) -> Any:
        centered = [a - b for a, b in zip(one(key), first, strict=True)]
        return jax.tree.map(jnp.add, totals, (centered, [d**2 for d in centered])), None

    zeros = jax.tree.map(jnp.zeros_like, (first, first))
    totals, _ = jax.lax.scan(add, zeros, keys)
    return jax.tree.map(lambda total: total / len(keys), totals)


def _show(rows: Mapping[str, Mapping[str, float]], seconds: float) -> None:
    heads = {
        "variance": "variance",
        "elbo_after_steps": "ELBO, equal steps",
        "elbo_after_seconds": f"ELBO, {seconds:.0f} s",
        "test_elbo": "ELBO, test images",
        "milliseconds_a_step": "ms per step",
    }
    lines = [
        (name, *(f"{row[one]:.4g}" if one in row else "-" for one in heads))
        for name, row in rows.items()
    ]
    _report.table(("", *heads.values()), lines)


if __name__ == "__main__":
    main()
