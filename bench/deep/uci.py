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
from vijax.algorithms import IVON
from vijax.guides import MeanField

# negative log likelihood in the target's unit: mean field, the lower of dropout (2018) and of ten
# networks or other posteriors
PUBLISHED = {
    "yacht": (2.01, 0.73),
    "energy": (0.93, 0.61),
    "concrete": (3.22, 2.93),
    "wine-red": (1.00, 0.93),
    "kin8nm": (-1.03, -1.28),
    "power": (2.85, 2.77),
}
_STEPS, _BATCH = 5000, 500


def uci(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Negative log likelihood of test rows."""
    rows = []
    for name, (mean_field, best) in PUBLISHED.items():
        data = np.load(options.folder / "uci" / f"{name}.npz")
        row: dict[str, Any] = {"set": name}
        for method in ("local", "ivon"):
            start = time.process_time()
            model = functools.partial(regression, functools.partial(Regressor, data["x"].shape[1]))
            scores = [_score(model, data, i, method) for i in range(options.splits)]
            error = np.std(scores, ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else np.nan
            row[method] = f"{np.mean(scores):.2f} +- {error:.2f}"
            row[f"{method}, processor s"] = f"{time.process_time() - start:.0f}"
        rows.append(row | {"published mean field": mean_field, "published best": best})
        print(rows[-1], flush=True)
    return rows


def _score(model: Any, data: Any, number: int, method: str) -> float:
    """Negative log likelihood of the test rows of one split, in the target's unit."""
    train, test = data["train_idx"][number], data["test_idx"][number]
    x, y = data["x"][train], data["y"][train]
    loc, scale = x.mean(0), x.std(0) + 1e-9
    inputs = ((data["x"] - loc) / scale).astype(np.float32)
    outcomes = ((data["y"] - y.mean()) / y.std()).astype(np.float32)
    schedule = optax.cosine_decay_schedule(1.0, _STEPS)
    how: dict[str, Any] = {
        "guide": MeanField(noise="local"),
        "optimizer": optax.adam(lambda step: 0.01 * schedule(step)),
    }
    if method == "ivon":
        how = {"algorithm": IVON(schedule=schedule)}
    posterior = vijax.fit(
        model,
        inputs[train],
        outcomes[train],
        num_steps=_STEPS,
        batch_size=_BATCH if len(train) > 2 * _BATCH else None,
        progress_bar=False,
        rng_key=number,
        **how,
    )
    density = posterior.log_predictive_density(inputs[test], y=outcomes[test], num_draws=200)
    return float(np.log(y.std()) - density["y"].mean())
