"""HTML of results in notebooks: all text is escaped, its color and background are the notebook's.

The only colors are those of a status, which are legible on white and on black.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_STATUS = {
    "certified": "#2f9e44",
    "corrected": "#2b8cd9",
    "approximate": "#d9870a",
    "failed": "#e03131",
}
_LEFT, _RIGHT = "text-align: left; white-space: nowrap", "text-align: right; white-space: nowrap"


def badge(status: str) -> str:
    """A status in a frame of its color."""
    color = _STATUS.get(status, "currentColor")
    return (
        f'<span style="border: 1px solid {color}; border-radius: 1em; padding: 0.1em 0.7em">'
        f'<span style="color: {color}">&#9679;</span> <b>{html.escape(status)}</b></span>'
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the header, the first column left-aligned."""
    header, *body = ("".join(_cells(row, i == 0)) for i, row in enumerate(rows))
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return (
        '<div style="overflow-x: auto"><table class="dataframe">'
        f"<thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _cells(row: Sequence[str], header: bool) -> Iterable[str]:
    for i, cell in enumerate(row):
        tag = "th" if header or i == 0 else "td"
        yield f'<{tag} style="{_RIGHT if i else _LEFT}">{html.escape(cell)}</{tag}>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names with their values, a line each."""
    lines = "".join(
        f'<tr><th style="{_LEFT}; vertical-align: top">{html.escape(name)}</th>'
        f'<td style="text-align: left">{html.escape(value)}</td></tr>'
        for name, value in pairs
    )
    return f"<table><tbody>{lines}</tbody></table>"


def items(texts: Iterable[str]) -> str:
    """A list of texts."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"


def heading(text: str) -> str:
    """A heading of a section."""
    return f"<p><b>{html.escape(text)}</b></p>"


def code(*texts: str) -> str:
    """Pieces of code, side by side."""
    return ", ".join(f"<code>{html.escape(text)}</code>" for text in texts)
