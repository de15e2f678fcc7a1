"""IVON beside AdamW: the same number of steps on few images, and the time of a step."""

from __future__ import annotations

import argparse
import functools
from typing import Any

import jax
import numpy as np
import optax

import vijax
from bench import _report
from bench.deep.data import Images, mnist
from bench.deep.models import wide_lenet
from vijax.algorithms import IVON, Gradient, Optimizer
from vijax.contracts import Batch, Variables
from vijax.guides import Delta, MeanField
from vijax.model import build, split
from vijax.objectives import ELBO

_ROWS, _BATCH, _STEPS, _SEEDS, _DRAWS = 2000, 50, 1000, 3, 32
_TIMED, _REPEATS = 5, 40  # steps, unrolled: convolutions in loops are slow on CPUs


def _methods(steps: int) -> dict[str, dict[str, Any]]:
    schedule = optax.cosine_decay_schedule(1.0, steps)
    return {
        "AdamW": {"guide": "map", "optimizer": optax.adamw(lambda step: 2e-3 * schedule(step))},
        "IVON": {"algorithm": IVON(rate=0.3, decay=1 - 5 / steps, schedule=schedule)},
    }


def ivon(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Scores of test images after equal steps on 2,000 others, and seconds of a step."""
    images = mnist(options.folder)
    rows = []
    for seed in range(_SEEDS):
        chosen = np.random.default_rng(seed).permutation(len(images.x))[:_ROWS]
        for name, how in _methods(_STEPS).items():
            posterior = vijax.fit(
                wide_lenet, images.x[chosen], images.y[chosen], batch_size=_BATCH, num_steps=_STEPS,
                rng_key=seed, progress_bar=False, **how,
            )  # fmt: skip
            draws = 1 if name == "AdamW" else _DRAWS
            score = posterior.score(images.x_test, y=images.y_test, num_draws=draws)
            found = {key: f"{one['value']:.4f} +- {one['se']:.4f}" for key, one in score.iterrows()}
            shown = ("accuracy", "log score", "calibration error")
            rows.append({"seed": seed, "method": name} | {key: found[key] for key in shown})
            print(rows[-1], flush=True)
    ratio = {"seed": "a step", "method": "IVON over AdamW, time", "accuracy": _step_ratio(images)}
    return [*rows, ratio | {"log score": "", "calibration error": ""}]


def _step_ratio(images: Images) -> str:
    """Seconds of a step of IVON relative to one of AdamW with point estimates."""
    arguments, data = split(wide_lenet, (images.x[:_BATCH], images.y[:_BATCH]), {})
    target, key = build(wide_lenet, arguments), jax.random.key(0)
    candidates = {}
    for name, algorithm, guide in (
        ("AdamW", Gradient(ELBO(), Optimizer(optax.adamw(2e-3))), Delta()),
        ("IVON", IVON(rate=0.1), MeanField()),
    ):
        params = guide.init(key, target.space, target.starts(key, Batch(data)))
        state = algorithm.init(Variables(params), {}, key, target, guide, Batch(data))

        def steps(state: Any, data: Any, algorithm: Any = algorithm, guide: Any = guide) -> Any:
            def one(state: Any, key: jax.Array) -> Any:
                return algorithm.step(state, key, target, guide, Batch(data))[0], None

            return jax.lax.scan(one, state, jax.random.split(key, _TIMED), unroll=_TIMED)[0]

        call = functools.partial(jax.jit(steps), state, data)
        candidates[name] = lambda call=call: jax.block_until_ready(call())
        candidates[name]()
    seconds = _report.interleaved(candidates, _REPEATS)
    return str(_report.ratios(seconds["IVON"], seconds["AdamW"]))
