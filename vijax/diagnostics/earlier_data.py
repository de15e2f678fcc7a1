"""How well a normal distribution in place of earlier data is expected to do, and drift since."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TOLERATED = 0.1  # sds of the mean beyond which a posterior is no more than approximate
_SKEWNESS, _KURTOSIS = 0.05, 0.2  # up to which a posterior counts as normal
_MAX_KURTOSIS = 1.0  # that of two normal distributions 4 sds from one another is -1.3
_MIXED = 2.0  # third moments of several coordinates, not estimated, are taken to add as much
_DRIFT = 0.01  # probability of a change as large by chance, over all coordinates


class Replaced(NamedTuple):
    """A posterior that a normal distribution with the same moments takes the place of.

    Attributes:
        mean: `(dim,)`.
        sd: `(dim,)`.
        skewness: `(dim,)`; what the normal distribution does not have.
        kurtosis: excess over that of a normal distribution, `(dim,)`; likewise.
        num_draws: effective number of draws that the moments are from.
    """

    mean: np.ndarray
    sd: np.ndarray
    skewness: np.ndarray
    kurtosis: np.ndarray
    num_draws: float

    @property
    def is_normal(self) -> bool:
        """Whether a normal distribution can take its place without a loss."""
        skewed = np.abs(self.skewness).max() > _SKEWNESS
        return not skewed and bool(np.abs(self.kurtosis).max() <= _KURTOSIS)

    @property
    def is_far_from_normal(self) -> bool:
        """Whether the expected error, from an expansion around a normal one, means little."""
        return bool(np.abs(self.kurtosis).max() > _MAX_KURTOSIS)

    def forgotten(self, power: float) -> Replaced:
        """With its density to this power, which widens it and what it has of skewness."""
        factor = power**-0.5
        return self._replace(sd=factor * self.sd, skewness=factor * self.skewness)


class EarlierData(NamedTuple):
    """What took the place of earlier data, in one update after another.

    Attributes:
        labels: of the coordinates, `(dim,)`.
        num_updates: number of updates.
        num_kept: number of earlier batches whose data are kept.
        replaced: the posteriors that normal distributions took the place of.
        before: the posterior before the last update.
        now: the posterior after it.
        covariance: its covariance, `(dim, dim)`.
        doubt: why one of those that were replaced was not to be, empty if there is no reason.
    """

    labels: tuple[str, ...]
    num_updates: int
    num_kept: int
    replaced: tuple[Replaced, ...]
    before: Replaced
    now: Replaced
    covariance: np.ndarray
    doubt: str = ""

    def replaced_on(self, labels: Sequence[str]) -> tuple[Replaced, ...]:
        """What was replaced so far, on these coordinates; no error is known of those it had not."""
        places = {label: i for i, label in enumerate(self.labels)}
        rows = np.array([places.get(label, -1) for label in labels])

        def on(one: Replaced) -> Replaced:
            new = rows < 0
            sd, skewness = np.where(new, np.inf, one.sd[rows]), np.where(new, 0, one.skewness[rows])
            mean, kurtosis = (np.where(new, 0, x[rows]) for x in (one.mean, one.kurtosis))
            return Replaced(mean, sd, skewness, kurtosis, one.num_draws)

        return tuple(map(on, self.replaced))

    @property
    def error(self) -> np.ndarray:
        """Expected error of the means in sds, against a fit of all data, `(dim,)`.

        A density with skewness `g` pulls a point `t` of its sds from its mean with a force that
        differs from that of the normal distribution by `g (t^2 - 1) / 2` (the first term of an
        Edgeworth series). In the posterior now, whose sd is `s` of its sds and whose mean is `t`
        away, this moves the mean by `g s (t^2 + s^2 - 1) / 2` of the sd now; the errors of all
        updates add up. Twice that is expected, for mixed third moments are not known. Estimated
        moments add `s / sqrt(num_draws)` each, at random.
        """
        now, dim = self.now, len(self.labels)
        bias, variance = np.zeros(dim), np.zeros(dim)
        for one in self.replaced:
            s = np.minimum(now.sd / one.sd, 1.0)
            t = (now.mean - one.mean) / one.sd
            bias += one.skewness * s * (t**2 + s**2 - 1) / 2
            variance += s**2 / one.num_draws
        return _MIXED * np.abs(bias) + np.sqrt(variance)

    @property
    def change(self) -> np.ndarray:
        """Change of the means by the new data, in sds of what chance explains, `(dim,)`.

        If new data come from the same distribution, a mean changes with variance `sd_before^2 -
        sd_now^2`.
        """
        last = self.before
        expected = np.maximum(last.sd**2 - self.now.sd**2, 1e-4 * last.sd**2)
        return (self.now.mean - last.mean) / np.sqrt(expected)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the posterior may be inaccurate; empty if nothing is known against it."""
        if self.doubt:
            return (f"a posterior that took the place of earlier data {self.doubt}",)
        worst = int(np.argmax(self.error))
        if not self.replaced or self.error[worst] <= TOLERATED:
            return ()
        return (
            "earlier data are represented by a normal distribution: means may be off by "
            f"{self.error[worst]:.2f} sd ({self.labels[worst]}, unconstrained) against a fit of "
            "all data",
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """What to say in any case, one sentence each."""
        from scipy.special import ndtr  # slow to import

        worst = int(np.argmax(np.abs(self.change)))
        largest = float(abs(self.change[worst]))
        p = -math.expm1(len(self.change) * math.log1p(-min(2 * float(ndtr(-largest)), 1 - 1e-16)))
        moved = "drift: the new data moved" if p < _DRIFT else "no drift: the new data moved"
        cost = "without error from earlier data"
        if self.replaced:
            cost = (
                "normal distributions in place of earlier data cost an expected "
                f"{self.error.max():.2f} sd of a mean"
            )
        kept = f"; the last {self.num_kept} batches are kept" if self.num_kept else ""
        return (
            f"update {self.num_updates}: {cost}{kept}",
            f"{moved} {self.labels[worst]} by {largest:.1f} sds of what chance explains "
            f"(probability {p:.2g})",
        )
