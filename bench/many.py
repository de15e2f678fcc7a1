"""How much faster is one call for many data sets than a loop of single fits, with the same answers?

The loop is timed on a sample of the sets, after a first fit that compiles, and extrapolated. Keys
of both are the same, so that draws of the assessments are.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import vijax
from bench import _report

_TRUSTED = ("certified", "corrected")


def regression(x: Any, y: Any) -> None:
    slopes = numpyro.sample("slopes", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    level = numpyro.sample("level", dist.Normal(0, 5))
    noise = numpyro.sample("noise", dist.HalfNormal(2.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(level + x @ slopes, noise), obs=y)


def schools(sd: Any, y: Any) -> None:
    mean = numpyro.sample("mean", dist.Normal(0, 5))
    scale = numpyro.sample("scale", dist.HalfCauchy(5))
    with numpyro.plate("schools", 8):
        effect = numpyro.sample("effect", dist.Normal(mean, scale))
        numpyro.sample("y", dist.Normal(effect, sd), obs=y)


def moments(y: Any) -> None:
    mean = numpyro.sample("mean", dist.Normal(0, 5))
    sd = numpyro.sample("sd", dist.HalfNormal(2))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mean, sd), obs=y)


def of_regression(i: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(i)
    x = rng.normal(size=(200, 5))
    return x, x @ rng.normal(size=5) + 1 + 0.7 * rng.normal(size=200)


def of_schools(i: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(i)
    sd = rng.uniform(9, 18, 8)
    return sd, 8 + 5 * rng.normal(size=8) + sd * rng.normal(size=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=30, help="sets that the loop is timed on")
    parser.add_argument("--small", type=int, default=10_000, help="small fits for the memory")
    options = parser.parse_args()
    results: dict[str, Any] = {"sets": options.sets, "loop": options.loop}
    results["regression"] = compare(regression, of_regression, options.sets, options.loop)
    results["eight schools"] = compare(schools, of_schools, options.sets, options.loop)
    results["memory"] = memory(options.small)
    _report.save("many", results)


def compare(
    model: Callable[..., Any], make: Callable[[int], Any], num: int, sample: int
) -> dict[str, Any]:
    """Seconds of both, and how far answers differ on the sample."""
    sets = [make(i) for i in range(num)]
    key = jax.random.key(0)
    began = time.perf_counter()
    vijax.fit_many(model, sets[:8], progress_bar=False)
    vijax.fit(model, *sets[0], progress_bar=False)
    first = time.perf_counter() - began
    began = time.perf_counter()
    fits = vijax.fit_many(model, sets, rng_key=0, progress_bar=False)
    together = time.perf_counter() - began
    rows = np.linspace(0, num - 1, sample).astype(int)
    seconds, alike, trusted, means, sds = [], [], [], [], []
    drawn = fits.sample(1000)
    for i in rows:
        began = time.perf_counter()
        alone = vijax.fit(
            model, *sets[i], rng_key=jax.random.fold_in(key, int(i)), progress_bar=False
        )
        seconds.append(time.perf_counter() - began)
        alike.append(alone.status == fits.status[i])
        trusted.append((alone.status in _TRUSTED) == (fits.status[i] in _TRUSTED))
        for name, values in alone.sample(1000).items():
            sd = values.std(axis=0)
            means.append(np.max(np.abs(values.mean(0) - drawn[name][i].mean(0)) / sd))
            sds.append(np.max(np.abs(np.log(drawn[name][i].std(0) / sd))))
    loop = float(np.mean(seconds)) * num
    counts = {name: int(np.sum(fits.status == name)) for name in set(fits.status.tolist())}
    found = {
        "first": first,
        "together": together,
        "loop, extrapolated": loop,
        "ratio": loop / together,
        "statuses": counts,
        "statuses alike": float(np.mean(alike)),
        "trusted alike": float(np.mean(trusted)),
        "largest difference of a mean, sds": float(np.max(means)),
        "largest log ratio of sds": float(np.max(sds)),
    }
    _report.table(("", model.__name__), [(name, _text(value)) for name, value in found.items()])
    return found


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def memory(num: int) -> dict[str, float]:
    """Resident megabytes after each tenth of many small fits, and seconds."""
    rng = np.random.default_rng(0)
    peaks, began, kept = [], time.perf_counter(), []
    for _ in range(10):
        sets = [(rng.normal(size=20),) for _ in range(num // 10)]
        kept.append(vijax.fit_many(moments, sets, progress_bar=False))
        gc.collect()
        peaks.append(_resident())
    found = {
        "fits": num,
        "MB after the first tenth": peaks[0],
        "MB after all": peaks[-1],
        "kB a fit, all results kept": 1024 * (peaks[-1] - peaks[0]) / (0.9 * num),
        "seconds": time.perf_counter() - began,
    }
    _report.table(("", "small fits"), [(name, _text(value)) for name, value in found.items()])
    return found


def _resident() -> float:
    """Resident megabytes, the largest so far where the present ones are not known."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
