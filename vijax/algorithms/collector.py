"""What algorithms share whose variables are statistics of their iterates."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

from vijax.contracts import Algorithm, Axes, Variables


class Collector(Algorithm):
    """Steps at a constant step size, whose iterates are collected in the guide's parameters.

    Its state has the collected `variables` and a factor of the step size, `rate`; the iterates are
    another part of it. All rows share them.
    """

    @property
    def collects(self) -> bool:
        return True

    @property
    def maximizes_elbo(self) -> bool:
        return False

    def row_axes(self, state: Any, axes: Variables) -> Any:
        shared = jax.tree.map(lambda _: Axes(), state)
        return shared._replace(variables=axes)

    def rescale(self, state: Any, factor: float | Array) -> Any:
        return state._replace(rate=state.rate * factor)

    def move(self, state: Any, variables: Variables, reset: bool) -> Any:
        return state._replace(variables=variables)  # the iterates go on from where they are
