"""Times of whole fits, on the device and on the CPU of the same machine."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import vijax
from bench import _problems
from bench.accelerator.roofline import best_of, seconds_per_step, start
from bench.accelerator.sizes import Measurement, Sizes, devices
from vijax.contracts import Batch
from vijax.contracts.kernel import Kernel
from vijax.model import split_and_build
from vijax.model.build import _targets

_COLUMNS = 50
_PROBLEMS = {
    "eight schools": _problems.eight_schools,
    "logistic, 10,000 x 100": _problems.wide_logistic,
    "radon": _problems.varying_intercepts,
}
_SOLVERS = {
    "laplace": {"guide": "laplace"},
    "auto": {},
    "fullrank": {"guide": "fullrank"},
    "meanfield": {"guide": "meanfield"},
    "lowrank": {"guide": "lowrank"},
}


def posteriors(sizes: Sizes) -> dict[str, Measurement]:
    """From the call to 1,000 draws: cold, with compilation, and warm."""
    return {
        f"{name}, {platform}": functools.partial(_posterior, make, device, sizes.cold)
        for name, make in list(_PROBLEMS.items())[: sizes.problems]
        for platform, device in devices().items()
    }


def _posterior(make: Any, device: jax.Device, clear: bool, left: float) -> dict[str, Any]:
    model, args, _ = make()
    with jax.default_device(device):
        jax.block_until_ready(jnp.zeros(1) + 1)  # starts the platform
        if clear:  # earlier sections may have compiled its programs
            _targets.clear()
            jax.clear_caches()
        cold, _ = _timed(model, args, left, 0)
        warm, posterior = _timed(model, args, left, 1)
    return {"cold": cold, "warm": warm, "status": posterior.status, "elbo": posterior.elbo}


def _timed(model: Any, args: tuple[Any, ...], left: float, key: int) -> tuple[float, Any]:
    begun = time.perf_counter()
    posterior = vijax.fit(model, *args, rng_key=key, progress_bar=False, max_seconds=left / 2)
    posterior.sample(1000, rng_key=1)
    return time.perf_counter() - begun, posterior


def at_once(sizes: Sizes) -> dict[str, Measurement]:
    """Log densities with gradients at many points, as of chains, and steps of many restarts."""
    found: dict[str, Measurement] = {}
    for platform, device in devices().items():
        for name in list(_PROBLEMS)[: min(2, sizes.problems)]:
            for points in sizes.points:
                label = f"{name}, {points:,} points, {platform}"
                found[label] = functools.partial(_points, name, points, device)
        for restarts in sizes.restarts:
            label = f"eight schools, {restarts} restarts, {platform}"
            found[label] = functools.partial(_restarts, restarts, sizes.seconds, device)
    return found


def _points(name: str, points: int, device: jax.Device, left: float) -> dict[str, Any]:
    model, args, _ = _PROBLEMS[name]()
    with jax.default_device(device):
        _, data, target = split_and_build(model, args, {}, None, frozenset())
        kernel = Kernel(target, Batch(data), block=points)
        at = np.zeros((points, target.space.dim), np.float32)
        seconds = best_of(3, lambda: kernel(at))
    return {"seconds per call": seconds, "gradients per second": points / seconds}


def _restarts(restarts: int, seconds: float, device: jax.Device, left: float) -> dict[str, Any]:
    model, args, _ = _PROBLEMS["eight schools"]()
    with jax.default_device(device):
        taken, _ = seconds_per_step(
            *start(model, args, "meanfield", restarts=restarts), seconds=seconds
        )
    return {"seconds per step": taken, "steps of all restarts per second": restarts / taken}


def rows(sizes: Sizes) -> dict[str, Measurement]:
    """A logistic regression on many rows, 50 columns, on the device only."""
    return {
        "one call of 16 points": functools.partial(_call, sizes.table),
        "default fit": functools.partial(_large_fit, sizes.table, {}),
        "fit on minibatches": functools.partial(
            _large_fit, sizes.table, {"batch_size": min(8192, sizes.table // 4)}
        ),
    }


@functools.cache
def _table(rows: int) -> tuple[jax.Array, jax.Array]:
    """Made on the device, which takes less time than the transfer."""

    @jax.jit
    def simulate(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key, 3)
        x = jax.random.normal(keys[0], (rows, _COLUMNS))
        logits = x @ jax.random.normal(keys[1], (_COLUMNS,)) / np.sqrt(_COLUMNS)
        return x, jax.random.bernoulli(keys[2], jax.nn.sigmoid(logits)).astype(jnp.float32)

    return jax.block_until_ready(simulate(jax.random.key(0)))


def _call(size: int, left: float) -> dict[str, Any]:
    x, y = _table(size)
    _, data, target = split_and_build(_problems.logistic, (x, y), {}, None, frozenset())
    kernel = Kernel(target, Batch(data))
    seconds = best_of(3, lambda: kernel(np.zeros((16, _COLUMNS))))
    return {"seconds": seconds, "GB of data": x.nbytes / 1e9}


def _large_fit(size: int, options: dict[str, Any], left: float) -> dict[str, Any]:
    begun = time.perf_counter()
    posterior = vijax.fit(
        _problems.logistic, *_table(size), progress_bar=False, max_seconds=left, **options
    )
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "status": posterior.status, "reason": posterior.stop_reason}


def round_trips(sizes: Sizes) -> dict[str, Measurement]:
    """Calls of the log density by solvers on the host, and the share of their time."""
    return {
        f"{problem}, {name}, {platform}": functools.partial(_round_trips, make, options, device)
        for problem, make in list(_PROBLEMS.items())[: sizes.problems]
        for name, options in _SOLVERS.items()
        for platform, device in devices().items()
    }


def _round_trips(make: Any, options: dict[str, Any], device: jax.Device, left: float) -> Any:
    model, args, _ = make()
    with jax.default_device(device):
        vijax.fit(model, *args, progress_bar=False, max_seconds=left, **options)
        with counted() as calls:
            begun = time.perf_counter()
            vijax.fit(model, *args, progress_bar=False, max_seconds=left, **options)
            seconds = time.perf_counter() - begun
    number = int(calls["evaluations"])
    return {
        "round trips": number,
        "device calls": int(calls["device calls"]),
        "points": int(calls["points"]),
        "milliseconds per round trip": 1e3 * calls["seconds"] / max(number, 1),
        "seconds of the fit": seconds,
        "share of round trips": calls["seconds"] / seconds,
    }


@contextlib.contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Counts the evaluations of kernels inside, each of which waits for the device."""
    found = dict.fromkeys(("evaluations", "device calls", "points", "seconds"), 0.0)
    evaluate = Kernel._sum

    def timed(kernel: Kernel, program: Any, points: np.ndarray) -> np.ndarray:
        calls, begun = kernel.calls, time.perf_counter()
        result = evaluate(kernel, program, points)
        found["seconds"] += time.perf_counter() - begun
        found["evaluations"] += 1
        found["device calls"] += kernel.calls - calls
        found["points"] += len(points)
        return result

    with mock.patch.object(Kernel, "_sum", timed):
        yield found
