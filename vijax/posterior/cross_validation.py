"""The result of cross-validation: log predictive densities of rows left out, and their fits."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from vijax.diagnostics.diagnosis import TRUSTED
from vijax.posterior.many.fits import Fits

if TYPE_CHECKING:
    from pandas import DataFrame

_RELIABLE = 0.7  # k-hat up to which a mean over draws is
_PRECISE = 0.1  # nats, Monte Carlo error up to which it is in any case
_SHOWN = 10  # folds that a report lists


@dataclasses.dataclass(frozen=True, eq=False)
class CrossValidation:
    """Returned by `vijax.cross_validate`.

    Attributes:
        pointwise: log predictive density, in nats, of every row given the rows of other folds,
            `(num_rows,)`; with `joint` of every group, in the order of `units`. NaN where a fold
            was not fitted.
        p_pointwise: by how much the density given all data is larger, likewise.
        mcse_pointwise: Monte Carlo standard error of `pointwise`, likewise.
        khat: Pareto k-hat of the mean over draws that each is, likewise; where it is above 0.7 that
            error may be larger, as with latents of a row or group that its data determine much more
            closely than the other rows do.
        mcse: Monte Carlo standard error of `elpd`.
        units: labels of the groups with `joint`, otherwise the numbers of the rows.
        unit_folds: the number of the fold of each.
        joint: whether groups are scored as a whole.
        folds: the number of the fold of every row, `(num_rows,)`.
        labels: labels of the folds.
        status: of each fold's fit, `(num_folds,)`; see `Posterior.status` and `Fits.status`. Of a
            fold that was not fitted again it is that of the posterior.
        fits: `Fits` by label of the fold, of those that were fitted.
        weights_khat: of each fold, k-hat of the importance weights from the posterior given all
            data, `(num_folds,)`; NaN if they were not needed.
        num_draws: posterior draws of each fold.
    """

    pointwise: np.ndarray
    p_pointwise: np.ndarray
    mcse_pointwise: np.ndarray
    khat: np.ndarray
    mcse: float
    units: np.ndarray
    unit_folds: np.ndarray
    joint: bool
    folds: np.ndarray
    labels: tuple[Any, ...]
    status: np.ndarray
    fits: Fits
    weights_khat: np.ndarray
    num_draws: int

    @property
    def elpd(self) -> float:
        """Expected log pointwise predictive density: the sum of `pointwise`, in nats."""
        return float(self.pointwise.sum())

    @property
    def se(self) -> float:
        """Its standard error over rows (or groups), `sqrt(num * var(pointwise))`."""
        return math.sqrt(len(self.pointwise) * float(self.pointwise.var()))

    @property
    def p(self) -> float:
        """Effective number of parameters: the log density of the data given all, less `elpd`."""
        return float(self.p_pointwise.sum())

    @property
    def reliable(self) -> bool:
        """Whether all fits are certified or corrected, and all means over draws reliable."""
        return not self.unreliable.any()

    @property
    def unreliable(self) -> np.ndarray:
        """The rows (or groups) that cannot be relied on, `(num,)` booleans.

        Those of a fold whose fit is neither certified nor corrected, and those with a `khat` above
        0.7 and a Monte Carlo error above 0.1 nats.
        """
        return ~np.isin(self.status, TRUSTED)[self.unit_folds] | self._uncovered

    @property
    def _uncovered(self) -> np.ndarray:
        return ~((self.khat <= _RELIABLE) | (self.mcse_pointwise <= _PRECISE))

    def to_elpd_data(self) -> Any:
        """ArviZ's `ELPDData`, for `arviz_stats.compare`; its kind is `"loo_kfold"`."""
        from arviz_stats.utils import ELPDData  # slow to import
        from xarray import DataArray

        dims, coords = ["unit"], {"unit": self.units}
        found: Any = ELPDData(
            kind="loo_kfold",
            elpd=self.elpd,
            se=self.se,
            p=self.p,
            n_samples=self.num_draws,
            n_data_points=len(self.pointwise),
            scale="log",
            warning=not self.reliable,
            good_k=None,  # type: ignore[arg-type]  # as ArviZ has it
            elpd_i=DataArray(self.pointwise, dims=dims, coords=coords),
            n_folds=len(self.labels),
        )
        found.p_kfold_i = DataArray(self.p_pointwise, dims=dims, coords=coords)
        return found

    def summary(self) -> DataFrame:
        """One row a fold: number of rows left out, elpd, p, largest k-hat, status.

        `refitted` is whether the fold was fitted; else `weights_khat` is k-hat of its weights.
        """
        import pandas as pd  # slow to import

        of_units, num = self.unit_folds, len(self.labels)
        khat = np.full(num, -np.inf)
        np.maximum.at(khat, of_units, self.khat)
        columns = {
            "rows": np.bincount(self.folds, minlength=num),
            "elpd": np.bincount(of_units, self.pointwise, num),
            "p": np.bincount(of_units, self.p_pointwise, num),
            "khat": khat,
            "refitted": np.isin(np.array(self.labels, object), np.array(self.fits.labels, object)),
            "weights_khat": self.weights_khat,
            "status": self.status,
        }
        return pd.DataFrame(columns, index=pd.Index(self.labels, name="fold"))

    def report(self) -> str:
        """The estimates, the statuses of the folds, and what cannot be relied on, as text."""
        counts = collections.Counter(self.status.tolist())
        statuses = ", ".join(f"{count} {name}" for name, count in counts.items())
        what = f"{len(self.units)} groups, jointly" if self.joint else f"{len(self.units)} rows"
        lines = [
            f"{len(self.labels)}-fold cross-validation of {what}: {statuses}",
            f"elpd {self.elpd:.1f} ± {self.se:.1f} nats (Monte Carlo error {self.mcse:.2g}), "
            f"p {self.p:.1f} effective parameters",
        ]
        reused = len(self.labels) - len(self.fits)
        if reused:
            lines.append(f"{reused} folds by importance weights, {len(self.fits)} fitted")
        for name in sorted(counts.keys() - {*TRUSTED}):
            labels = [x for x, one in zip(self.labels, self.status, strict=True) if one == name]
            lines.append(f"- {name}: {'fold' if len(labels) == 1 else 'folds'} {_listed(labels)}")
        for label, error in [*self.fits.errors.items()][:_SHOWN]:
            lines.append(f"- fold {label!r}: {error}")
        wide = self._uncovered & np.isfinite(self.pointwise)
        if wide.any():
            lines.append(
                f"- k-hat is above {_RELIABLE} at {'groups' if self.joint else 'rows'} "
                f"{_listed(self.units[wide].tolist())}: draws given the other rows miss where the "
                "density is large."
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CrossValidation(elpd {self.elpd:.1f} ± {self.se:.1f}, {len(self.labels)} folds)"


def _listed(labels: list[Any]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(map(repr, labels[:_SHOWN])) + more
