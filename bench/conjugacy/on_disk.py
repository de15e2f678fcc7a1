"""A mixture of millions of rows: `python -m bench.conjugacy.on_disk FILE BATCH STEPS HELD_OUT`.

A process of its own, so that its memory can be measured. BATCH 0 reads the file into memory and
takes all rows in every step. The last line is JSON: seconds, the growth of anonymous memory during
the fit in MB, and the log density of a held-out row.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import vijax
from bench.conjugacy import models

COMPONENTS = 5
_DRAWS = 20


def main(path: str, batch: int, steps: int, held_out: str) -> dict[str, Any]:
    y = np.load(path, mmap_mode="r")
    y = y if batch else np.array(y)
    _, centers = models.clusters(1, y.shape[1], COMPONENTS, 3.0)
    start = {
        "weights": np.full(COMPONENTS, 1 / COMPONENTS),
        "mu": centers + np.random.default_rng(1).normal(size=centers.shape),
        "tau": np.ones(centers.shape),
    }
    options = {"batch_size": batch} if batch else {}
    before, watch = anonymous(), Watch()
    started = time.perf_counter()
    with watch:
        posterior = vijax.fit(
            models.rows,
            y,
            COMPONENTS,
            guide="conjugate",
            init=start,
            num_steps=steps,
            progress_bar=False,
            **options,
        )
    return {
        "rows": len(y),
        "seconds": time.perf_counter() - started,
        "memory": watch.most - before,
        "density": models.log_density(posterior.sample(_DRAWS), np.load(held_out)),
        "sweeps": len(posterior.losses),
        "status": posterior.status,
    }


class Watch:
    """The most anonymous memory, in MB, while the context is open."""

    def __enter__(self) -> Watch:
        self.most, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def anonymous() -> float:
    """Memory of this process in MB, without pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1024


if __name__ == "__main__":
    file, size, number, rest = sys.argv[1:]
    print(json.dumps(main(file, int(size), int(number), rest)))
