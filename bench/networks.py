"""Bayesian neural networks: variance of gradients, seconds of a step, regression of the UCI sets.

    python -m bench networks FOLDER [--splits 20] [--only variance steps uci nuts conformal]

The folder has `uci/NAME.npz` with inputs, targets and the twenty splits of Hernandez-Lobato and
Adams (2015). One hidden layer of 50 units, as in the literature.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import _report
from bench.deep.conformal_coverage import conformal
from bench.deep.nuts import nuts
from bench.deep.uci import uci
from bench.deep.weight_noise import steps, variance

SECTIONS = {"variance": variance, "steps": steps, "uci": uci, "nuts": nuts, "conformal": conformal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with uci/NAME.npz")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS))
    options = parser.parse_args()
    found = _report.stored("networks") if set(options.only) < set(SECTIONS) else {}
    for name in options.only:
        found[name] = SECTIONS[name](options)
        _report.table(tuple(found[name][0]), [tuple(row.values()) for row in found[name]])
    _report.save("networks", found)


if __name__ == "__main__":
    main()
