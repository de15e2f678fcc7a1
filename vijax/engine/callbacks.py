"""Callbacks for `vijax.fit(callbacks=...)`."""

from __future__ import annotations

import json
import math
import os
import time
from typing import Any

import numpy as np

__all__ = ["JSONLines"]


class JSONLines:
    """Writes the progress of gradient steps to a file, one JSON object per line.

    Each line has the `step`, the mean `loss` of the steps since the last line (the negative ELBO,
    unless there is an `objective=`; one per restart where there are several) and the `seconds`
    since the callback was created. Lines are appended, a few per second, and can be read while the
    fit is running. What is not finite is `null`.

    >>> import vijax
    >>> log = vijax.callbacks.JSONLines("fit.jsonl")  # for fit(..., callbacks=[log])

    Args:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._start, self._step = time.perf_counter(), 0

    def __call__(self, state: Any, losses: np.ndarray, step: int) -> None:
        """Appends a line; see `vijax.fit`."""
        means = np.atleast_1d(np.mean(losses[self._step :], axis=0)).tolist()
        known = [mean if math.isfinite(mean) else None for mean in means]
        line = {
            "step": int(step),
            "loss": known if losses.ndim > 1 else known[0],
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._step = step
