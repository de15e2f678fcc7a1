"""Repeated fits: resident memory and compilations over 100 fits on new data of equal shape."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jax
import numpy as np

import vijax
from bench import _problems, _report

_COMPILE = "/jax/core/compile/backend_compile_duration"


def main() -> None:
    compilations = 0

    def count(event: str, seconds: float, **_: object) -> None:
        nonlocal compilations
        compilations += event == _COMPILE

    jax.monitoring.register_event_duration_secs_listener(count)
    results = {}
    for algorithm in ("auto", "gradient"):
        rows = []
        model, (sigma, y), _ = _problems.eight_schools()
        rng = np.random.default_rng(0)
        for fit in range(1, 101):
            before = compilations
            data = (y + rng.normal(size=y.shape)).astype(np.float32)
            vijax.fit(
                model, sigma, data, algorithm=algorithm, guide="fullrank", progress_bar=False
            ).sample(fit)
            if fit in (1, 2, 20, 60, 100):
                gc.collect()
                rows.append(
                    (fit, compilations - before, round(_resident(), 1), len(jax.live_arrays()))
                )
        print(f"\nalgorithm={algorithm!r}")
        _report.table(("fit", "compilations", "resident MB", "live arrays"), rows)
        results[algorithm] = rows
    _report.save("memory", results)


def _resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
