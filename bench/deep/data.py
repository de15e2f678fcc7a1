"""Images of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

_SIDE, _BITS = 105, 11025  # of an image of Omniglot


class Images(NamedTuple):
    """Images, `(rows, 28, 28)` from 0 to 1, and digits, to fit and to test."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def mnist(folder: Path) -> Images:
    with np.load(folder / "mnist" / "mnist.npz") as file:
        x, y, x_test, y_test = (file[n] for n in ("x_train", "y_train", "x_test", "y_test"))
    x, x_test = ((each / 255).astype(np.float32) for each in (x, x_test))
    return Images(x, y.astype(np.int32), x_test, y_test.astype(np.int32))


def omniglot(folder: Path, rows: int) -> np.ndarray:
    """Characters of eight alphabets, `(rows, 28, 28)`, with lines as wide as those of MNIST."""
    with np.load(folder / "omniglot_small" / "omniglot_small.npz") as file:
        packed = file["images"]
    packed = np.random.default_rng(0).permutation(packed)[:rows]
    images = np.unpackbits(packed, axis=1)[:, :_BITS].reshape(-1, _SIDE, _SIDE).astype(np.float32)
    padded = np.pad(images, ((0, 0), (3, 4), (3, 4)))  # 112 is 4 * 28
    return padded.reshape(-1, 28, 4, 28, 4).mean(axis=(2, 4))
