"""Comparison of models by cross-validation on the same folds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from vijax.posterior.cross_validation import CrossValidation
from vijax.runtime.errors import VijaxError

if TYPE_CHECKING:
    from vijax.posterior.tables import Comparison

_EVIDENCE = ("log_evidence", "log_evidence_se", "log_bayes_factor", "log_bayes_factor_se")


def compare_folds(models: Mapping[str, CrossValidation]) -> Comparison:
    """The table of `vijax.compare` for cross-validations.

    Raises:
        VijaxError: they are of other rows or folds, or a fold has no fit.
    """
    from vijax.posterior.tables import Comparison  # imports pandas, which is slow

    _check_same_folds(models)
    weights = _stacking_weights(models)
    best = max(models.values(), key=lambda one: one.elpd)
    rows, advice = {}, []
    for name, one in models.items():
        difference = one.pointwise - best.pointwise
        bad = int(one.unreliable.sum())
        what = "group" if one.joint else "row"
        advice += [f"{bad} {what}{'s' * (bad > 1)} of {name!r}"] * bool(bad)
        rows[name] = dict.fromkeys(_EVIDENCE, math.nan) | {
            "elpd": one.elpd,
            "elpd_se": one.se,
            "elpd_diff": float(difference.sum()),
            "elpd_diff_se": math.sqrt(difference.size) * float(difference.std()),
            "p_loo": one.p,
            "num_bad_k": bad,
            "weight": weights[name],
        }
    order = sorted(rows, key=lambda name: -rows[name]["elpd"])
    out = Comparison([rows[name] for name in order], index=order)
    text = f"elpd is unreliable: {', '.join(advice)}. Their report() has the reasons."
    out.attrs |= {"advice": text if advice else "", "decimals": 2}
    return out


def _check_same_folds(models: Mapping[str, CrossValidation]) -> None:
    (first_name, first), *rest = models.items()
    for name, one in models.items():
        if not np.isfinite(one.elpd):
            raise VijaxError(
                f"compare, model {name!r}: expected a density of every row, got elpd {one.elpd}. "
                "Its report() says which folds have none."
            )
    for name, one in rest:
        if len(one.folds) != len(first.folds) or one.joint != first.joint:
            raise VijaxError(
                f"compare: expected the same rows, scored alike, got {_rows(first)} of "
                f"{first_name!r} and {_rows(one)} of {name!r}."
            )
        pairs = len({*zip(one.folds.tolist(), first.folds.tolist(), strict=True)})
        if not pairs == len(one.labels) == len(first.labels) or (
            one.joint and not np.array_equal(one.units, first.units)
        ):
            raise VijaxError(
                f"compare: expected the same folds, got others of {first_name!r} and {name!r}. "
                f"Pass them: cross_validate(posterior, folds={first_name}.folds)."
            )


def _rows(one: CrossValidation) -> str:
    scored = f" in {len(one.units)} groups that are scored jointly" if one.joint else ""
    return f"{len(one.folds)} rows{scored}"


def _stacking_weights(models: Mapping[str, CrossValidation]) -> dict[str, float]:
    """Weights of the mixture of the models with the largest predictive density, by ArviZ."""
    from arviz_stats.loo import compare  # slow to import
    from xarray import DataArray

    highest = np.max([one.pointwise for one in models.values()], axis=0)
    found = {}
    for name, one in models.items():
        data = one.to_elpd_data()
        # the weights do not depend on it, and densities of groups underflow
        data.elpd_i = DataArray(one.pointwise - highest, dims=data.elpd_i.dims)
        found[name] = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranked = compare(found, method="stacking")
    return {name: float(ranked.loc[name, "weight"]) for name in models}
