"""The result of simulation-based calibration: ranks of true parameters, and what they tell."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vijax.runtime.errors import mismatch

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import DataTree

_LEVEL = 0.05  # probability that exact inference is found wrong
LEAST_SETS = 20  # in all, and of a status for its row
_POWER = 0.84  # normal quantile of 80 %


class Deviation(NamedTuple):
    """How far the ranks of one scalar are from uniform.

    Normal scores, the standard normal quantiles of ranks, have mean 0 and sd 1 if inference is
    exact; where posteriors are normal they are `(truth - mean) / sd`.

    Attributes:
        bias: mean of the normal scores, in posterior sds; positive where posteriors are too low.
        bias_se: its standard error.
        spread: their sd; above 1 where posteriors are too narrow.
        spread_se: its standard error.
        coverage_50: share of 50 % intervals that contain the truth.
        coverage_90: share of 90 % intervals that contain the truth.
        p: probability of a deviation as large under exact inference, over all scalars together.
    """

    bias: float
    bias_se: float
    spread: float
    spread_se: float
    coverage_50: float
    coverage_90: float
    p: float


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Returned by `vijax.calibrate`.

    Attributes:
        ranks: by site or quantity, the rank of the truth among posterior draws as a share from 0 to
            1, ties broken at random, `(num, *shape)`; uniform if inference is exact. NaN where a
            fit failed.
        status: of every fit, `(num,)`.
        num_draws: posterior draws of each fit.
    """

    ranks: dict[str, np.ndarray]
    status: np.ndarray
    num_draws: int

    @property
    def calibrated(self) -> bool:
        """Whether the ranks of all scalars are uniform, as far as so many data sets tell.

        At 5 % over all scalars (Bonferroni) and three tests of each: the mean and the variance of
        normal scores, and the largest distance of the distribution from uniform (Kolmogorov).
        """
        return not self._wrong()

    def summary(self) -> DataFrame:
        """One row a scalar, with the columns of `Deviation`."""
        import pandas as pd  # slow to import

        rows = self._deviations()
        return pd.DataFrame(rows.values(), index=list(rows), columns=Deviation._fields)

    def by_status(self) -> DataFrame:
        """One row a status: number of fits, bias, spread and coverage, all scalars together.

        A status is a function of the data, so that ranks are uniform among the fits of each, too.
        Standard errors are those of means over fits. Rows with fewer than 20 fits have only these.
        """
        import pandas as pd

        rows = {name: self._of_status(self.status == name) for name in sorted({*self.status})}
        return pd.DataFrame.from_dict(rows, orient="index")

    def to_datatree(self) -> DataTree:
        """The ranks as group `prior_sbc`, for `arviz_plots.plot_ecdf_pit`."""
        from arviz_base import from_dict  # slow to import

        whole = np.all([np.isfinite(x).reshape(len(x), -1).all(1) for x in self.ranks.values()], 0)
        return from_dict({"prior_sbc": {name: x[None, whole] for name, x in self.ranks.items()}})

    def report(self) -> str:
        """Whether it is calibrated, what is not, what would be noticed, and coverage by status."""
        num, found = len(self.status), self._deviations()
        seen = _smallest_visible(num, len(found))
        counts = ", ".join(f"{(self.status == s).sum()} {s}" for s in sorted({*self.status}))
        lines = [f"{self._word}: {num} data sets, {len(found)} scalars ({counts})"]
        for name, one in self._wrong().items():
            lines.append(
                f"- {name}: {_words(one)}; bias {one.bias:+.2f} ± {one.bias_se:.2f} sd, spread "
                f"{one.spread:.2f} ± {one.spread_se:.2f}, p = {one.p:.1g}"
            )
        lines.append(
            f"- would have been noticed with 80% probability: a bias of {seen:.2f} sd, intervals "
            f"{min(1.0, seen / math.sqrt(2)):.0%} too narrow or too wide"
        )
        for status in sorted({*self.status}):
            row = self._of_status(self.status == status)
            if "coverage_90" in row:
                lines.append(
                    f"- {status} ({row['fits']} fits): 90% intervals contain the truth in "
                    f"{row['coverage_90']:.1%} ± {row['coverage_90_se']:.1%}"
                )
        return "\n".join(lines)

    def scalars(self) -> Iterator[tuple[str, np.ndarray]]:
        """The ranks `(num,)` of every scalar by name, such as `"theta[3]"`, without failed fits."""
        for name, values in self.ranks.items():
            for index in np.ndindex(values.shape[1:]):
                one = values[(slice(None), *index)]
                label = f"{name}[{','.join(map(str, index))}]" if index else name
                yield label, one[np.isfinite(one)]

    def __repr__(self) -> str:
        return f"Calibration({self._word}, {len(self.status)} data sets)"

    @property
    def _word(self) -> str:
        return "calibrated" if self.calibrated else "miscalibrated"

    def _deviations(self) -> dict[str, Deviation]:
        found = dict(self.scalars())
        return {name: _deviation(ranks, len(found)) for name, ranks in found.items()}

    def _wrong(self) -> dict[str, Deviation]:
        return {name: one for name, one in self._deviations().items() if one.p < _LEVEL}

    def _of_status(self, chosen: np.ndarray) -> dict[str, Any]:
        row: dict[str, Any] = {"fits": int(chosen.sum())}
        ranks = [x[chosen].reshape(row["fits"], -1) for x in self.ranks.values()]
        values = np.concatenate(ranks, axis=1)
        values = values[np.isfinite(values).all(axis=1)]
        if len(values) < LEAST_SETS:
            return row
        scores = _normal_scores(values)
        for name, by_fit in {
            "bias": scores.mean(axis=1),
            "spread": (scores**2).mean(axis=1),
            "coverage_50": _inside(values, 0.5).mean(axis=1),
            "coverage_90": _inside(values, 0.9).mean(axis=1),
        }.items():
            mean, se = by_fit.mean(), by_fit.std(ddof=1) / math.sqrt(len(by_fit))
            if name == "spread":
                mean, se = math.sqrt(mean), se / (2 * math.sqrt(mean))
            row |= {name: float(mean), f"{name}_se": float(se)}
        return row


def shares_below(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rank of the truth among draws as a share, ties broken at random, `(num, *shape)`.

    Uniform if truth and draws are exchangeable. NaN where draws are.

    Args:
        truth: `(num, *shape)`.
        draws: `(num, num_draws, *shape)`.
        rng: of ties.
    """
    if truth.shape != draws.shape[:1] + draws.shape[2:]:
        raise ValueError(mismatch("draws", f"shape (num, num_draws) + {truth.shape}", draws.shape))
    below = (draws < truth[:, None]).sum(axis=1)
    equal = (draws == truth[:, None]).sum(axis=1)
    shares = (below + rng.uniform(size=truth.shape) * (equal + 1)) / (draws.shape[1] + 1)
    return np.where(np.isnan(draws).any(axis=1), np.nan, shares)


def _deviation(ranks: np.ndarray, num_scalars: int) -> Deviation:
    from scipy import stats  # slow to import

    num = len(ranks)
    scores = _normal_scores(ranks)
    bias, square = scores.mean(), (scores**2).sum()
    tests = [
        2 * stats.norm.sf(abs(bias) * math.sqrt(num)),
        2 * min(stats.chi2.sf(square, num), stats.chi2.cdf(square, num)),
        stats.kstest(ranks, "uniform").pvalue,
    ]
    spread = math.sqrt(square / num)
    return Deviation(
        float(bias),
        float(scores.std(ddof=1)) / math.sqrt(num),
        spread,
        float((scores**2).std(ddof=1)) / (2 * spread * math.sqrt(num)),
        float(_inside(ranks, 0.5).mean()),
        float(_inside(ranks, 0.9).mean()),
        float(min(1.0, len(tests) * num_scalars * min(tests))),
    )


def _normal_scores(ranks: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    return ndtri(np.clip(ranks, 1e-12, 1 - 1e-12))


def _inside(ranks: np.ndarray, level: float) -> np.ndarray:
    return np.abs(ranks - 0.5) <= level / 2


def _smallest_visible(num: int, num_scalars: int) -> float:
    """The bias, in posterior sds, that the test of the mean finds with a probability of 80 %."""
    from scipy.special import ndtri

    return float(-ndtri(_LEVEL / (6 * num_scalars)) + _POWER) / math.sqrt(num)


def _words(one: Deviation) -> str:
    """The largest deviation in words."""
    biased = abs(one.bias) / one.bias_se
    spread = abs(one.spread - 1) / one.spread_se
    if max(biased, spread) < 2:
        return "ranks are not uniform"
    if biased > spread:
        return f"posteriors are too {'low' if one.bias > 0 else 'high'}"
    return f"posteriors are too {'narrow' if one.spread > 1 else 'wide'}"
