"""The verdict: several independent signals combined into one status, with its diagnostics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from vijax.diagnostics.chain_check import ChainCheck
from vijax.diagnostics.importance import Importance, khat_threshold
from vijax.diagnostics.stationarity import Stationarity
from vijax.diagnostics.stein_discrepancy import Discrepancy

Status = Literal["certified", "corrected", "approximate", "failed"]

CERTIFIED_SHIFT = 0.05  # sds of a mean, or log sds: what a certified guide may be wrong by
_CERTIFIED_KHAT = 0.5  # below it the importance weights have a finite variance
_SHIFT = 0.1  # by how much importance correction may move a certified guide
_PLATEAU = 0.01  # weight in the tail below which its shape cannot matter
_LIGHT_TAIL = 0.05  # the same, for an answer that is corrected
_LARGE_SHIFT = 0.25  # in sds or log sds: heavy-tailed weights that change so much miss more
_FINITE_SHARE = 0.99  # draws outside the model's support beyond this are worth a word
_MIN_ESS = 0.15  # effective share of the draws below which a correction is too noisy
_WITNESSES = 0.1  # sds by which importance correction and chains may differ
_NO_VARIANCE = 0.5  # Pareto shape of a coordinate's tail from which it has no variance
_STEP = 0.1  # sds or log sds that a natural-gradient step may ask for at an optimum
_FAR = 2.0  # times the discrepancy of exact draws, from which particles are said to be off
_NOISE = 0.1  # standard error beyond which the states of chains are too few
_NEARLY_ALL = 0.9  # effective share of the draws at which weights can do without chains


class Shift(NamedTuple):
    """What importance correction changes in each unconstrained coordinate.

    Attributes:
        mean: change of the mean in posterior standard deviations, `(dim,)`.
        log_sd: change of the log standard deviation, `(dim,)`.
    """

    mean: np.ndarray
    log_sd: np.ndarray


class Diagnosis(NamedTuple):
    """How far a fit can be trusted.

    Attributes:
        status: `"certified"`, the guide's own draws can be used as the posterior's;
            `"corrected"`, draws corrected by importance or by chains can; `"approximate"`, no
            more is known than the reasons say; `"failed"`, do not use.
        reasons: the diagnostics in words.
        advice: the next thing to try, empty when nothing is needed.
    """

    status: Status
    reasons: tuple[str, ...]
    advice: str


def shift(draws: np.ndarray, log_weights: np.ndarray) -> Shift:
    """Moments of `(num_draws, dim)` draws with and without normalized weights, compared."""
    weight = np.exp(log_weights)[:, None]
    mean, sd = draws.mean(0), draws.std(0, ddof=1)
    corrected = (weight * draws).sum(0)
    variance = (weight * (draws - corrected) ** 2).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = Shift((corrected - mean) / sd, 0.5 * np.log(variance / sd**2))
    # what is the same in all draws, as a discrete site may be, is not moved by weighting them
    return Shift(*(np.where(sd == 0, 0.0, part) for part in moved))


class Diagnostics(NamedTuple):
    """What a verdict is made from.

    Attributes:
        importance: importance sampling from the guide, `None` where it makes no sense (a point
            estimate, minibatches).
        shift: what the correction changes, `None` likewise.
        check: what short chains say, `None` where they cost too much.
        stationarity: how far a Gaussian guide is from its optimum, `None` for other guides.
        use_chains: whether the states of the chains are there to stand in for the guide's draws.
        converged: whether the optimization ended because nothing was left to gain.
        nonfinite_steps: non-finite steps.
        num_draws: draws behind `importance`.
        finite_share: share of them with a finite density under the model.
        num_modes: separate modes that were seen and that the guide does not cover.
        more_modes: whether the search for separate modes ended while it still found new ones.
        discrepancy: of particles, `num_draws` of them, for which there is nothing else.
    """

    importance: Importance | None
    shift: Shift | None
    check: ChainCheck | None = None
    use_chains: bool = False
    converged: bool = True
    nonfinite_steps: Sequence[object] = ()
    num_draws: int = 4000
    finite_share: float = 1.0
    num_modes: int = 1
    stationarity: Stationarity | None = None
    discrepancy: Discrepancy | None = None
    more_modes: bool = False


def diagnose(diagnostics: Diagnostics) -> Diagnosis:
    """Combines the signals; a status is only as good as its weakest one."""
    reasons = [f"non-finite {trouble}" for trouble in diagnostics.nonfinite_steps]
    if not diagnostics.converged:
        reasons.append("the optimization had not converged")
    if diagnostics.discrepancy is not None:
        return _of_particles(diagnostics, diagnostics.discrepancy, reasons)
    if diagnostics.importance is None:
        reasons.append("importance sampling does not apply: accuracy was not judged")
        return Diagnosis("approximate", tuple(reasons), _advice(diagnostics))
    return _of_draws(diagnostics, diagnostics.importance, reasons)


def _of_draws(diagnostics: Diagnostics, importance: Importance, reasons: list[str]) -> Diagnosis:
    """What weights, chains and stationarity say together."""
    advice = _advice(diagnostics)
    if not math.isfinite(importance.log_evidence):
        reasons.append("too few draws from the guide have a finite density under the model")
        return Diagnosis(
            "failed", tuple(reasons), "Check the model near report()'s site, or init=."
        )
    if diagnostics.finite_share < _FINITE_SHARE:
        reasons.append(
            f"only {100 * diagnostics.finite_share:.0f} % of the guide's draws have a finite density "
            "under the model"
        )
    if not _stationary(diagnostics):
        assert diagnostics.stationarity is not None
        mean, log_sd = diagnostics.stationarity.largest
        reasons.append(
            "the guide is not at the optimum of its ELBO: a natural-gradient step would move means "
            f"by {mean:.2f} sd and sds by {100 * math.expm1(log_sd):.0f} %"
        )
    weights, said = _weigh(diagnostics, importance)
    chains, answered = _question(diagnostics, exact=weights == "exact")
    reasons += said + answered
    if diagnostics.num_modes > 1:
        reasons.append(
            f"{diagnostics.num_modes} separate modes were seen, and the guide covers one of them"
        )
        return Diagnosis("approximate", tuple(reasons), advice)
    if diagnostics.more_modes:
        reasons.append("the search for separate modes ended while it still found new ones")
        return Diagnosis("approximate", tuple(reasons), advice)
    unneeded = chains == "cut short" and importance.ess > _NEARLY_ALL * diagnostics.num_draws
    if weights == "exact" and (chains in ("agree", "unasked") or unneeded):
        return Diagnosis("certified", tuple(reasons), "")
    if diagnostics.use_chains and chains in ("agree", "correct", "differ"):
        reasons.append("draws are the states of these chains")
        return Diagnosis("corrected", tuple(reasons), "")
    if weights is not None and chains in ("agree", "correct", "unasked"):
        return Diagnosis("corrected", tuple(reasons), "" if diagnostics.converged else advice)
    hopeless = not diagnostics.converged and importance.khat == math.inf
    status: Status = "failed" if diagnostics.finite_share < 0.5 or hopeless else "approximate"
    return Diagnosis(status, tuple(reasons), advice)


def _weigh(
    diagnostics: Diagnostics, importance: Importance
) -> tuple[Literal["exact", "usable"] | None, list[str]]:
    """What the importance weights say: the guide is exact, or they can mend it, or neither."""
    assert diagnostics.shift is not None
    num_draws, khat, threshold = diagnostics.num_draws, importance.khat, _threshold(diagnostics)
    shape = f"k-hat {khat:.2f} (reliable below {threshold:.2f})"
    if math.isnan(khat):
        shape = "no k-hat (most of the largest weights are equal)"
    reasons = [f"{shape}, importance ESS {importance.ess:.0f} of {num_draws}"]
    light = importance.tail_share < _LIGHT_TAIL and importance.ess > 0.8 * num_draws
    plateau = importance.tail_share < _PLATEAU and importance.ess > _NEARLY_ALL * num_draws
    if light and khat >= _CERTIFIED_KHAT:
        reasons.append(
            f"this k-hat is no reason to worry: the largest weights hold "
            f"{100 * importance.tail_share:.1g} % of all weight"
        )
    if not (khat < threshold or light) or importance.ess < _MIN_ESS * num_draws:
        return None, reasons
    mean = float(np.max(np.abs(diagnostics.shift.mean)))
    log_sd = float(np.max(np.abs(diagnostics.shift.log_sd)))
    reasons.append(
        f"importance correction moves means by up to {mean:.2f} sd and sds by up to "
        f"{100 * math.expm1(log_sd):.0f} %"
    )
    heavy = khat >= _CERTIFIED_KHAT and not light
    if heavy and max(mean, log_sd) > _LARGE_SHIFT:  # as much again may lie beyond all draws
        reasons.append("a correction as large as that cannot be relied on")
        return None, reasons
    clean = diagnostics.converged and not diagnostics.nonfinite_steps and _stationary(diagnostics)
    exact = (khat < _CERTIFIED_KHAT or plateau) and max(mean, log_sd) < _SHIFT and clean
    exact &= diagnostics.finite_share >= _FINITE_SHARE
    return ("exact" if exact else "usable"), reasons


def _question(diagnostics: Diagnostics, exact: bool) -> tuple[str, list[str]]:
    """What the chains say, and why.

    `"unasked"`: there are none. `"silent"`: they have not settled, or there is nothing to settle
    to. `"cut short"`: they have ended too soon to tell, and nothing speaks against the guide.
    `"agree"`: with the guide. `"correct"`: not with it, but with its importance-corrected
    moments. `"differ"`: with neither.
    """
    check = diagnostics.check
    if check is None:
        return "unasked", []
    made = f"{check.num_chains} short chains of {check.leaps} gradients each"
    if check.cut_short and check.consistent(CERTIFIED_SHIFT):
        return "cut short", [f"{made} find nothing wrong; more, which could tell, would take long"]
    if not check.settled:
        still = max(float(check.left.max()), check.climb)
        why = f"of the change they made {still:.2f} sd may be still to come"
        if math.isinf(still):
            why = "more of them would take long, and so many do not say whether they still move on"
        if not check.moving:
            share, stuck = 100 * check.accept, 100 * check.stuck
            why = f"{share:.0f} % of their steps were taken, {stuck:.0f} % of them are stuck"
        return "silent", [f"{made} have not settled: {why}"]
    # the tails of an exact guide are the posterior's own, however heavy
    if check.tail.max() > _NO_VARIANCE and not (exact and check.agrees(CERTIFIED_SHIFT)):
        heavy = int(np.sum(check.tail > _NO_VARIANCE))
        return "silent", [
            f"{made}: {heavy} of {check.tail.size} coordinates have a tail so heavy (Pareto shape "
            f"{check.tail.max():.2f}) that means and sds may not exist"
        ]
    if check.error > _NOISE:
        return "silent", [f"{made} are too few: standard errors up to {check.error:.2f} sd"]
    mean, log_sd = float(np.max(np.abs(check.mean))), float(np.max(np.abs(check.log_sd)))
    reasons = [
        f"{made} have settled; they put means up to {mean:.2f} sd and sds up to "
        f"{100 * math.expm1(log_sd):.0f} % from the guide's"
    ]
    if check.agrees(CERTIFIED_SHIFT):
        return "agree", reasons
    if _concur(diagnostics, check):
        return "correct", reasons
    return "differ", reasons


def _concur(diagnostics: Diagnostics, check: ChainCheck) -> bool:
    """Whether importance correction and chains move the guide to the same moments."""
    assert diagnostics.shift is not None
    assert diagnostics.importance is not None
    scale = np.exp(-check.log_sd)  # from the guide's sds to the posterior's
    between = check._replace(
        mean=check.mean - diagnostics.shift.mean * scale,
        log_sd=check.log_sd - diagnostics.shift.log_sd,
        mean_se=check.mean_se + diagnostics.importance.ess**-0.5,
        log_sd_se=check.log_sd_se + (2 * diagnostics.importance.ess) ** -0.5,
    )
    return between.agrees(_WITNESSES)


def _stationary(diagnostics: Diagnostics) -> bool:
    return diagnostics.stationarity is None or max(diagnostics.stationarity.largest) < _STEP


def _threshold(diagnostics: Diagnostics) -> float:
    return khat_threshold(diagnostics.num_draws)


def _advice(diagnostics: Diagnostics) -> str:
    if diagnostics.num_modes > 1:
        return (
            "Fit the modes apart from init= and compare their diagnostics, or validate with nuts()."
        )
    if diagnostics.more_modes:
        return "Tell the modes apart in the model: order what can be exchanged, or fix a sign."
    if not diagnostics.converged and diagnostics.importance is None:
        return "Give it more steps."
    if not diagnostics.converged:
        return "Give it more steps, or a richer guide."
    if diagnostics.importance is None:
        return ""
    return "Try guide='auto', another parameterization, or validate with nuts()."


def _of_particles(diagnostics: Diagnostics, found: Discrepancy, reasons: list[str]) -> Diagnosis:
    """What can be said of particles: that they look like draws, or that they do not."""
    reasons.append(f"Stein discrepancy of the {diagnostics.num_draws} particles: {found}")
    if not math.isfinite(found.value):
        return Diagnosis("failed", tuple(reasons), "Check the model, or pass start values: init=.")
    advice = "" if diagnostics.converged else "Give it more steps."
    if found.value > _FAR * found.exact:
        reasons.append("the particles do not look like draws from the posterior")
        advice = "Give it more steps or particles, or try guide='auto'."
    reasons.append(
        "particles have no density: no ELBO, no weights; modes that none of them is near, and "
        "spreads that come out too small in many dimensions, go unnoticed"
    )
    return Diagnosis("approximate", tuple(reasons), advice)
