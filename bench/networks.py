"""Bayesian neural networks: gradients, UCI sets, NUTS, coverage of intervals, MNIST.

    python -m bench networks FOLDER [--splits 20] [--sets yacht ...] [--only uci mnist ...]

The folder has `uci/NAME.npz` with inputs, targets and the twenty splits of Hernandez-Lobato and
Adams (2015), for one hidden layer of 50 units, as in the literature; `mnist/mnist.npz`, and
`omniglot_small/omniglot_small.npz` with characters of other alphabets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import _report
from bench.deep.bayes_by_backprop import bayes_by_backprop
from bench.deep.conformal_coverage import conformal
from bench.deep.ivon import ivon
from bench.deep.mnist import digits
from bench.deep.nuts import nuts
from bench.deep.uci import PUBLISHED, uci
from bench.deep.weight_noise import steps, variance

SECTIONS = {
    "variance": variance,
    "steps": steps,
    "uci": uci,
    "nuts": nuts,
    "conformal": conformal,
    "mnist": digits,
    "ivon": ivon,
    "bayes_by_backprop": bayes_by_backprop,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with uci, mnist and omniglot_small")
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--sets", choices=PUBLISHED, nargs="+", default=list(PUBLISHED))
    parser.add_argument("--length", type=float, default=1.0, help="factor of the steps on MNIST")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS))
    options = parser.parse_args()
    found = _report.stored("networks") if set(options.only) < set(SECTIONS) else {}
    for name in options.only:
        found[name] = SECTIONS[name](options)
        _report.save("networks", found)
        _report.table(tuple(found[name][0]), [tuple(row.values()) for row in found[name]])


if __name__ == "__main__":
    main()
