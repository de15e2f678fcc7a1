"""Colors and settings shared by all figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

POSTERIOR = "#27618c"  # posterior draws
GUIDE = "#c8621b"  # the guide
REFERENCE = "#8a8f94"  # prior, single steps, limits

RC = {  # matplotlib settings, also of the examples
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
    """Applies the settings of this module within a `with` block."""
    with plt.rc_context(RC):
        yield


def axes_or_new(axes: Axes | None, width: float = 5.2, height: float = 3.4) -> Axes:
    """The axes, or those of a new figure, with sizes in inches."""
    if axes is not None:
        return axes
    return plt.subplots(figsize=(width, height), layout="constrained")[1]
