"""Report of a fit as a figure."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vijax import Posterior
from vijax.plot.losses import losses
from vijax.plot.shifts import shifts
from vijax.plot.stages import stages
from vijax.plot.style import styled
from vijax.plot.weights import weights

_LINE = 70  # characters per line of text


def report(posterior: Posterior) -> Figure:
    """Plots stages or losses, importance weights, the text of the report and the corrections.

    Args:
        posterior: any fit; panels that do not apply to it say so.
    """
    with styled():
        figure = plt.figure(figsize=(10.5, 7.2), layout="constrained")
        grid = figure.add_gridspec(2, 4, height_ratios=(1, 1.15))
        progress = figure.add_subplot(grid[0, :2])
        if posterior.history:
            stages(posterior, progress)
        elif posterior.losses.size:
            losses(posterior, progress)
        else:
            _placeholder(progress, f"{posterior.stop_reason}")
        histogram = figure.add_subplot(grid[0, 2:])
        assessment = posterior._result.assessment
        if assessment.importance is not None:
            weights(posterior, histogram)
        else:
            _placeholder(histogram, "no importance weights")
        _text(figure.add_subplot(grid[1, :2]), posterior)
        left = figure.add_subplot(grid[1, 2])
        right = figure.add_subplot(grid[1, 3], sharey=left)
        if assessment.shift is not None:
            shifts(posterior, (left, right))
            right.tick_params(labelleft=False)
            handles, labels = right.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower right", ncols=2)
        else:
            for panel in (left, right):
                _placeholder(panel, "no correction")
    return figure


def _text(axes: Axes, posterior: Posterior) -> None:
    """Status, guide, reasons and advice of the report, without its table."""
    text, _, rest = posterior.report().partition("\n\neffect of the corrections")
    advice = rest.partition("\n\nnext: ")
    lines = [*text.splitlines(), *([f"next: {advice[2]}"] if advice[1] else [])]
    wrapped = [textwrap.fill(line, _LINE, subsequent_indent="  ") for line in lines]
    axes.set_axis_off()
    axes.text(0.0, 1.0, "\n".join(wrapped), va="top", transform=axes.transAxes, linespacing=1.4)


def _placeholder(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, textwrap.fill(text, 50), ha="center", transform=axes.transAxes)
