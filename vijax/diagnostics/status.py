"""Diagnosis of a fit: importance weights, short chains and stationarity combined in one status."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from vijax.diagnostics.bound_status import diagnose_bounds
from vijax.diagnostics.chain_check import ChainCheck
from vijax.diagnostics.diagnosis import Diagnosis, Diagnostics, Status
from vijax.diagnostics.enumeration import Comparison
from vijax.diagnostics.failure_advice import with_advice
from vijax.diagnostics.importance import LIGHT_TAIL, Importance, khat_threshold
from vijax.diagnostics.network_status import diagnose_network
from vijax.diagnostics.stein_discrepancy import Discrepancy

WeightResult = Literal["accurate", "correctable", "unreliable"]
ChainResult = Literal["absent", "too short", "inconclusive", "agree", "agree corrected", "differ"]

CERTIFIED_SHIFT = 0.05  # sds of a mean, or log sds: largest error of a certified guide
_CERTIFIED_KHAT = 0.5  # below it the importance weights have a finite variance
_SHIFT = 0.1  # largest change by importance correction of a certified guide
_PLATEAU = 0.01  # weight in the tail below which its shape does not matter
_LARGE_SHIFT = 0.25  # sds or log sds: heavy-tailed weights that change so much miss more
_FINITE_SHARE = 0.99  # share of draws inside the model's support below which this is reported
_MIN_ESS = 0.15  # effective share of the draws below which a correction is too noisy
_AGREEMENT = 0.1  # sds by which importance correction and chains may differ
_NO_VARIANCE = 0.5  # Pareto shape of a coordinate's tail from which the variance is infinite
_NO_MEAN = 1.0  # Pareto shape of the weights from which these have no mean
_STEP = 0.1  # sds or log sds of a natural-gradient step below which the guide is stationary
_FAR = 2.0  # discrepancy of particles, relative to exact draws, beyond which they are inaccurate
_NOISE = 0.1  # standard error beyond which there are too few chain states
_CHECK_DENSITY = "Check where the log density is not finite, or pass initial values with init=."
_CENTER = "Center these data before the call, or use double precision."
_CHECK_GRADIENT = (
    "Look in the model for jax.lax.stop_gradient, a custom derivative rule, and rounding of "
    "latents (integer casts, round, argmax, comparisons)."
)
_REFIT = "Fit all data together, or update with more data at a time at first."
_MORE_TIME = "Allow more time."
_NEARLY_ALL = 0.9  # effective share of the draws at which weights suffice without chains


def diagnose(diagnostics: Diagnostics) -> Diagnosis:
    """Combines the diagnostics; the weakest one determines the status."""
    found, predictions = _diagnose(diagnostics), diagnostics.predictions
    if predictions is not None and not diagnostics.network:  # they judge the model, not the fit
        found = found._replace(reasons=(*found.reasons, *predictions.lines))
    if diagnostics.earlier is not None:
        found = _at_most_approximate(found, diagnostics.earlier.doubts, _REFIT)
        found = found._replace(reasons=(*found.reasons, *diagnostics.earlier.lines))
    return with_advice(found, diagnostics)


def _diagnose(diagnostics: Diagnostics) -> Diagnosis:
    if not diagnostics.started:
        reason = f"{diagnostics.cut_short} before there was any result: these are initial values"
        return Diagnosis("failed", (reason,), _MORE_TIME)
    found = _diagnose_complete(diagnostics)
    if not diagnostics.cut_short:
        return found
    reason = f"{diagnostics.cut_short} before all checks were made"
    return _at_most_approximate(found, (reason,), _MORE_TIME)


def _diagnose_complete(diagnostics: Diagnostics) -> Diagnosis:
    """The diagnosis by all checks, complete or not."""
    reasons = [f"non-finite {step}" for step in diagnostics.nonfinite_steps]
    if not diagnostics.converged:
        reasons.append("the optimization did not converge")
    if diagnostics.improper:
        reasons.append(
            "the posterior is improper: its log density does not fall in the direction of "
            f"{diagnostics.improper} (unconstrained)"
        )
        advice = "Give every site a proper prior, or remove what the data do not determine."
        return Diagnosis("failed", tuple(reasons), advice)
    if diagnostics.discrepancy is not None:
        return _diagnose_particles(diagnostics, diagnostics.discrepancy, reasons)
    if diagnostics.importance is None and diagnostics.finite_share < diagnostics.least_share:
        reasons.append("most draws from the guide have no finite density under the model")
        return Diagnosis("failed", tuple(reasons), _CHECK_DENSITY)
    if diagnostics.bounds:
        return diagnose_bounds(diagnostics, reasons)
    if diagnostics.network:
        return diagnose_network(diagnostics.predictions, reasons)
    if diagnostics.importance is None:
        why = "" if diagnostics.cut_short else "importance sampling does not apply: "
        reasons.append(f"{why}accuracy not verified")
        return Diagnosis("approximate", tuple(reasons), _advice(diagnostics))
    if diagnostics.enumeration is not None:
        equal = diagnostics.importance.ess > _NEARLY_ALL * diagnostics.num_draws
        found = _diagnose_enumerated(diagnostics.enumeration, equal)
        return _at_most_approximate(found, diagnostics.data_warnings, _CENTER)
    found = _diagnose_draws(diagnostics, diagnostics.importance, reasons)
    found = _of_unchecked(found, diagnostics, diagnostics.importance)
    if diagnostics.wrong_gradient:
        sites = ", ".join(map(repr, diagnostics.wrong_gradient))
        reason = (
            f"the gradient in {sites} is not that of the log density: finite differences differ"
        )
        found = _at_most_approximate(found, (reason,), _CHECK_GRADIENT)
    return _at_most_approximate(found, diagnostics.data_warnings, found.advice or _CENTER)


def _diagnose_enumerated(found: Comparison, equal: bool) -> Diagnosis:
    """Diagnosis where the posterior probabilities of all joint values are known.

    Args:
        found: moments of the posterior and the guide.
        equal: whether the weights of the guide's draws are nearly equal: a guide may have the right
            moments without the dependence.
    """
    mean, log_sd = found.largest
    reason = (
        f"all {found.num_states} combinations of the discrete values were evaluated: exact means "
        f"differ from the guide's by up to {mean:.2f} sd, standard deviations by up to "
        f"{_percent(log_sd)} %"
    )
    if equal and max(mean, log_sd) < CERTIFIED_SHIFT:
        return Diagnosis("certified", (reason,), "")
    drawn = "posterior draws: from the exact probabilities"
    return Diagnosis("corrected", (reason, drawn), "")


def _of_unchecked(found: Diagnosis, diagnostics: Diagnostics, importance: Importance) -> Diagnosis:
    """A diagnosis without chains for lack of time, unless the weights suffice without them."""
    if not diagnostics.out_of_time or diagnostics.check is not None or diagnostics.cut_short:
        return found
    nearly_all = importance.ess > _NEARLY_ALL * diagnostics.num_draws
    if found.status not in ("certified", "corrected") or (
        found.status == "certified" and nearly_all
    ):
        return found
    reason = "max_seconds reached: the guide was not checked with short chains"
    return Diagnosis("approximate", (*found.reasons, reason), _MORE_TIME)


def _at_most_approximate(found: Diagnosis, reasons: tuple[str, ...], advice: str) -> Diagnosis:
    """The diagnosis where there are reasons not to rely on the fit, whatever else was found."""
    if not reasons:
        return found
    status: Status = "failed" if found.status == "failed" else "approximate"
    return Diagnosis(status, (*reasons, *found.reasons), advice)


def _diagnose_draws(
    diagnostics: Diagnostics, importance: Importance, reasons: list[str]
) -> Diagnosis:
    """Diagnosis from importance weights, chains and stationarity."""
    advice = _advice(diagnostics)
    broken = _not_finite(diagnostics, importance)
    if broken:
        return Diagnosis("failed", (*reasons, broken), _CHECK_DENSITY)
    if diagnostics.finite_share < _FINITE_SHARE:
        reasons.append(
            f"only {100 * diagnostics.finite_share:.0f} % of the guide's draws have a finite "
            "density under the model"
        )
    if not _stationary(diagnostics):
        assert diagnostics.stationarity is not None
        mean, log_sd = diagnostics.stationarity.largest
        reasons.append(
            "the guide is not at the maximum of its ELBO: a natural-gradient step would change "
            f"means by {mean:.2f} sd, standard deviations by {_percent(log_sd)} %"
        )
    weights, weight_reasons = _weight_result(diagnostics, importance)
    chains, chain_reasons = _chain_result(diagnostics, accurate=weights == "accurate")
    reasons += weight_reasons + chain_reasons
    other_modes = _other_modes(diagnostics)
    if other_modes:
        return Diagnosis("approximate", (*reasons, other_modes), advice)
    unneeded = chains == "too short" and importance.ess > _NEARLY_ALL * diagnostics.num_draws
    if weights == "accurate" and (chains in ("agree", "absent") or unneeded):
        return Diagnosis("certified", tuple(reasons), "")
    usable = diagnostics.use_chains and chains in ("agree", "agree corrected", "differ")
    if usable and chains == "differ" and _chains_far(diagnostics):
        reasons.append("chains ended far from the guide: other modes may lie near their ends")
        return Diagnosis("approximate", tuple(reasons), advice)
    if usable and diagnostics.check and diagnostics.check.separate and importance.khat > _NO_MEAN:
        reasons.append("chains do not mix between modes, and weights do not determine their shares")
        return Diagnosis("approximate", tuple(reasons), advice)
    if usable:
        reasons.append("posterior draws: final states of these chains")
        return Diagnosis("corrected", tuple(reasons), "")
    if weights != "unreliable" and chains in ("agree", "agree corrected", "absent"):
        return Diagnosis("corrected", tuple(reasons), "" if diagnostics.converged else advice)
    hopeless = not diagnostics.converged and importance.khat == math.inf
    impossible = diagnostics.finite_share < diagnostics.least_share
    status: Status = "failed" if impossible or hopeless else "approximate"
    return Diagnosis(status, tuple(reasons), advice)


def _weight_result(
    diagnostics: Diagnostics, importance: Importance
) -> tuple[WeightResult, list[str]]:
    """Whether the importance weights show an accurate guide, or can correct it, and the reasons."""
    assert diagnostics.shift is not None
    num_draws, khat, threshold = diagnostics.num_draws, importance.khat, _threshold(diagnostics)
    shape = f"k-hat {khat:.2f} (reliable below {threshold:.2f})"
    if khat == 0:
        spread = math.sqrt(max(num_draws / importance.ess - 1, 0))
        shape = f"importance weights equal to within {100 * spread:.1g} % (no k-hat)"
    if math.isnan(khat):
        shape = "k-hat undefined (most of the largest weights are equal)"
    reasons = [f"{shape}, importance ESS {importance.ess:.0f} of {num_draws}"]
    light = importance.tail_share < LIGHT_TAIL and importance.ess > 0.8 * num_draws
    plateau = importance.tail_share < _PLATEAU and importance.ess > _NEARLY_ALL * num_draws
    if light and khat >= _CERTIFIED_KHAT:
        reasons.append(
            "k-hat can be ignored here: the largest weights carry "
            f"{100 * importance.tail_share:.1g} % of the total"
        )
    if not (khat < threshold or light) or importance.ess < _MIN_ESS * num_draws:
        return "unreliable", reasons
    mean = float(np.max(np.abs(diagnostics.shift.mean)))
    log_sd = float(np.max(np.abs(diagnostics.shift.log_sd)))
    reasons.append(
        f"importance correction changes means by up to {mean:.2f} sd, standard deviations by up to "
        f"{_percent(log_sd)} %"
    )
    heavy = khat >= _CERTIFIED_KHAT and not light
    if heavy and max(mean, log_sd) > _LARGE_SHIFT:  # as much again may lie beyond all draws
        reasons.append("importance correction too large to be reliable; not used")
        return "unreliable", reasons
    clean = diagnostics.converged and not diagnostics.nonfinite_steps and _stationary(diagnostics)
    limit = CERTIFIED_SHIFT if diagnostics.discrete else _SHIFT  # no chains compare moments
    accurate = (khat < _CERTIFIED_KHAT or plateau) and max(mean, log_sd) < limit and clean
    accurate &= diagnostics.finite_share >= _FINITE_SHARE
    return ("accurate" if accurate else "correctable"), reasons


def _chain_result(diagnostics: Diagnostics, accurate: bool) -> tuple[ChainResult, list[str]]:
    """Result of the chain check, and the reasons.

    Args:
        diagnostics: all diagnostics.
        accurate: whether the importance weights show an accurate guide.

    Returns:
        `"absent"`: no chains were run. `"inconclusive"`: they have not converged, moments may not
        exist, or standard errors are too large. `"too short"`: they ended before convergence could
        be assessed, and show no discrepancy. `"agree"`: they agree with the guide.
        `"agree corrected"`: not with the guide, but with its importance-corrected moments.
        `"differ"`: with neither. Then the reasons.
    """
    check = diagnostics.check
    if check is None:
        return "absent", []
    chains = (
        f"{check.num_chains} short HMC chains ({check.num_gradients} gradient evaluations each)"
    )
    undecided = check.too_short or (check.nearly_converged and not check.converged)
    if undecided and check.consistent(CERTIFIED_SHIFT):
        return "too short", [
            f"{chains}: no discrepancy found, but chains were too short to be conclusive"
        ]
    if not check.converged:
        drift = max(float(check.drift.max()), check.log_density_drift)
        if not check.accepting:
            why = (
                f"have not converged: acceptance rate {100 * check.accept_rate:.0f} %; "
                f"{100 * check.stuck_share:.0f} % of chains stuck"
            )
        elif math.isinf(drift):
            why = "are inconclusive: chains too short to assess convergence within the time limit"
        else:
            why = f"have not converged: chains may still drift by up to {drift:.2f} sd"
        return "inconclusive", [f"{chains} {why}"]
    # an accurate guide shares the posterior's tails, however heavy
    if check.tail_shape.max() > _NO_VARIANCE and not (accurate and check.agrees(CERTIFIED_SHIFT)):
        heavy = int(np.sum(check.tail_shape > _NO_VARIANCE))
        return "inconclusive", [
            f"{chains} are inconclusive: {heavy} of {check.tail_shape.size} coordinates have tails "
            f"so heavy (Pareto shape {check.tail_shape.max():.2f}) that means and standard "
            "deviations may not exist"
        ]
    if check.error > _NOISE:
        return "inconclusive", [
            f"{chains} are inconclusive: standard errors of up to {check.error:.2f} sd"
        ]
    mean, log_sd = float(np.max(np.abs(check.mean))), float(np.max(np.abs(check.log_sd)))
    reasons = [
        f"{chains} have converged; posterior means differ from the guide's by up to {mean:.2f} sd, "
        f"standard deviations by up to {_percent(log_sd)} %"
    ]
    if check.agrees(CERTIFIED_SHIFT):
        return "agree", reasons
    if _corrections_agree(diagnostics, check):
        return "agree corrected", reasons
    return "differ", reasons


def _corrections_agree(diagnostics: Diagnostics, check: ChainCheck) -> bool:
    """Whether importance correction and chains change the guide's moments by the same amount."""
    assert diagnostics.shift is not None
    assert diagnostics.importance is not None
    scale = np.exp(-check.log_sd)  # from the guide's sds to the posterior's
    difference = check._replace(
        mean=check.mean - diagnostics.shift.mean * scale,
        log_sd=check.log_sd - diagnostics.shift.log_sd,
        mean_se=check.mean_se + diagnostics.importance.ess**-0.5,
        log_sd_se=check.log_sd_se + (2 * diagnostics.importance.ess) ** -0.5,
    )
    return difference.agrees(_AGREEMENT)


def _not_finite(diagnostics: Diagnostics, importance: Importance) -> str:
    """What is not a finite number; empty if everything is."""
    if not math.isfinite(importance.log_evidence):
        return "too few draws from the guide have a finite density under the model"
    if not _finite_moments(diagnostics):
        return "moments of the guide or of its draws are not finite"
    return ""


def _other_modes(diagnostics: Diagnostics) -> str:
    """Why the guide may miss modes; empty if they were searched for and it has them all."""
    if diagnostics.num_modes > 1:
        return f"{diagnostics.num_modes} separate modes were found; the guide covers one of them"
    if diagnostics.more_modes:
        return "the search for modes reached its limit while still finding new ones"
    return diagnostics.unsearched


def _chains_far(diagnostics: Diagnostics) -> bool:
    return diagnostics.check is not None and diagnostics.check.far


def _finite_moments(diagnostics: Diagnostics) -> bool:
    """Whether all changes of moments that the diagnosis compares are finite numbers."""
    found = (diagnostics.shift, diagnostics.check, diagnostics.stationarity)
    return all(
        np.isfinite(one.mean).all() and not np.isnan(one.log_sd).any()
        for one in found
        if one is not None
    )


def _percent(log_ratio: float) -> str:
    """A log ratio of standard deviations in percent."""
    return f"{100 * math.expm1(log_ratio):.0f}" if log_ratio < 20 else "inf"


def _stationary(diagnostics: Diagnostics) -> bool:
    return diagnostics.stationarity is None or max(diagnostics.stationarity.largest) < _STEP


def _threshold(diagnostics: Diagnostics) -> float:
    return khat_threshold(diagnostics.num_draws)


def _advice(diagnostics: Diagnostics) -> str:
    if diagnostics.num_modes > 1:
        return (
            "Fit each mode separately with init= and compare log_evidence(), or validate with "
            "nuts()."
        )
    if diagnostics.more_modes:
        return "Modes look like relabelings (label switching): use an ordered or sign constraint."
    if not diagnostics.converged and diagnostics.importance is None:
        return "Run more steps."
    if not diagnostics.converged:
        return "Run more steps, or use a more flexible guide."
    if diagnostics.importance is None:
        return ""
    check = diagnostics.check
    if check is not None and check.tail_shape.max() > _NO_VARIANCE:
        return (
            "Tails are so heavy that moments may not exist: summarize by quantiles, give the "
            "sites priors with lighter tails, or validate with nuts()."
        )
    if diagnostics.least_share < 0.5 and diagnostics.finite_share < _FINITE_SHARE:
        return (
            "Where the likelihood is zero no guide has an ELBO: integrate out sites that make it a "
            "step if that can be done, or validate with nuts()."
        )
    return "Use a more flexible guide (guide='flow'), another parameterization, or nuts()."


def _diagnose_particles(
    diagnostics: Diagnostics, found: Discrepancy, reasons: list[str]
) -> Diagnosis:
    """Diagnosis of particles, from their Stein discrepancy."""
    reasons.append(f"Stein discrepancy of the {diagnostics.num_draws} particles: {found}")
    if not math.isfinite(found.value):
        return Diagnosis(
            "failed", tuple(reasons), "Check the model, or pass initial values with init=."
        )
    advice = "" if diagnostics.converged else "Run more steps."
    if found.value > _FAR * found.exact:
        reasons.append("the particles do not look like draws from the posterior")
        advice = "Use more steps or particles, or try guide='auto'."
    reasons.append(
        "particles have no density, hence no ELBO and no importance weights: modes far from all "
        "particles and, in many dimensions, underestimated variances go undetected"
    )
    return Diagnosis("approximate", tuple(reasons), advice)
