"""Diagnosis of a fit whose log density is a stochastic bound."""

from __future__ import annotations

from vijax.diagnostics.diagnosis import Diagnosis, Diagnostics

_MORE_STEPS = "Run more steps."
_PARTS = "posterior.bound(*rows) has its parts, at rows that the fit has not seen, too."
_UNWEIGHTED = "posterior.bound(*rows) has the bound that belongs to this network."


def diagnose_bounds(diagnostics: Diagnostics, reasons: list[str]) -> Diagnosis:
    """The diagnosis, at best `"approximate"`: the density itself is not known.

    Args:
        diagnostics: all diagnostics.
        reasons: found before.
    """
    weighted = [name for name, is_bound in diagnostics.bounds.items() if not is_bound]
    for name in diagnostics.bounds:
        of_rows = "a weighted loss" if name in weighted else "a stochastic bound on the log density"
        reasons.append(f"site {name!r} is {of_rows} of rows: the density is not known")
    if weighted:
        reasons.append("the ELBO is the objective with these weights: it is no bound")
    if diagnostics.parameters_only:
        reasons.append("there are no latent sites: parameters are point estimates")
    if not diagnostics.converged:
        return Diagnosis("approximate", tuple(reasons), _MORE_STEPS)
    return Diagnosis("approximate", tuple(reasons), _UNWEIGHTED if weighted else _PARTS)
