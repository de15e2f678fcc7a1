"""The verdict: several independent signals combined into one status, with its evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from vijax.diagnostics.weights import Importance, khat_threshold

Status = Literal["certified", "corrected", "approximate", "failed"]

_CERTIFIED_KHAT = 0.5  # below it the importance weights have a finite variance
_MEAN_SHIFT = 0.1  # posterior sds by which correction may move a mean in a certified fit
_LOG_SD_SHIFT = 0.1  # the same for the log standard deviation
_PLATEAU = 0.01  # weight in the tail below which its shape cannot matter
_LIGHT_TAIL = 0.05  # the same, for an answer that is corrected
_LARGE_SHIFT = 0.25  # in sds or log sds: heavy-tailed weights that change so much miss more
_FINITE_SHARE = 0.99  # draws outside the model's support beyond this are worth a word
_MIN_ESS = 0.15  # effective share of the draws below which a correction is too noisy


class Shift(NamedTuple):
    """What importance correction changes in each unconstrained coordinate.

    Attributes:
        mean: change of the mean in posterior standard deviations, `(dim,)`.
        log_sd: change of the log standard deviation, `(dim,)`.
    """

    mean: np.ndarray
    log_sd: np.ndarray


class Verdict(NamedTuple):
    """How far a fit can be trusted.

    Attributes:
        status: `"certified"`, the guide's own draws can be used as the posterior's;
            `"corrected"`, importance-resampled draws can; `"approximate"`, no more is known than
            the reasons say; `"failed"`, do not use.
        reasons: the evidence in words.
        advice: the next thing to try, empty when nothing is needed.
    """

    status: Status
    reasons: tuple[str, ...]
    advice: str


def shift(draws: np.ndarray, log_weights: np.ndarray) -> Shift:
    """Moments of `(num_draws, dim)` draws with and without normalised weights, compared."""
    weight = np.exp(log_weights)[:, None]
    mean, sd = draws.mean(0), draws.std(0, ddof=1)
    corrected = (weight * draws).sum(0)
    variance = (weight * (draws - corrected) ** 2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Shift((corrected - mean) / sd, 0.5 * np.log(variance / sd**2))


def judge(
    importance: Importance | None,
    moved: Shift | None,
    converged: bool,
    troubles: Sequence[object],
    num_draws: int,
    finite_share: float = 1.0,
) -> Verdict:
    """Combines the signals; a status is only as good as its weakest one.

    Args:
        importance: importance sampling from the guide, `None` where it makes no sense (a point
            estimate, minibatches).
        moved: what the correction changes, `None` likewise.
        converged: whether the optimisation ended because nothing was left to gain.
        troubles: non-finite steps.
        num_draws: draws behind `importance`.
        finite_share: share of them with a finite density under the model.
    """
    reasons = [f"non-finite {trouble}" for trouble in troubles]
    if not converged:
        reasons.append("the optimisation had not converged")
    if importance is None:
        reasons.append("importance sampling does not apply: accuracy was not judged")
        return Verdict("approximate", tuple(reasons), "" if converged else "Give it more steps.")
    if not math.isfinite(importance.log_evidence):
        reasons.append("too few draws from the guide have a finite density under the model")
        return Verdict("failed", tuple(reasons), "Check the model near report()'s site, or init=.")
    assert moved is not None
    if finite_share < _FINITE_SHARE:
        reasons.append(
            f"only {100 * finite_share:.0f} % of the guide's draws have a finite density under "
            "the model"
        )
    threshold = khat_threshold(num_draws)
    reasons.append(
        f"k-hat {importance.khat:.2f} (reliable below {threshold:.2f}), importance ESS "
        f"{importance.ess:.0f} of {num_draws}"
    )
    light = importance.tail_share < _LIGHT_TAIL and importance.ess > 0.8 * num_draws
    plateau = importance.tail_share < _PLATEAU and importance.ess > 0.9 * num_draws
    if light and importance.khat >= _CERTIFIED_KHAT:
        reasons.append(
            f"this k-hat is no reason to worry: the largest weights hold "
            f"{100 * importance.tail_share:.1g} % of all weight"
        )
    if finite_share < 0.5 or (not converged and importance.khat == math.inf):
        return Verdict("failed", tuple(reasons), _advice(converged))
    if not (importance.khat < threshold or light) or importance.ess < _MIN_ESS * num_draws:
        return Verdict("approximate", tuple(reasons), _advice(converged))
    mean, log_sd = float(np.max(np.abs(moved.mean))), float(np.max(np.abs(moved.log_sd)))
    reasons.append(
        f"importance correction moves means by up to {mean:.2f} sd and sds by up to "
        f"{100 * math.expm1(log_sd):.0f} %"
    )
    heavy = importance.khat >= _CERTIFIED_KHAT and not light
    if heavy and max(mean, log_sd) > _LARGE_SHIFT:  # as much again may lie beyond all draws
        reasons.append("a correction as large as that cannot be relied on")
        return Verdict("approximate", tuple(reasons), _advice(converged))
    small = mean < _MEAN_SHIFT and log_sd < _LOG_SD_SHIFT
    clean = converged and not troubles and finite_share >= _FINITE_SHARE
    if (importance.khat < _CERTIFIED_KHAT or plateau) and small and clean:
        return Verdict("certified", tuple(reasons), "")
    return Verdict("corrected", tuple(reasons), "" if converged else "Give it more steps.")


def _advice(converged: bool) -> str:
    if not converged:
        return "Give it more steps, or a richer guide."
    return "Try another parameterisation (non-centred), a richer guide, or validate with nuts()."
