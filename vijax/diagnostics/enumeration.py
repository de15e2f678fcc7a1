"""The exact posterior of discrete sites that have few joint values, by enumeration.

A model whose discrete sites are coupled, such as a regression with selected predictors, is not
marginalized site by site, but all of its combinations can be evaluated.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vijax.contracts import Space
from vijax.contracts.kernel import Floats, Kernel

_MAX_STATES = 2**14
_NUM_STATES = 2**14  # that represent the posterior


class Comparison(NamedTuple):
    """A guide compared with the exact posterior, by coordinate `(dim,)`.

    Attributes:
        num_states: number of joint values.
        mean: mean of the posterior less the guide's, in posterior standard deviations.
        log_sd: log standard deviation of the posterior less the guide's.
    """

    num_states: int
    mean: Floats
    log_sd: Floats

    @property
    def largest(self) -> tuple[float, float]:
        """The largest differences of a mean and of a log standard deviation."""
        return float(np.abs(self.mean).max()), float(np.abs(self.log_sd).max())


class Enumeration(NamedTuple):
    """All joint values with their posterior probabilities.

    Attributes:
        states: indices of values, `(num, dim)`.
        probability: `(num,)`.
        log_evidence: in nats.
    """

    states: Floats
    probability: Floats
    log_evidence: float

    def compare(self, draws: Floats) -> Comparison:
        """The posterior compared with draws of a guide, `(num_draws, dim)`."""
        mean = self.probability @ self.states
        sd = np.sqrt(self.probability @ (self.states - mean) ** 2)
        difference = mean - draws.mean(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled, ratio = difference / sd, np.log(sd / draws.std(axis=0))
        never = (sd == 0) & (draws.std(axis=0) == 0)  # both have a single value
        return Comparison(
            len(self.states),
            np.where(difference == 0, 0.0, scaled),
            np.where(never, 0.0, ratio),
        )

    def sample(self, rng: np.random.Generator) -> Floats:
        """States in the proportions of their probabilities, by systematic sampling."""
        levels = (np.arange(_NUM_STATES) + rng.random()) / _NUM_STATES
        rows = np.searchsorted(np.cumsum(self.probability), levels)
        return self.states[rng.permutation(np.minimum(rows, len(self.states) - 1))]


def enumerate_states(kernel: Kernel) -> Enumeration | None:
    """Evaluates all joint values; `None` if there are too many, or none is possible.

    Args:
        kernel: the log density of a target without continuous sites.
    """
    sizes = cardinalities(kernel.target.space)
    # logarithms: products of many sizes overflow
    if 0 in sizes or sum(map(math.log, sizes)) > math.log(_MAX_STATES) + 1e-9:
        return None
    num = math.prod(sizes)
    if kernel.is_costly(num):
        return None
    states = np.stack(np.unravel_index(np.arange(num), sizes), axis=1).astype(float)
    log_density = kernel.log_density(states)
    peak = np.nanmax(log_density, initial=-np.inf)
    if not np.isfinite(peak):
        return None
    mass = np.nan_to_num(np.exp(log_density - peak))
    total = mass.sum()
    return Enumeration(states, mass / total, float(peak + math.log(total)))


def cardinalities(space: Space) -> tuple[int, ...]:
    """Number of values of every coordinate, 0 if countably infinite."""
    return tuple(site.cardinality or 0 for site in space.sites for _ in range(site.size))
