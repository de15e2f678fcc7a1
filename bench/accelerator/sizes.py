"""How much the sections of `bench.device` measure, and on which device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Measurement = Callable[
    [float], dict[str, Any]
]  # from the seconds that are left to a row of results


class Sizes(NamedTuple):
    """Sizes of problems; the defaults are those of a run on an accelerator.

    Attributes:
        most: largest number of measurements of a section.
        steps: gradient steps of each fit that is compared with the CPU.
        batches: minibatch sizes of the networks.
        width: hidden units of the networks.
        rows: rows of their data.
        precisions: see `vijax.fit`.
        product: rows and columns of the matrices whose product measures the peak rate.
        vector: length of the vector whose copy measures the peak bandwidth.
        points: points at which a log density is evaluated at once.
        restarts: restarts that run at once.
        table: rows of the large regression, of 50 columns.
        problems: number of problems that are fitted from the call to the posterior.
        seconds: of a timing, at least.
        cold: whether compiled programs are dropped before times that include compilation.
    """

    most: int | None = None
    steps: int = 200
    batches: tuple[int, ...] = (128, 1024, 8192, 65_536)
    width: int = 400
    rows: int = 131_072
    precisions: tuple[str | None, ...] = (None, "bfloat16")
    product: int = 8192
    vector: int = 2**29
    points: tuple[int, ...] = (16, 256, 4096, 65_536)
    restarts: tuple[int, ...] = (1, 16, 256)
    table: int = 10_000_000
    problems: int = 3
    seconds: float = 0.3
    cold: bool = True


ON_CPU = Sizes(
    batches=(128, 1024),
    rows=8192,
    product=1024,
    vector=2**24,
    points=(16, 256),
    restarts=(1, 16),
    table=100_000,
)
SHORT = Sizes(
    most=1,
    steps=10,
    batches=(32,),
    width=8,
    rows=64,
    precisions=(None,),
    product=64,
    vector=2**10,
    points=(64,),
    restarts=(2,),
    table=1000,
    problems=1,
    seconds=0.0,
    cold=False,
)


def devices() -> dict[str, jax.Device]:
    """The default device and, if it is another one, the CPU, by platform."""
    found = {jax.devices()[0].platform: jax.devices()[0]}
    return found | {"cpu": jax.devices("cpu")[0]}
