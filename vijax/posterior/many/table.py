"""One table of the posteriors of many data sets; imports pandas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jax import Array

from vijax.posterior.labels import element_labels
from vijax.posterior.result import FitResult
from vijax.posterior.tables import Table
from vijax.runtime.errors import mismatch


def summary_of(
    fits: Any,
    results: Sequence[FitResult | None],
    sites: str | Iterable[str] | None,
    ci_prob: float,
    num_draws: int,
    key: Array,
) -> Table:
    """See `Fits.summary`."""
    if not 0 < ci_prob < 1:
        raise ValueError(mismatch("ci_prob", "a number between 0 and 1", repr(ci_prob)))
    drawn = fits.sample(num_draws, sites=sites, rng_key=key)
    first = next((one for one in results if one is not None), None)
    tail = 50 * (1 - ci_prob)
    names = ("mean", "sd", f"{tail:g}%", f"{100 - tail:g}%")
    labels: list[str] = []
    parts: list[np.ndarray] = []
    for site, values in drawn.items():
        assert first is not None
        labels += element_labels(first, site, values.shape[2:])
        flat = values.reshape(*values.shape[:2], -1).astype(float)
        low, high = np.quantile(flat, (tail / 100, 1 - tail / 100), axis=1)
        parts.append(np.stack([flat.mean(axis=1), flat.std(axis=1, ddof=1), low, high], axis=-1))
    table = np.concatenate(parts, axis=1) if parts else np.zeros((len(results), 0, len(names)))
    index = pd.MultiIndex.from_arrays(
        [
            [label for label in fits.labels for _ in labels],
            labels * len(results),
        ],
        names=("set", "scalar"),
    )
    out = Table(dict(zip(names, table.reshape(-1, len(names)).T, strict=True)), index=index)
    out["status"] = np.repeat(fits.status, len(labels))
    return out
