"""The report behind a status: diagnostics, the effect of corrections, and what to try next."""

from __future__ import annotations

import math

import numpy as np

from vijax.algorithms import Gradient
from vijax.diagnostics.assessment import Assessment
from vijax.objectives.describe import describe_gradients
from vijax.posterior.result import FitResult
from vijax.posterior.table import table

_WORST = 10  # coordinates that a report shows


def report(result: FitResult) -> str:
    """See `Posterior.report`."""
    assessment, target = result.assessment, result.target
    verdict, space = assessment.diagnosis, target.space
    lines = [
        f"status: {verdict.status}",
        f"guide: {result.guide!r}, {space.dim} dimensions",
        f"stopped: {result.stop_reason}",
        f"ELBO: {assessment.elbo:.3f} +- {assessment.elbo_se:.2g} nats",
    ]
    if assessment.importance is not None:
        found = assessment.importance
        lines.append(f"log evidence: {found.log_evidence:.3f} +- {found.log_evidence_se:.2g} nats")
    if target.marginalized.sizes:
        sites = ", ".join(f"{name} ({n} values)" for name, n in target.marginalized.sizes.items())
        lines.append(f"discrete sites, summed out exactly: {sites}")
    if space.discrete.sites:
        names = (
            f"{s.name} ({s.cardinality or 'any number of'} values)" for s in space.discrete.sites
        )
        lines.append(f"discrete sites, in the guide: {', '.join(names)}")
        gradients = _discrete_gradients(result)
        lines[-1] += gradients and f"; {gradients}"
    lines += [f"- {reason}" for reason in verdict.reasons]
    if assessment.shift is not None:
        lines += ["", "what corrections would change, worst first:"]
        lines.append(table(_changes(assessment, space.coordinates())))
    if verdict.advice:
        lines += ["", f"next: {verdict.advice}"]
    return "\n".join(lines)


def _changes(assessment: Assessment, labels: list[str]) -> list[tuple[str, ...]]:
    """What weights and chains say of the coordinates that they would change most."""
    moved, check = assessment.shift, assessment.check
    assert moved is not None
    header = ["unconstrained coordinate", "PSIS mean (sd)", "sd ratio"]
    badness = np.maximum(np.abs(moved.mean), np.abs(moved.log_sd))
    if check is not None:
        header += ["chains mean (sd)", "+-", "sd ratio", "+-"]
        badness = np.maximum(badness, np.maximum(np.abs(check.mean), np.abs(check.log_sd)))
    rows = [tuple(header)]
    for i in np.argsort(-badness)[:_WORST]:
        row = [labels[i], f"{moved.mean[i]:+.3f}", f"{math.exp(moved.log_sd[i]):.3f}"]
        if check is not None:
            row += [f"{check.mean[i]:+.3f}", f"{check.mean_se[i]:.3f}"]
            row += [f"{math.exp(check.log_sd[i]):.3f}", f"{check.log_sd_se[i]:.3f}"]
        rows.append(tuple(row))
    return rows


def _discrete_gradients(result: FitResult) -> str:
    """How gradients in the parameters of discrete sites were estimated; empty if they were not."""
    algorithm = None if result.engine is None else result.engine.algorithm
    objective = algorithm.objective if isinstance(algorithm, Gradient) else None
    return describe_gradients(objective, result.target, result.batch)
