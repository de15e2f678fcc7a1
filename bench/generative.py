"""Autoencoders and diffusion models: log evidence of test rows, gaps, codes, counts, step times.

    python -m bench generative FOLDER [--length 1] [--images 500] [--only autoencoders ...]

The folder has `mnist_static_binarized/mnist_static_binarized.npz`, Larochelle's fixed binarization
of MNIST as packed bits; `resampling` reads `mnist/mnist.npz` as well. `--length` is a factor of the
steps: one for two cores, where every fit is short, 20 for a device.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import _report
from bench.generation.amortization import amortization
from bench.generation.autoencoders import autoencoders, resampling
from bench.generation.codes import codes
from bench.generation.collapse import collapse
from bench.generation.counts import counts
from bench.generation.masked import masked
from bench.generation.step_time import step

SECTIONS = {
    "autoencoders": autoencoders,
    "resampling": resampling,
    "masked": masked,
    "amortization": amortization,
    "collapse": collapse,
    "codes": codes,
    "counts": counts,
    "step": step,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with mnist_static_binarized")
    parser.add_argument("--length", type=float, default=1.0, help="factor of the steps")
    parser.add_argument("--images", type=int, default=500, help="number of test images")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS))
    parser.add_argument("--counts", type=Path, help="CSV of cells by genes, for counts")
    options = parser.parse_args()
    found = _report.stored("generative")
    for name in options.only:
        found[name] = SECTIONS[name](options)
        _report.save("generative", found)
        _report.table(tuple(found[name][0]), [tuple(row.values()) for row in found[name]])


if __name__ == "__main__":
    main()
