"""What the examples share: options, their data, a figure style, and where figures go."""

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
    """The command line: `--short` for a quick look; `--data` where `data` says what file it is."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="fewer data, a matter of seconds")
    if data is not None:
        parser.add_argument("--data", type=Path, help=f"{data}; made up without it")
    return parser.parse_args()


def read(name):
    """The rows of a CSV file in examples/data as a structured array, one field a column."""
    path = HERE / "data" / f"{name}.csv"
    return np.genfromtxt(
        path, delimiter=",", names=True, dtype=None, encoding="utf-8", skip_header=1
    )


def save(figure, name):
    """Writes a figure to examples/figures, or to $VIJAX_FIGURES, and says so."""
    folder = Path(os.environ.get("VIJAX_FIGURES", HERE / "figures"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
    print(f"figure: {os.path.relpath(path)}")
