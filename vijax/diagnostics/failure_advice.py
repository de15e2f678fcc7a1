"""Advice that a model leads to, whatever the diagnostics of its fit."""

from __future__ import annotations

from vijax.diagnostics.diagnosis import Diagnosis, Diagnostics


def with_advice(found: Diagnosis, diagnostics: Diagnostics) -> Diagnosis:
    """The diagnosis with the advice for this model, if the fit failed or left its support."""
    suspect = found.status == "failed" or diagnostics.finite_share < 1
    if suspect and diagnostics.failure_advice:
        return found._replace(advice=diagnostics.failure_advice)
    return found
