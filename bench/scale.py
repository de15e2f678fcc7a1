"""Minibatches: time of a step against a hand-written loop, and as the number of rows grows.

`rows`: logistic regression on minibatches of many rows, against one jitted `lax.scan` that indexes
the same arrays. `latents`: a local latent variable for every row; time of a step with a thousand
times the rows, and memory relative to parameters and Adam's moments. Compilation is excluded from
both. `covertype`: held-out log predictive density of fits on minibatches, of rows in memory and on
disk, and of one on all rows, 100,000 rows of the Covertype data. `mapped`: the same regression on a
file four times as large as the memory limit of the process, against the same rows in memory.
`curves`: a step as rows, local latent variables, parameters and devices grow. `sharding`: restarts,
draws and per-row parameters on eight simulated devices, against one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from jax import lax

import vijax
from bench import _report
from vijax.contracts import Plate
from vijax.engine.row_schedule import RowSchedule
from vijax.engine.run import Budget
from vijax.posterior.posterior import Posterior

_ADAM = optax.adam(1e-3)
_LOG_2PI = math.log(2 * math.pi)
_BATCH = 1024
_BY_ROW = {"theta": "meanfield", ...: "fullrank"}  # six numbers per row, see `latents`
_COVERTYPE = Path(__file__).parents[2] / "shared" / "data" / "covtype100k" / "covtype100k.npz"
_STEPS = 2000
_FEW = 200  # steps where some cases are slow
_LIMIT = 2**30  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=SUITES)
    parser.add_argument(
        "--largest", type=int, default=10_000_000, help="rows with local latent variables"
    )
    parser.add_argument("--limited", metavar="FILE", help=argparse.SUPPRESS)  # see `mapped`
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)  # see `curves`
    parser.add_argument("--sharding", action="store_true", help=argparse.SUPPRESS)  # see `sharding`
    options = parser.parse_args()
    if options.sharding:
        print(json.dumps(_sharded(options.repeats)))
        return
    if options.devices:
        print(json.dumps(_on_devices(options.devices, options.repeats)))
        return
    if options.limited:
        _limited(options.limited)
        return
    chosen = [options.only] if options.only else SUITES
    found = _report.stored("scale") if options.only else {}
    _report.save("scale", found | {name: SUITES[name](options) for name in chosen})


def rows(options: argparse.Namespace) -> dict[str, Any]:
    """A million rows, 50 columns."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1_000_000, 50)).astype(np.float32)
    y = (rng.random(len(x)) < 1 / (1 + np.exp(-x[:, :5].sum(1)))).astype(np.float32)
    fitted = _fit(_logistic, (x, y), guide="meanfield", batch_size=_BATCH)
    candidates = {"vijax": _further(fitted), "by hand": _by_hand(x, y)}
    seconds = _report.interleaved(candidates, options.repeats)
    found = {
        "speed": _report.ratios(seconds["by hand"], seconds["vijax"]),
        "step": _steps(seconds),
    }
    print(f"\n{len(x):,} rows, batches of {_BATCH}; speed relative to by hand {found['speed']}")
    _report.table(("", "microseconds per step"), list(found["step"].items()))
    return found


def latents(options: argparse.Namespace) -> dict[str, Any]:
    """A normal mean per row, two observations of each."""
    sizes = (10_000, options.largest)
    rng = np.random.default_rng(0)
    fits, state_ratio, total_ratio = {}, {}, {}
    for size in sizes:
        theta = rng.normal(1.0, 2.0, size).astype(np.float32)
        y = theta[:, None] + rng.normal(size=(size, 2)).astype(np.float32)
        before = _resident()
        fitted = _fit(_hierarchy, (y,), guide=_BY_ROW, batch_size={"rows": _BATCH})
        state = 6 * 4 * size  # loc, log sd and two moments of each
        leaves = jax.tree.leaves(fitted._result.run.loop)
        state_ratio[size] = sum(leaf.nbytes for leaf in leaves) / state
        fits[size] = _further(fitted)
        total_ratio[size] = (_resident() - before) / (state + y.nbytes)
    candidates = {str(size): fits[size] for size in sizes}
    seconds = _report.interleaved(candidates, options.repeats)
    small, large = (1e6 / _STEPS * np.array(s) for s in seconds.values())
    found = {
        "ratio": _report.ratios(large, small),
        "step": _steps(seconds),
        "memory of the state over parameters and moments": state_ratio[sizes[1]],
        "memory while steps go over parameters, moments and data": total_ratio[sizes[1]],
    }
    print(f"\nlocal latents: time of a step, {sizes[1]:,} over {sizes[0]:,} rows: {found['ratio']}")
    _report.table(("rows", "microseconds per step"), list(found["step"].items()))
    print(f"memory of the state over parameters and moments: {state_ratio[sizes[1]]:.2f}")
    print(f"memory during steps over parameters, moments and data: {total_ratio[sizes[1]]:.2f}")
    return found


def covertype(options: argparse.Namespace) -> dict[str, Any]:
    """The most frequent of seven forest types against the others; a fifth of the rows held out."""
    if not _COVERTYPE.exists():
        print("\ncovertype: skipped, no data")
        return {}
    data = np.load(_COVERTYPE)
    classes = [np.eye(data[name].max() + 1)[data[name]] for name in ("wilderness", "soil")]
    x = np.column_stack([data["x_num"], *classes])
    y = (data["y"] == np.bincount(data["y"]).argmax()).astype(np.float32)
    x = x[:, x.std(0) > 0]
    x = np.column_stack([np.ones(len(x)), (x - x.mean(0)) / x.std(0)]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    held, kept = order[: len(x) // 5], order[len(x) // 5 :]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x[kept])
        on_disk, batches = np.load(path, mmap_mode="r"), {"batch_size": _BATCH}
        ways = {
            "all rows": (x[kept], {"guide": "fullrank"}),
            f"batches of {_BATCH}": (x[kept], batches),
            f"batches of {_BATCH}, on disk": (on_disk, batches),
            f"batches of {_BATCH}, full-rank steps": (x[kept], batches | {"guide": "fullrank"}),
        }
        for name, (rows, chosen) in ways.items():
            started = time.perf_counter()
            posterior = vijax.fit(_logistic, rows, y[kept], progress_bar=False, **chosen)
            seconds = time.perf_counter() - started
            logits = x[held] @ posterior.sample(1000, rng_key=1)["beta"].T
            signed = np.where(y[held][:, None] == 1, logits, -logits)
            density = np.log(np.mean(1 / (1 + np.exp(-signed)), axis=1)).mean()
            found[name] = {
                "seconds": seconds,
                "held out": float(density),
                "elbo": posterior.elbo,
                "status": posterior.status,
            }
    print(f"\ncovertype, {len(kept):,} rows, {x.shape[1]} columns")
    lines = [(name, *one.values()) for name, one in found.items()]
    _report.table(("", "seconds", "held-out log density per row", "ELBO", "status"), lines)
    return found


def mapped(options: argparse.Namespace) -> dict[str, Any]:
    """Twenty million rows, 50 columns: on disk with a memory limit of 1 GiB, and in memory."""
    block = np.random.default_rng(0).normal(size=(1_000_000, 50)).astype(np.float32)
    x = np.empty((4 * _LIMIT // block[0].nbytes, 50), np.float32)
    for start in range(0, len(x), len(block)):
        x[start : start + len(block)] = block[: len(x) - start]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x)
        y, x = _labels(len(x)), jnp.asarray(x)
        fitted = _fit(_logistic, (x, y), guide="meanfield", batch_size=_BATCH)
        command = [sys.executable, "-m", "bench.scale", "--limited", str(path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=Path(__file__).parents[1], **pipes) as child:
            candidates = {"on disk": lambda: _ask(child), "in memory": _further(fitted)}
            _ask(child)  # the first steps, including compilation
            seconds = _report.interleaved(candidates, options.repeats)
            child.stdin.close()
    found = {
        "data over limit": x.nbytes / _LIMIT,
        "speed": _report.ratios(seconds["in memory"], seconds["on disk"]),
        "step": _steps(seconds),
    }
    print(f"\n{len(x):,} rows in a file, {found['data over limit']:.1f} times the memory limit")
    print(f"speed relative to rows in memory: {found['speed']}")
    _report.table(("rows", "microseconds per step"), list(found["step"].items()))
    return found


def _ask(child: subprocess.Popen) -> None:
    child.stdin.write("go\n")
    child.stdin.flush()
    if child.stdout.readline() != "done\n":
        raise RuntimeError("the process with limited memory failed, see above")


def _limited(path: str) -> None:
    """Runs steps on rows in a file for each line of input, with limited memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (_LIMIT, _LIMIT))
    x = np.load(path, mmap_mode="r")
    try:
        np.array(x)
    except MemoryError:
        pass
    else:
        raise RuntimeError("the memory limit is not enforced")
    fitted = _fit(_logistic, (x, _labels(len(x))), guide="meanfield", batch_size=_BATCH)
    steps = _further(fitted)
    for _ in sys.stdin:
        steps()
        print("done", flush=True)


def _labels(rows: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2, rows, dtype=np.int8)


def curves(options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds per step as rows, local latents, parameters or devices grow."""
    rng = np.random.default_rng(0)

    def rows(size: int) -> Posterior:
        x = rng.normal(size=(size, 10)).astype(np.float32)
        return _fit(_logistic, (x, _labels(size)), guide="meanfield", batch_size=_BATCH)

    def latents(size: int) -> Posterior:
        y = rng.normal(size=(size, 2)).astype(np.float32)
        return _fit(_hierarchy, (y,), guide=_BY_ROW, batch_size={"rows": _BATCH})

    def parameters(size: int) -> Posterior:
        return _fit(_means, (rng.normal(size=size).astype(np.float32),), guide="meanfield")

    sizes = [10**k for k in range(4, 8) if 10**k <= options.largest]
    kinds = {"rows": (rows, sizes), "latents by row": (latents, sizes)}
    kinds["parameters"] = (parameters, [10**k for k in range(2, 6)])
    found: dict[str, dict[int, Any]] = {}
    for kind, (make, sizes) in kinds.items():
        fits = {str(size): _further(make(size), _FEW) for size in sizes}
        seconds = _report.interleaved(fits, options.repeats)
        found[kind] = {
            n: _report.median_range(1e6 / _FEW * np.array(s)) for n, s in seconds.items()
        }
        _report.table((kind, "microseconds per step"), list(found[kind].items()))
    flag = "--xla_force_host_platform_device_count"
    before = os.environ.get("XLA_FLAGS", "")
    found["devices"] = {}
    for count in (1, 2, 4, 8):
        os.environ["XLA_FLAGS"] = f"{before} {flag}={count}"
        arguments = ("--devices", str(count), "--repeats", str(options.repeats))
        step = _report.in_fresh_process("bench.scale", *arguments, timeout=300)["step"]
        found["devices"][str(count)] = _report.MedianRange(*step)
    os.environ["XLA_FLAGS"] = before
    _report.table(("devices", "microseconds per step"), list(found["devices"].items()))
    return found


def _on_devices(count: int, repeats: int) -> dict[str, Any]:
    """Steps on a hundred thousand rows, sharded over the devices of this process."""
    x = np.random.default_rng(0).normal(size=(100_000, 50)).astype(np.float32)
    mesh = jax.make_mesh((count,), ("rows",))
    fitted = _fit(_logistic, (x, _labels(len(x))), guide="meanfield", mesh=mesh)
    seconds = _report.interleaved({"": _further(fitted, _FEW)}, repeats)[""]
    return {"step": _report.median_range(1e6 / _FEW * np.array(seconds))}


def sharding(options: argparse.Namespace) -> dict[str, Any]:
    """Speed of a step on eight simulated devices, which share the cores of this machine."""
    before = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{before} --xla_force_host_platform_device_count=8"
    arguments = ("--sharding", "--repeats", str(options.repeats))
    measured = _report.in_fresh_process("bench.scale", *arguments, timeout=600)
    os.environ["XLA_FLAGS"] = before
    found = {what: _report.MedianRange(*ratio) for what, ratio in measured.items()}
    _report.table(("on eight devices", "relative speed"), list(found.items()))
    return found


def _sharded(repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 50)).astype(np.float32)
    regression = (_logistic, (x, _labels(len(x))))
    means = (_hierarchy, (rng.normal(size=(200_000, 2)).astype(np.float32),))
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "restarts": (regression, {"guide": "meanfield", "num_restarts": 8}),
        "particles": (regression, {"guide": "meanfield", "num_particles": 8}),
        "rows": (means, {"guide": "meanfield", "algorithm": "gradient"}),
    }
    found = {}
    for what, (of, options) in cases.items():
        mesh = jax.make_mesh((8,), (what,))
        ways = {"one": None, "eight": mesh}
        fits = {
            name: _further(_fit(*of, mesh=where, **options), _FEW) for name, where in ways.items()
        }
        seconds = _report.interleaved(fits, repeats)
        found[what] = _report.ratios(seconds["one"], seconds["eight"])
    return found


SUITES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rows": rows,
    "latents": latents,
    "covertype": covertype,
    "mapped": mapped,
    "curves": curves,
    "sharding": sharding,
}


def _logistic(x: jax.Array, y: jax.Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def _hierarchy(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(3.0))
    with numpyro.plate("rows", y.shape[0], dim=-2):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        with numpyro.plate("repeats", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def _means(y: jax.Array) -> None:
    w = numpyro.sample("w", dist.Normal(jnp.zeros(y.shape), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(w, 1.0).to_event(1), obs=y)


def _fit(model: Callable[..., None], args: tuple[Any, ...], **options: Any) -> Posterior:
    return vijax.fit(model, *args, optimizer=_ADAM, num_steps=50, progress_bar=False, **options)


def _further(fitted: Posterior, number: int = _STEPS) -> Callable[[], Any]:
    """Runs more steps from the state of the last call, which is updated in place."""
    assert fitted._result.engine is not None
    assert fitted._result.run is not None
    engine, run = fitted._result.engine, fitted._result.run

    def steps() -> None:
        nonlocal run
        run = engine.advance(run, Budget(run.step + number))
        jax.block_until_ready(run.loop)

    steps()
    return steps


def _by_hand(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    scale = len(x) / _BATCH

    def loss(params, key, x, y, rows):
        loc, log_scale = params
        beta = loc + jnp.exp(log_scale) * jax.random.normal(key, loc.shape)
        logits = x[rows] @ beta
        likelihood = jnp.sum(y[rows] * logits - jax.nn.softplus(logits))
        prior = -0.5 * jnp.sum(beta**2) - 0.5 * beta.size * _LOG_2PI
        entropy = jnp.sum(log_scale) + 0.5 * log_scale.size * (1 + _LOG_2PI)
        return -(scale * likelihood + prior + entropy)

    @jax.jit
    def run(carry, key, rows, x, y):
        def step(carry, now):
            params, state = carry
            t, rows = now
            value, gradient = jax.value_and_grad(loss)(
                params, jax.random.fold_in(key, t), x, y, rows
            )
            update, state = _ADAM.update(gradient, state, params)
            return (optax.apply_updates(params, update), state), value

        return lax.scan(step, carry, (jnp.arange(_STEPS), rows))

    params = (jnp.zeros(x.shape[1]), jnp.full(x.shape[1], -2.0))
    carry, data = (params, _ADAM.init(params)), (jnp.asarray(x), jnp.asarray(y))
    plates = {"rows": Plate("rows", -1, len(x), _BATCH)}
    first, schedule = iter(range(0, 10**9, _STEPS)), RowSchedule(plates, 0)

    def steps() -> None:  # choosing the rows is part of the measurement
        start = next(first)
        table = np.stack([schedule.index(t)["rows"] for t in range(start, start + _STEPS)])
        jax.block_until_ready(run(carry, jax.random.key(0), jnp.asarray(table), *data))

    steps()
    return steps


def _steps(seconds: dict[str, list[float]]) -> dict[str, _report.MedianRange]:
    """Microseconds per step of every contender."""
    return {name: _report.median_range(1e6 / _STEPS * np.array(s)) for name, s in seconds.items()}


def _resident() -> float:
    """Bytes of live arrays."""
    return float(sum(array.nbytes for array in jax.live_arrays()))


if __name__ == "__main__":
    main()
