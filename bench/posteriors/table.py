"""Markdown tables of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.posteriors.score import TOLERANCE, truthful

Rows = list[dict[str, Any]]  # one per run
_NUMBERS = {
    "import": "import",
    "compile": "compile",
    "solve": "solve",
    "seconds": "seconds",
    "khat": "k-hat",
    "mean": "mean error",
    "log_sd": "log sd error",
}
_ERRORS = ("mean", "log_sd")


def methods(found: dict[str, Rows]) -> None:
    """One line per method: medians over its runs, and the largest single error."""
    header = ("method", *_NUMBERS.values(), "worst", "where", "status")
    markdown(header, [(method, *_line(rows)) for method, rows in found.items()])


def summary(results: dict[str, dict[str, Rows]], found: dict[str, Any]) -> None:
    """Over all posteriors: errors and relative time of every method, and untrue statuses."""
    print("\nAll posteriors: root mean squares of the errors, and the largest single one\n")
    names = list(next(iter(results.values())))
    lines = []
    for method in names:
        rows = [row for of in results.values() for row in of[method] if "worst" in row]
        total = sum(len(of[method]) for of in results.values())
        errors = [_root_mean_square(rows, key) for key in _ERRORS]
        worst = float(np.max([row["worst"] for row in rows])) if rows else None
        right = sum(row["worst"] <= TOLERANCE for row in rows)
        speed = found["geometric means of times"].get(method)
        lines.append(
            (method, f"{len(rows)}/{total}", right, *map(_number, [*errors, worst, speed]))
        )
    header = (
        "method",
        "completed",
        f"all errors below {TOLERANCE}",
        "mean error",
        "log sd error",
        "worst",
    )
    header = (*header, "time relative to vijax auto")
    markdown(header, lines)
    wrong = found["untrue statuses"]
    print(f"\nerrors above {TOLERANCE} sd with the status certified or corrected: {len(wrong)}")
    for line in wrong:
        print(f"- {line}")


def untrue(results: dict[str, dict[str, Rows]]) -> list[str]:
    """The runs with an untrue status."""
    return [
        f"{name}, {method}: {row['status']}, error {row['worst']:.2f} at {row['where']}"
        for name, found in results.items()
        for method, rows in found.items()
        for row in rows
        if "worst" in row and not truthful(row["status"], row["worst"])
    ]


def dim(found: dict[str, Rows]) -> int | str:
    """The dimension, from any completed run."""
    return next((row["d"] for rows in found.values() for row in rows if "d" in row), "?")


def median(rows: Rows, key: str) -> float | None:
    """The median over the runs that have the key; `None` without any."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return float(np.median(values)) if values else None


def markdown(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Prints a Markdown table with aligned columns."""
    cells = [[str(cell) for cell in line] for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    for line in cells:
        print(f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |")


def _line(rows: Rows) -> tuple[str, ...]:
    ended = [row for row in rows if "worst" in row]
    failures = [
        f"{kind}: {row[kind]}" for row in rows for kind in ("failed", "skipped") if kind in row
    ]
    if not ended:
        return (*[""] * (len(_NUMBERS) + 2), failures[0])
    worst = max(ended, key=lambda row: math.inf if math.isnan(row["worst"]) else row["worst"])
    statuses = sorted({row["status"] + ("" if _true(row) else " (UNTRUE)") for row in ended})
    numbers = [_number(median(ended, key)) for key in _NUMBERS]
    return (*numbers, _number(worst["worst"]), worst["where"], " / ".join([*statuses, *failures]))


def _true(row: dict[str, Any]) -> bool:
    return truthful(row["status"], row["worst"])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:.3g}"
    return f"{value:.3f}" if abs(value) < 0.1 else f"{value:.2f}"


def _root_mean_square(rows: Rows, key: str) -> float | None:
    return float(np.sqrt(np.mean([row[key] ** 2 for row in rows]))) if rows else None
