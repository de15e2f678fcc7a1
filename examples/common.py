"""Shared by the examples: command-line options, data, figure style, saving of figures."""

import argparse
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from vijax.plot import style

HERE = Path(__file__).parent
BLUE, ORANGE, GREY = style.POSTERIOR, style.GUIDE, style.REFERENCE

plt.rcParams.update(style.RC)
plt.rcParams.update({"figure.dpi": 110, "figure.titlesize": "large", "legend.fontsize": "medium"})


def options(description, data=None):
    """Command-line options: `--short`, and `--data` for the file described by `data`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="less data, takes seconds")
    if data is not None:
        parser.add_argument("--data", type=Path, help=f"{data}; default: simulated data")
    return parser.parse_args()


def read(name):
    """The rows of a CSV file in examples/data as a structured array, one field per column."""
    path = HERE / "data" / f"{name}.csv"
    return np.genfromtxt(
        path, delimiter=",", names=True, dtype=None, encoding="utf-8", skip_header=1
    )


def save(figure, name):
    """Saves a figure to examples/figures, or to $VIJAX_FIGURES, and prints the path."""
    folder = Path(os.environ.get("VIJAX_FIGURES", HERE / "figures"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    print(f"figure: {os.path.relpath(path)}")
