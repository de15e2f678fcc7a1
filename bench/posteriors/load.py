"""The posteriors of the data folder, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.posteriors import (
    eight_schools,
    gaussian_process,
    lotka_volterra,
    mixture,
    regression,
    time_series,
)
from bench.posteriors.case import Case

DATA = Path(__file__).parents[3] / "shared" / "data" / "posteriordb"
_FAMILIES = (regression, time_series, eight_schools, gaussian_process, lotka_volterra, mixture)
MODELS: dict[str, Any] = {
    name: pair
    for name, pair in sorted({k: v for one in _FAMILIES for k, v in one.MODELS.items()}.items())
}


def load(name: str, folder: Path) -> Case:
    """The model of a posterior with its data and reference draws."""
    model, arguments = MODELS[name]
    return Case(model, arguments(raw(name, folder)), reference(name, folder))


def raw(name: str, folder: Path) -> dict[str, Any]:
    """The data of a posterior: arrays in double precision, and plain numbers."""
    found = json.loads((folder / name / "data.json").read_text())
    return {key: np.asarray(v, float) if isinstance(v, list) else v for key, v in found.items()}


def reference(name: str, folder: Path) -> dict[str, np.ndarray]:
    """Reference draws by site, `(5000, *shape)`."""
    with np.load(folder / name / "reference.npz") as file:
        return {site: np.asarray(file[site], np.float64) for site in file}
