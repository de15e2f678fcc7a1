"""Figures of docs/benchmarks.md: worst error against seconds; lower left is better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.peers.methods import OURS
from bench.posteriors.score import NOISE
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE

# A color per library, a marker per method.
STYLES = {
    OURS: (POSTERIOR, "o"),
    "NumPyro SVI": (GUIDE, "D"),
    "NumPyro NUTS": (GUIDE, "s"),
    "BlackJAX Pathfinder": ("#5f8f3e", "^"),
    "BlackJAX mean-field": ("#5f8f3e", "v"),
    "flowjax MAF": ("#8a5fa8", "P"),
    "PyMC ADVI": ("#b03a48", "<"),
    "PyMC FullRankADVI": ("#b03a48", ">"),
    "pymc-extras Pathfinder": ("#d08a92", "^"),
    "pymc-extras DADVI": ("#d08a92", "X"),
    "Pyro SVI": (REFERENCE, "D"),
}


def posteriordb(found: dict[str, Any], path: Path) -> None:
    """One panel with a point for every posterior and method."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for method, (color, mark) in STYLES.items():
        runs = ended(found["posteriors"], method)
        if runs:
            seconds, worst = [r["seconds"] for r in runs], [r["worst"] for r in runs]
            axes.plot(seconds, worst, mark, ms=5, alpha=0.8, mew=0, color=color, label=method)
    _finish(axes, "noise of the reference")
    axes.set(xlabel="seconds to 4,000 draws, including compilation")
    axes.set_ylabel("largest error of a mean or log sd (reference sds)")
    axes.legend(frameon=False, loc="upper left", fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def pareto(found: dict[str, Any], path: Path) -> None:
    """A panel per posterior: filled markers for cold runs, hollow ones for warm runs."""
    figure, axes = plt.subplots(
        2, 2, figsize=(8.6, 6.2), sharex=True, sharey=True, layout="constrained"
    )
    for panel, (name, by_method) in zip(axes.flat, found.items(), strict=True):
        for method, (color, mark) in STYLES.items():
            run = by_method.get(method, {})
            if "worst" not in run:
                continue
            size = 9 if method == OURS else 6
            cold, warm, worst = run["seconds"], run.get("warm"), run["worst"]
            if warm is not None:
                panel.plot([warm, cold], [worst] * 2, "-", lw=0.7, color=color, alpha=0.6)
                panel.plot(warm, worst, mark, ms=size, mfc="white", mec=color)
            panel.plot(cold, worst, mark, ms=size, mew=0, color=color, label=method)
        _finish(panel, "noise" if panel is axes[0, 0] else "")
        panel.set_title(name.replace("_", " "), loc="left", fontsize="medium")
    figure.supxlabel("seconds to 4,000 draws: filled markers cold, hollow markers warm")
    figure.supylabel("largest error of a mean or log sd (sds)")
    marks = {
        label: handle
        for panel in axes.flat
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        [marks[label] for label in STYLES if label in marks],
        [label for label in STYLES if label in marks],
        loc="outside right upper",
        frameon=False,
        fontsize="small",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


FIGURES: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "posteriordb": posteriordb,
    "pareto": pareto,
}


def ended(posteriors: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """Completed runs of a method, one per posterior."""
    first = [of[method][0] for of in posteriors.values() if method in of]
    return [run for run in first if "worst" in run]


def _finish(axes: Axes, noise: str) -> None:
    """Logarithmic axes, and a line at the error below which methods are tied."""
    axes.axhline(NOISE, color=REFERENCE, lw=0.8, ls=":")
    options = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(noise, (0, NOISE), (4, 4), fontsize="small", color=REFERENCE, **options)
    axes.set(xscale="log", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
