"""What a model has in place of the distribution of its rows, for methods that use it again.

A diffusion model knows a stochastic bound on the log density of a row, not the density. Where a
model function declares one, it notes it here if a method of a posterior asks for it.
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

from jax import Array

BOUND = "stochastic_bound"  # key of a site's `infer`: `True`, or `False` for no bound on a density


class RowDensity(abc.ABC):
    """A density of rows, known by a stochastic bound.

    Attributes:
        x: the rows, `(rows, ...)`.
    """

    x: Array

    @property
    def num_rows(self) -> int:
        """Number of rows in the model."""
        return int(self.x.shape[0])

    @property
    def dim(self) -> int:
        """Number of elements of a row."""
        return math.prod(self.x.shape[1:])

    @property
    def num_codes(self) -> int:
        """Number of values, if the rows are codes of what else is observed of a row; else 0."""
        return 0

    @abc.abstractmethod
    def loss(self, key: Array) -> Array:
        """What a step minimizes, `(rows,)`: an unbiased estimate."""

    @abc.abstractmethod
    def parts(self, key: Array, start: Any, num_steps: int | None) -> dict[str, Array]:
        """Unbiased estimates of the parts of the bound on `-log p`, each `(rows,)`.

        Args:
            key: randomness.
            start: time of the first row; those of the others are equally spaced. Where it is
                uniform, the estimates are unbiased.
            num_steps: steps of the process; `None` for those of the model.
        """

    @abc.abstractmethod
    def generate(
        self,
        key: Array,
        num_rows: int,
        num_steps: int | None,
        method: str,
        keep: Array | None = None,
    ) -> Array:
        """Draws of rows; in completions, elements of `x` where `keep` is true."""

    @abc.abstractmethod
    def ode_log_density(self, key: Array, num_steps: int) -> Array:
        """Log density of the rows by an ordinary differential equation, `(rows,)`."""


_record: contextvars.ContextVar[dict[str, RowDensity] | None] = contextvars.ContextVar(
    "row_densities", default=None
)


def current_row_densities() -> dict[str, RowDensity] | None:
    """Where the model that is being called notes its densities; `None` if nothing asks."""
    return _record.get()


@contextlib.contextmanager
def row_densities() -> Iterator[dict[str, RowDensity]]:
    """The densities by site that models called inside note; their bounds are not evaluated."""
    found: dict[str, RowDensity] = {}
    token = _record.set(found)
    try:
        yield found
    finally:
        _record.reset(token)
