"""Diagnosis of a fit with networks, from its predictions.

Weights have countless equivalent modes, hidden units can be exchanged, so that importance weights
and chains say nothing about them; what matters is what they predict.
"""

from __future__ import annotations

import math

from vijax.diagnostics.diagnosis import Diagnosis
from vijax.diagnostics.predictions import Predictions

_UNCHECKED = "weights of a network have countless equivalent modes: not checked"
_HOLD_OUT = (
    "Judge predictions: fit(..., holdout=0.1), or posterior.score(*held_out_rows), compares them "
    "with outcomes, and with the point estimate of the weights."
)
_HARMFUL = (
    "Use a tighter prior or fewer units, more steps, or point estimates: guide='ensemble', or "
    "guide='map'."
)
_CALIBRATE = "vijax.conformal(posterior, *held_out_rows) gives intervals or sets that cover."
_RESTARTS = "Keep several: guides.Ensemble(num_members, member)."


def diagnose_network(found: Predictions | None, reasons: list[str]) -> Diagnosis:
    """The diagnosis, at best `"approximate"`.

    Args:
        found: predictions of held-out rows, if there were any.
        reasons: found before.
    """
    if found is None:
        return Diagnosis("approximate", (*reasons, _UNCHECKED), _HOLD_OUT)
    reasons = [*reasons, *found.lines]
    if not math.isfinite(found.log_score):
        reasons.append("outcomes that did occur have no probability")
        return Diagnosis("failed", tuple(reasons), _HARMFUL)
    if found.harmful:
        reasons.append("the point estimate of the weights predicts better than the posterior")
        return Diagnosis("failed", tuple(reasons), _HARMFUL)
    if not found.calibrated:
        return Diagnosis("approximate", (*reasons, "predictions are not calibrated"), _CALIBRATE)
    advice = _RESTARTS if found.restarts_differ else ""
    return Diagnosis("approximate", (*reasons, "predictions checked"), advice)
