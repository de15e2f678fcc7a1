"""One prepared run on an accelerator: is everything right there, and what does it gain?

    python -m bench device [--minutes 8] [--output FILE]

Six sections in order of worth, each with a share of the time that those before it leave; results
are written after every measurement, a measurement that fails records its error, and the process
ends at the limit whatever happens. `--short` goes through all of it with tiny sizes on any device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from bench import _report
from bench.accelerator import agreement, roofline, times
from bench.accelerator.sizes import ON_CPU, SHORT, Measurement, Sizes

SECTIONS: dict[str, tuple[Callable[[Sizes], dict[str, Measurement]], float]] = {
    "agreement with the CPU": (agreement.section, 0.4),
    "time to posterior": (times.posteriors, 0.1),
    "roofline": (roofline.section, 0.2),
    "many points and restarts": (times.at_once, 0.1),
    "10M rows": (times.rows, 0.1),
    "round trips": (times.round_trips, 0.1),
}
_GRACE = 20.0  # seconds before the limit at which no more measurements are started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="limit on the whole run")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--output", type=Path, default=_report.RESULTS / "device.json")
    parser.add_argument("--short", action="store_true", help="tiny sizes; stores nothing")
    options = parser.parse_args()
    chosen = {options.only: SECTIONS[options.only]} if options.only else SECTIONS
    if options.short:
        show(run(chosen, SHORT, options.minutes, lambda results: None))
        return
    limit = threading.Timer(60 * options.minutes, os._exit, [3])
    limit.daemon = True
    limit.start()
    sizes = ON_CPU if jax.default_backend() == "cpu" else Sizes()
    minutes = options.minutes - _GRACE / 60
    show(run(chosen, sizes, minutes, lambda results: write(options.output, results)))
    limit.cancel()


def run(
    sections: Mapping[str, tuple[Callable[[Sizes], dict[str, Measurement]], float]],
    sizes: Sizes,
    minutes: float,
    store: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Results by section and measurement; `store` gets those so far after each measurement."""
    begun, shares, seconds = time.perf_counter(), 0.0, 60 * minutes
    total = sum(share for _, share in sections.values())
    results: dict[str, Any] = {}
    for name, (section, share) in sections.items():
        shares += share / total
        found = results[name] = {}
        for label, measure in itertools.islice(section(sizes).items(), sizes.most):
            now = time.perf_counter() - begun
            print(f"{now:6.1f} s  {name}: {label}", file=sys.stderr, flush=True)
            found[label] = _measured(measure, shares * seconds - now)
            store(results)
    return results


def _measured(measure: Measurement, left: float) -> dict[str, Any]:
    """A row of results, or why there is none."""
    if left <= 0:
        return {"left out": "no time left"}
    begun = time.perf_counter()
    try:
        found = measure(left)
    except Exception as error:
        found = {"error": "".join(traceback.format_exception_only(error)).strip()[:2000]}
    return {"took": time.perf_counter() - begun, **found}


def write(path: Path, results: dict[str, Any]) -> None:
    """Replaces the file of results; a run that is ended while it writes leaves the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    device = {"device": jax.devices()[0].device_kind, "platform": jax.default_backend()}
    text = json.dumps({"machine": _report.machine() | device, "results": results}, indent=1)
    partial = path.with_suffix(".part")
    partial.write_text(text + "\n")
    partial.replace(path)


def show(results: dict[str, Any]) -> None:
    """Prints a table for each section."""
    for name, found in results.items():
        print(f"\n{name}")
        columns = list(dict.fromkeys(column for row in found.values() for column in row))
        rows = [
            (label, *(_text(row.get(column, "")) for column in columns))
            for label, row in found.items()
        ]
        _report.table(("", *columns), rows)


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
