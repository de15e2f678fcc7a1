"""Regression of the UCI sets: negative log likelihood of test rows."""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import numpy as np
import optax

import vijax
from bench.deep.models import Regressor, regression
from vijax.algorithms import SGHMC, Optimizer
from vijax.guides import MeanField, Particles

# negative log likelihood in the target's unit: mean field, and the lowest of it, dropout (2018),
# ensembles of ten and PBP-MV with two layers
PUBLISHED = {
    "yacht": (2.01, 0.73),
    "energy": (0.93, 0.61),
    "concrete": (3.22, 2.93),
    "wine-red": (1.00, 0.93),
    "kin8nm": (-1.03, -1.28),
    "power": (2.85, 2.78),
}
_BATCH = 1000
_SCHEDULE = functools.partial(optax.cosine_decay_schedule, 1.0)


def _methods() -> dict[str, dict[str, Any]]:
    """Options of `fit` by name."""
    local, adam = MeanField(noise="local"), lambda n: optax.adam(_rate(n))
    return {
        "mean field": {"guide": local, "num_steps": 5000, "optimizer": adam(5000)},
        "sghmc": {
            "algorithm": SGHMC(momentum=0.97, optimizer=Optimizer(optax.adam(0.03))),
            "guide": Particles(200),
            "num_steps": 12_000,
        },
    }


def _rate(num_steps: int) -> Any:
    schedule = _SCHEDULE(num_steps)
    return lambda step: 0.01 * schedule(step)


def uci(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Negative log likelihood of test rows; all splits of a set run one program."""
    rows = []
    for name in options.sets:
        mean_field, best = PUBLISHED[name]
        data = np.load(options.folder / "uci" / f"{name}.npz")
        model = functools.partial(regression, functools.partial(Regressor, data["x"].shape[1]))
        row: dict[str, Any] = {"set": name}
        for method, how in _methods().items():
            start = time.process_time()
            scores = [_score(model, data, i, how) for i in range(options.splits)]
            error = np.std(scores, ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else np.nan
            row[method] = f"{np.mean(scores):.2f} +- {error:.2f}"
            row[f"{method}, processor s"] = f"{time.process_time() - start:.0f}"
        rows.append(row | {"published mean field": mean_field, "published best": best})
        print(rows[-1], flush=True)
    return rows


def _score(model: Any, data: Any, number: int, how: dict[str, Any]) -> float:
    """Negative log likelihood of the test rows of one split, in the target's unit."""
    train, test = data["train_idx"][number], data["test_idx"][number]
    x, y = data["x"][train], data["y"][train]
    loc, scale = x.mean(0), x.std(0) + 1e-9
    inputs = ((data["x"] - loc) / scale).astype(np.float32)
    outcomes = ((data["y"] - y.mean()) / y.std()).astype(np.float32)
    posterior = vijax.fit(
        model,
        inputs[train],
        outcomes[train],
        batch_size=_BATCH if len(train) > 2 * _BATCH else None,
        progress_bar=False,
        rng_key=number,
        **how,
    )
    density = posterior.log_predictive_density(inputs[test], y=outcomes[test], num_draws=200)
    return float(np.log(y.std()) - density["y"].mean())
