"""Steps per second of networks, and their share of what the device could do at best.

A step takes at least as long as its operations at the device's peak rate, and as its bytes at the
peak bandwidth. Operations are those of the step's program before compilation (vendors' matrix
products are calls that XLA does not count), bytes those after it, when loops have been fused; both
by XLA's own analysis. The compiled program may move more bytes than it must, and caches may serve
some of them, so that a share can exceed one; the share at the least traffic counts parameters and
the optimizer's state, read and written once, and the rows of a batch. The peaks are measured by a
large matrix product and a large copy.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from numpyro.contrib.module import nnx_module

from bench import _problems
from bench.accelerator.sizes import Measurement, Sizes
from vijax.algorithms import Gradient, Optimizer
from vijax.contracts import Batch
from vijax.engine.engine import Engine
from vijax.engine.loop import run_steps
from vijax.engine.problem import Problem
from vijax.engine.run import Run
from vijax.fitting.initial_values import initial_variables, model_state
from vijax.guides import Amortized, resolve
from vijax.model import batch_request, split_and_build
from vijax.objectives import ELBO
from vijax.runtime.keys import as_key

_PIXELS, _CLASSES, _UNITS = 784, 10, 50
_MAX_STEPS = 2000  # of a segment of the loop
# Vendors' figures of dense products: operations per second in bfloat16 and TF32 or float32, and
# bytes per second.
DATASHEETS = {
    "NVIDIA A100": (312e12, 156e12, 2.0e12),
    "NVIDIA H100": (989e12, 494e12, 3.35e12),
    "NVIDIA H200": (989e12, 494e12, 4.8e12),
    "TPU v4": (275e12, 275e12, 1.2e12),
    "TPU v5 lite": (197e12, 197e12, 0.82e12),
    "TPU v5p": (459e12, 459e12, 2.77e12),
    "TPU v6 lite": (918e12, 918e12, 1.64e12),
}


class Peaks(NamedTuple):
    """Operations per second by precision, and bytes per second."""

    flops: dict[str, float]
    bandwidth: float


def section(sizes: Sizes) -> dict[str, Measurement]:
    """Networks by precision and minibatch size, alternating, and the peaks."""
    found: dict[str, Measurement] = {}
    for batch, name, precision in itertools.product(sizes.batches, NETWORKS, sizes.precisions):
        label = f"{name}, batch {batch}, {precision or 'float32'}"
        found[label] = functools.partial(_measure, sizes, name, batch, precision)
    return found | {"peaks": lambda left: _described(peaks(sizes))}


@functools.cache
def peaks(sizes: Sizes) -> Peaks:
    """Measured: a product of two square matrices, a copy of a long vector."""
    size, flops = sizes.product, {}
    for name in ("float32", "bfloat16"):
        one = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(name))
        seconds = best_of(5, functools.partial(jax.jit(jnp.matmul), one, one))
        flops[name] = 2 * size**3 / seconds
    vector = jnp.ones(sizes.vector)
    seconds = best_of(5, functools.partial(jax.jit(jnp.negative), vector))
    return Peaks(flops, 2 * vector.nbytes / seconds)


def best_of(repeats: int, function: Callable[[], Any]) -> float:
    """The least seconds of a call, after one for compilation."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _described(found: Peaks) -> dict[str, Any]:
    kind = jax.devices()[0].device_kind
    return {
        "device": kind,
        **{f"{name}, TFLOP/s": value / 1e12 for name, value in found.flops.items()},
        "GB/s": found.bandwidth / 1e9,
        "datasheet": next((row for name, row in DATASHEETS.items() if kind.startswith(name)), None),
    }


def _dense(sizes: tuple[int, ...], rngs: nnx.Rngs, dtype: Any) -> nnx.List:
    pairs = itertools.pairwise(sizes)
    return nnx.List([nnx.Linear(a, b, rngs=rngs, dtype=dtype) for a, b in pairs])


@functools.cache
def _encoder(width: int, precision: str | None) -> type[nnx.Module]:
    class Encoder(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            sizes = (_PIXELS, width, width, 2 * _UNITS)
            self.layers = _dense(sizes, rngs, precision and jnp.dtype(precision))

        def __call__(self, x: jax.Array) -> jax.Array:
            return _through(self.layers, x).astype(jnp.float32)

    return Encoder


class _Decoder(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.layers = _dense((_UNITS, width, width, _PIXELS), rngs, None)

    def __call__(self, z: jax.Array) -> jax.Array:
        return _through(self.layers, z)


def _through(layers: nnx.List, x: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        x = jax.nn.relu(layer(x))
    return layers[-1](x)


def _classifier(width: int) -> Callable[..., None]:
    """The Bayesian network 784-width-width-10."""
    shapes = list(itertools.pairwise((_PIXELS, width, width, _CLASSES)))

    def model(x: jax.Array, y: jax.Array) -> None:
        layers = []
        for i, shape in enumerate(shapes):
            weight = numpyro.sample(f"w{i}", dist.Normal(0.0, 1.0).expand(shape).to_event(2))
            bias = numpyro.sample(f"b{i}", dist.Normal(0.0, 1.0).expand(shape[1:]).to_event(1))
            layers.append((weight, bias))
        with numpyro.plate("rows", len(y)):
            logits = _problems.forward(layers, x)
            numpyro.sample("y", dist.Categorical(logits=logits), obs=y)

    return model


def _autoencoder(width: int) -> Callable[..., None]:
    def model(x: jax.Array) -> None:
        decoder = nnx_module("decoder", _Decoder(width, nnx.Rngs(0)))
        with numpyro.plate("rows", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([_UNITS]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    return model


@functools.cache
def _images(rows: int) -> tuple[jax.Array, jax.Array]:
    """Binary pixels and labels, made on the device."""
    key = jax.random.key(0)
    x = jax.random.bernoulli(key, 0.2, (rows, _PIXELS)).astype(jnp.float32)
    return x, jax.random.randint(jax.random.fold_in(key, 1), (rows,), 0, _CLASSES)


NETWORKS = ("network", "autoencoder")


@functools.cache
def _model(name: str, width: int) -> Callable[..., None]:
    return _classifier(width) if name == "network" else _autoencoder(width)


def _measure(
    sizes: Sizes, name: str, batch: int, precision: str | None, left: float
) -> dict[str, Any]:
    x, y = _images(sizes.rows)
    guide: Any = "meanfield"
    args: tuple[Any, ...] = (x, y)
    if name == "autoencoder":
        guide, args = Amortized(_encoder(sizes.width, precision), "x"), (x,)
    engine, run = start(_model(name, sizes.width), args, guide, batch, precision=precision)
    seconds, number = seconds_per_step(engine, run, sizes.seconds)
    flops, moved = cost_of_step(engine, run)
    found, least = peaks(sizes), least_bytes(run, batch)
    computed = flops / found.flops[precision or "float32"]
    return {
        "steps per second": 1 / seconds,
        "rows per second": batch / seconds,
        "steps timed": number,
        "GFLOP per step": flops / 1e9,
        "GB per step": moved / 1e9,
        "GB at least": least / 1e9,
        "share of the roofline": max(computed, moved / found.bandwidth) / seconds,
        "share at the least traffic": max(computed, least / found.bandwidth) / seconds,
        "TFLOP/s": flops / seconds / 1e12,
        "GB/s": moved / seconds / 1e9,
    }


def start(
    model: Callable[..., None],
    args: tuple[Any, ...],
    guide: Any,
    batch: int | None = None,
    restarts: int = 1,
    precision: str | None = None,
) -> tuple[Engine, Run]:
    """Gradient steps at their start, as `fit` prepares them."""
    request = batch_request(batch and {"rows": batch}, None)
    arguments, data, target = split_and_build(model, args, {}, request, frozenset())
    resolved = resolve(guide, target, model, arguments)
    problem = Problem(model, arguments, target, resolved, Batch(data), as_key(0))
    algorithm = Gradient(ELBO(), Optimizer(optax.adam(1e-3)), precision=precision)
    engine = Engine(problem, algorithm)
    parameters, mutable = model_state(problem, None)
    variables = initial_variables(None, problem, parameters, mutable, restarts)
    return engine, engine.start(variables, mutable)


def seconds_per_step(engine: Engine, run: Run, seconds: float) -> tuple[float, int]:
    """The median of three timings of as many steps as take about `seconds`."""
    number = 1
    engine.steps.run(run, number, False)  # compiles
    while True:
        found = []
        for _ in range(3):
            begun = time.perf_counter()
            loop, _, _ = engine.steps.run(run, number, False)
            jax.block_until_ready(loop)
            found.append(time.perf_counter() - begun)
        most = min(_MAX_STEPS, engine.problem.schedule.chunk_end(0) or _MAX_STEPS)
        taken = float(np.median(found))
        if taken >= seconds or number >= most:
            return taken / number, number
        number = min(most, max(2 * number, int(1.2 * number * seconds / taken)))


def least_bytes(run: Run, batch: int) -> float:
    """Parameters and the optimizer's state, read and written once, and the rows of a batch."""
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(run.loop.state))
    return 2.0 * state + 4.0 * batch * _PIXELS


def cost_of_step(engine: Engine, run: Run) -> tuple[float, float]:
    """Operations and bytes of one step; XLA counts the body of a loop once."""
    problem, steps = engine.problem, engine.steps
    table = steps.schedule.chunk(0)
    args = (steps.put(run.loop), steps.key, run.active, True, 0, 1, steps.batch, table)
    static = (problem.guide, engine.algorithm, False, len(run.phases))
    program = problem.target.program(run_steps, *static, float32=False)
    lowered = program.lower(*args)
    before, after = lowered.cost_analysis() or {}, lowered.compile().cost_analysis() or {}
    moved = after.get("bytes accessed", 0.0)
    return before.get("flops", 0.0), moved if moved > 0 else before.get("bytes accessed", 0.0)
