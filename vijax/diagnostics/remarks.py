"""What a diagnosis says of the model itself, beside the accuracy of the fit."""

from __future__ import annotations

from vijax.diagnostics.diagnosis import Diagnosis, Diagnostics


def with_remarks(found: Diagnosis, diagnostics: Diagnostics) -> Diagnosis:
    """The diagnosis with remarks on the model, and advice that these lead to."""
    advice = found.advice
    suspect = found.status == "failed" or diagnostics.finite_share < 1
    if suspect and diagnostics.failure_advice:
        advice = diagnostics.failure_advice
    return Diagnosis(found.status, (*diagnostics.remarks, *found.reasons), advice)
