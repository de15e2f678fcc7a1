"""Text report of a fit: status, diagnostics, effect of the corrections, advice."""

from __future__ import annotations

import math

import numpy as np

from vijax.algorithms import Gradient
from vijax.diagnostics.assessment import Assessment
from vijax.diagnostics.importance import Importance
from vijax.objectives.describe import describe_gradients
from vijax.posterior.labels import coordinate_labels
from vijax.posterior.result import FitResult
from vijax.posterior.table import table

_MAX_ROWS = 10  # coordinates in the table


def report(result: FitResult) -> str:
    """See `Posterior.report`."""
    assessment, target = result.assessment, result.target
    diagnosis, space = assessment.diagnosis, target.space
    lines = [
        f"status: {diagnosis.status}",
        f"guide: {result.guide!r}, {space.dim} dimension{'s' * (space.dim != 1)}",
        f"stopped: {result.stop_reason}",
        f"ELBO: {assessment.elbo:.3f} ± {assessment.elbo_se:.2g} nats",
    ]
    if assessment.importance is not None:
        found = assessment.importance
        lines.append(_log_evidence(found, assessment.elbo))
    if target.marginalized.sizes:
        sites = ", ".join(f"{name} ({n} values)" for name, n in target.marginalized.sizes.items())
        lines.append(f"discrete sites, marginalized exactly: {sites}")
    if space.discrete.sites:
        names = (
            f"{s.name} ({s.cardinality or 'countably many'} values)" for s in space.discrete.sites
        )
        lines.append(f"discrete sites, in the guide: {', '.join(names)}")
        gradients = _discrete_gradients(result)
        lines[-1] += gradients and f"; {gradients}"
    lines += [f"- {reason}" for reason in diagnosis.reasons]
    if assessment.shift is not None:
        lines += ["", "effect of the corrections by parameter, largest first:"]
        lines.append(table(_changes(assessment, coordinate_labels(result))))
    if diagnosis.advice:
        lines += ["", f"next: {diagnosis.advice}"]
    return "\n".join(lines)


def _log_evidence(found: Importance, elbo: float) -> str:
    if math.isinf(found.log_evidence_se):
        return f"log evidence: above the ELBO of {elbo:.3f} nats; not estimated, see k-hat"
    return f"log evidence: {found.log_evidence:.3f} ± {found.log_evidence_se:.2g} nats"


def _changes(assessment: Assessment, labels: list[str]) -> list[tuple[str, ...]]:
    """Table of the largest changes by importance correction or enumeration, and by chains."""
    exact, check = assessment.diagnostics.enumeration, assessment.check
    shift = assessment.shift if exact is None else exact
    assert shift is not None
    method = "PSIS" if exact is None else "exact"
    header = ["unconstrained coordinate", f"{method} shift (sd)", f"{method} sd ratio"]
    size = np.maximum(np.abs(shift.mean), np.abs(shift.log_sd))
    if check is not None:
        header += ["MCMC shift (sd)", "SE", "MCMC sd ratio", "SE"]
        size = np.maximum(size, np.maximum(np.abs(check.mean), np.abs(check.log_sd)))
    rows = [tuple(header)]
    for i in np.argsort(-size)[:_MAX_ROWS]:
        row = [labels[i], f"{shift.mean[i]:+.3f}", f"{np.exp(shift.log_sd[i]):.3f}"]
        if check is not None:
            row += [f"{check.mean[i]:+.3f}", f"{check.mean_se[i]:.3f}"]
            row += [f"{math.exp(check.log_sd[i]):.3f}", f"{check.log_sd_se[i]:.3f}"]
        rows.append(tuple(row))
    return rows


def _discrete_gradients(result: FitResult) -> str:
    """Gradient estimators of the discrete sites' parameters; empty if there were no gradients."""
    algorithm = None if result.engine is None else result.engine.algorithm
    objective = algorithm.objective if isinstance(algorithm, Gradient) else None
    return describe_gradients(objective, result.target, result.batch)
