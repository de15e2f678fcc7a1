"""Aligned tables of text, and their figures."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells as aligned text, the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def with_error(value: float, se: float) -> str:
    """A value with its standard error, `-31.55 ± 0.02`; small errors have one digit."""
    return f"{value:.2f} ± {se:.1g}" if 1e-4 <= se < 0.01 else f"{value:.2f} ± {se:.2f}"
