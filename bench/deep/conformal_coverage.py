"""Coverage of conformal intervals: three UCI sets, twenty splits, a network of few steps."""

from __future__ import annotations

import argparse
import functools
from typing import Any

import numpy as np
import optax

import vijax
from bench.deep.models import Regressor, regression
from vijax.guides import MeanField

SETS = ("energy", "concrete", "wine-red")
_SPLITS, _STEPS, _LEVEL = 20, 500, 0.9
_PARTS = (0.6, 0.8)  # of the rows: the fit, the calibration, the rest is the test


def conformal(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Share of test outcomes in intervals of 90 %, calibrated and not."""
    return [_row(name, np.load(options.folder / "uci" / f"{name}.npz")) for name in SETS]


def _row(name: str, data: Any) -> dict[str, Any]:
    model = functools.partial(regression, functools.partial(Regressor, data["x"].shape[1]))
    shares = np.array([_shares(model, data["x"], data["y"], n) for n in range(_SPLITS)])
    found = [
        f"{mean:.3f} +- {error:.3f}"
        for mean, error in zip(shares.mean(0), shares.std(0, ddof=1) / _SPLITS**0.5, strict=True)
    ]
    return {"set": name, "conformal": found[0], "without": found[1]}


def _shares(model: Any, x: np.ndarray, y: np.ndarray, number: int) -> tuple[float, float]:
    """Coverage in the test rows of one split, with and without calibration."""
    order = np.random.default_rng(number).permutation(len(x))
    fit, calibration, test = np.split(order, [int(part * len(x)) for part in _PARTS])
    inputs = ((x - x[fit].mean(0)) / (x[fit].std(0) + 1e-9)).astype(np.float32)
    outcomes = ((y - y[fit].mean()) / y[fit].std()).astype(np.float32)
    posterior = vijax.fit(
        model,
        inputs[fit],
        outcomes[fit],
        guide=MeanField(noise="local"),
        optimizer=optax.adam(0.01),
        num_steps=_STEPS,
        progress_bar=False,
        rng_key=number,
    )
    calibrated = vijax.conformal(
        posterior, inputs[calibration], y=outcomes[calibration], level=_LEVEL, rng_key=number
    )
    ends = calibrated.predict(inputs[test]).T
    draws = posterior.predict(inputs[test])["y"]
    plain = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    inside = [
        np.mean((low <= outcomes[test]) & (outcomes[test] <= high)) for low, high in (ends, plain)
    ]
    return float(inside[0]), float(inside[1])
