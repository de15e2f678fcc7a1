"""Components of a mixture that can be permuted without a change of the posterior."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Axes = tuple[tuple[str, int], ...]  # sites, each with an axis of its value


class Components(NamedTuple):
    """Components that are exchangeable: the posterior is the same in any order of them.

    Attributes:
        num: their number.
        axes: the sites and axes along which they are, all in one order.
    """

    num: int
    axes: Axes

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that have a value for each component."""
        return tuple(dict.fromkeys(name for name, _ in self.axes))


class Relabeling(NamedTuple):
    """What distinguishes components, see `vijax.posterior.relabeling.assignments`.

    Attributes:
        components: those that are relabeled.
        locations: of the values of each, `(num, num_features)`.
        scales: likewise.
    """

    components: Components
    locations: np.ndarray
    scales: np.ndarray
