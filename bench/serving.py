"""Predictions in a service: latency of one row, new numbers of rows, throughput, against by hand.

By hand are the same formulas at the same posterior draws under `jax.jit`, without checks of
arguments, padding, or a key for every row.
"""

from __future__ import annotations

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

import vijax
from bench import _report

_COMPILE = "/jax/core/compile/backend_compile_duration"
_CALLS = 400
_NEW_SIZES = (2, 3, 7, 20, 50, 100, 300, 700, 1000, 1500)
_THROUGHPUT = (1, 32, 1000)


def model(x: Any, group: Any, y: Any = None) -> None:
    """A regression with an intercept for each group."""
    level = numpyro.sample("level", dist.Normal(0.0, 2.0))
    effect = numpyro.sample("effect", dist.Normal(0.0, 1.0).expand([20]).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(level + effect[group] + x @ slope, noise), obs=y)


def by_hand(draws: dict[str, np.ndarray]) -> dict[str, Callable[..., Any]]:
    """What each predictor computes, as a user would write it."""
    level, effect, slope, noise = (
        jnp.asarray(draws[name]) for name in ("level", "effect", "slope", "noise")
    )

    def means(x: Any, group: Any) -> Any:
        return level[:, None] + effect[:, group] + slope @ x.T

    def sampled(key: Any, x: Any, group: Any) -> Any:
        center = means(x, group)
        return center + noise[:, None] * jax.random.normal(key, center.shape)

    def summary(key: Any, x: Any, group: Any) -> Any:
        y = sampled(key, x, group)
        low, high = jnp.quantile(y, jnp.array([0.055, 0.945]), axis=0)
        return {"mean": y.mean(0), "sd": y.std(0), "low": low, "high": high}

    return {
        "draws": jax.jit(sampled),
        "mean": jax.jit(lambda key, x, group: means(x, group).mean(0)),
        "summary": jax.jit(summary),
    }


def main() -> None:
    compilations: list[float] = []

    def count(event: str, seconds: float, **_: object) -> None:
        if event == _COMPILE:
            compilations.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(count)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 8)).astype(np.float32)
    group = rng.integers(0, 20, 2000).astype(np.int32)
    y = (x.sum(1) + rng.normal(size=20)[group] + 0.5 * rng.normal(size=2000)).astype(np.float32)
    posterior = vijax.fit(model, x, group, y, progress_bar=False)
    hand = by_hand(posterior.sample(1000))
    results: dict[str, Any] = {"latency": {}, "throughput": {}}
    predictors = {}
    for what in hand:
        start, before = time.perf_counter(), len(compilations)
        predictors[what] = posterior.predictor(x[:50], group[:50], returns=what)
        built = time.perf_counter()
        predictors[what].compile()
        results[what] = {
            "construction": built - start,
            "compile": time.perf_counter() - built,
            "sizes": len(predictors[what].sizes),
            "compilations": len(compilations) - before,
        }
    _latency(results, predictors, hand, posterior, x, group)
    _new_sizes(results, predictors["summary"], posterior, x, group, compilations)
    _export(results, predictors["summary"], x, group)
    _report.save("serving", results)


def _latency(
    results: dict[str, Any],
    predictors: dict[str, Any],
    hand: dict[str, Any],
    posterior: Any,
    x: np.ndarray,
    group: np.ndarray,
) -> None:
    """Milliseconds of a call, with values on the host."""
    key, rows = jax.random.key(0), []
    for what, one in predictors.items():
        for num in _THROUGHPUT:
            calls = {
                "vijax": lambda one=one, num=num: one(x[:num], group[:num]),
                "by hand": lambda what=what, num=num: jax.device_get(
                    hand[what](key, x[:num], group[:num])
                ),
            }
            for call in calls.values():
                call()
            repeats = max(20, _CALLS // num)
            seconds = _report.interleaved(calls, repeats)
            found = {
                name: {"median": 1e3 * np.median(times), "p99": 1e3 * np.quantile(times, 0.99)}
                for name, times in seconds.items()
            }
            ratio = found["vijax"]["median"] / found["by hand"]["median"]
            results["latency"][f"{what}, {num}"] = {**found, "ratio": ratio}
            cells = [f"{found[n][q]:.3g}" for n in found for q in ("median", "p99")]
            per_second = num / found["vijax"]["median"] * 1e3
            rows.append((what, num, *cells, f"{ratio:.2f}", f"{per_second:.0f}"))
    posterior.predict(x[:1], group[:1])
    times = [_seconds(lambda: posterior.predict(x[:1], group[:1])) for _ in range(50)]
    median, p99 = 1e3 * np.median(times), 1e3 * np.quantile(times, 0.99)
    results["latency"]["predict, 1"] = {"median": median, "p99": p99}
    rows.append(("posterior.predict", 1, f"{median:.3g}", f"{p99:.3g}", "", "", "", ""))
    header = ("returns", "rows", "median ms", "p99", "by hand", "p99", "ratio", "rows per second")
    _report.table(header, rows)


def _new_sizes(
    results: dict[str, Any],
    one: Any,
    posterior: Any,
    x: np.ndarray,
    group: np.ndarray,
    compilations: list[float],
) -> None:
    """Seconds of the first call with a number of rows, and the compilations in it."""
    rows = []
    for num in _NEW_SIZES:
        cells: list[Any] = [num]
        for call in (one, posterior.predict):
            before = len(compilations)
            seconds = _seconds(lambda call=call, num=num: call(x[:num], group[:num]))
            cells += [f"{1e3 * seconds:.3g}", len(compilations) - before]
        rows.append(cells)
    print()
    _report.table(("new rows", "first ms", "compiled", "predict: first ms", "compiled"), rows)
    results["new sizes"] = rows


def _export(results: dict[str, Any], one: Any, x: np.ndarray, group: np.ndarray) -> None:
    """Seconds to export and to load, and the size of the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictor.zip"
        written = _seconds(lambda: one.export(path))
        start = time.perf_counter()
        loaded = vijax.load_predictor(path)
        loaded(x[:1], group[:1])
        read = time.perf_counter() - start
        times = [_seconds(lambda: loaded(x[:1], group[:1])) for _ in range(_CALLS)]
        results["export"] = {
            "seconds": written,
            "kilobytes": path.stat().st_size / 1024,
            "load and first call": read,
            "median ms": 1e3 * np.median(times),
        }
    print("\nexport:", {name: round(value, 3) for name, value in results["export"].items()})


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
