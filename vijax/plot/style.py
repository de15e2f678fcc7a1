"""Colors with a meaning that all figures share, and axes to draw on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

ANSWER = "#27618c"  # the draws that a posterior hands out
GUIDE = "#c8621b"  # the guide by itself
FAINT = "#8a8f94"  # what they are compared with: the prior, single steps, limits

RC = {  # settings of matplotlib, which the examples share
    "axes.axisbelow": True,
    "axes.edgecolor": "#55595c",
    "axes.labelcolor": "#303336",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "text.color": "#303336",
    "xtick.color": "#55595c",
    "ytick.color": "#55595c",
}


@contextmanager
def styled() -> Iterator[None]:
    """Our settings inside, the user's again outside."""
    with plt.rc_context(RC):
        yield


def axes_or_new(axes: Axes | None, width: float = 5.2, height: float = 3.4) -> Axes:
    """The axes given, or those of a new figure of so many inches."""
    if axes is not None:
        return axes
    return plt.subplots(figsize=(width, height), layout="constrained")[1]
