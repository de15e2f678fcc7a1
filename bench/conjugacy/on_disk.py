"""A mixture of millions of rows: `python -m bench.conjugacy.on_disk FILE BATCH STEPS HELD_OUT`.

A process of its own, so that its memory can be measured. BATCH 0 reads the file into memory and
is coordinate ascent. The last line is JSON: seconds, the growth of anonymous memory during the run
in MB, and the log density of a held-out row.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import vijax
from bench.conjugacy import models
from bench.conjugacy.ascent import Ascent
from vijax.solvers import CoordinateAscent

COMPONENTS = 5
_DRAWS = 20


def main(path: str, batch: int, steps: int, held_out: str) -> dict[str, Any]:
    y = np.load(path, mmap_mode="r")
    _, centers = models.clusters(1, y.shape[1], COMPONENTS, 3.0)
    start = {
        "weights": np.full(COMPONENTS, 1 / COMPONENTS),
        "mu": centers + np.random.default_rng(1).normal(size=centers.shape),
        "tau": np.ones(centers.shape),
    }
    watch, run = Watch(), minibatches if batch else all_rows
    started = time.perf_counter()
    with watch:
        families, done = run(y, start, batch, steps)
    seconds = time.perf_counter() - started
    keys = jax.random.split(jax.random.key(0), _DRAWS)
    drawn = [{name: one.draw(key) for name, one in families.items()} for key in keys]
    draws = {name: np.asarray([one[name] for one in drawn], float) for name in drawn[0]}
    density = models.log_density(draws, np.load(held_out))
    grown = watch.most - watch.before
    return {"rows": len(y), "seconds": seconds, "memory": grown, "density": density, "steps": done}


def all_rows(y: np.ndarray, start: dict[str, np.ndarray], batch: int, steps: int) -> tuple:
    """Coordinate ascent on rows in memory: its families and sweeps."""
    problem = models.Problem(models.rows, (np.array(y), COMPONENTS), start, {})
    _, found = Ascent(problem).run(CoordinateAscent(steps, num_restarts=0))
    return found.variables.guide, len(found.losses)


def minibatches(y: np.ndarray, start: dict[str, np.ndarray], batch: int, steps: int) -> tuple:
    """Steps on minibatches: the families after them, without the diagnostics of a fit."""
    last: list[Any] = []

    def stop(state: Any, losses: Any, step: int) -> None:
        if step >= steps:
            last.append((state, step))
            raise KeyboardInterrupt

    posterior = vijax.fit(
        models.rows,
        y,
        COMPONENTS,
        guide="conjugate",
        batch_size=batch,
        init=start,
        num_steps=2 * steps,
        callbacks=(stop,),
        progress_bar=False,
    )
    return posterior.params, last[0][1]


class Watch:
    """The most anonymous memory, in MB, while the context is open."""

    def __enter__(self) -> Watch:
        self.before, self._done = anonymous(), threading.Event()
        self.most = self.before
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
