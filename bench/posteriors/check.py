"""Validation of the models and of the reference draws.

Two checks, in double precision. The log density of the model may differ from `log_densities` only
by a constant. And Stein's identities must hold: with `g` the gradient of the log density in
unconstrained space, `E[g] = 0` and `E[z_i g_i] = -1` for every coordinate, within five standard
errors of the reference draws. They detect every mismatch of draws and model except in the weights
of well-separated modes.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from numpyro.infer.util import log_density, potential_energy, unconstrain_fn

from bench.posteriors import hard, load, table
from bench.posteriors.case import Case
from bench.posteriors.log_densities import LOG_DENSITIES

_DRAWS = 5000
_POINTS = 20  # draws at which log densities are compared
_NATS = 0.01  # more than rounding of the data to single precision
_ERRORS = 5.0  # standard errors
_JUMPS = ("hard_edge",)  # densities with a jump, for which the identities do not hold


def run(names: list[str], folder: Path) -> bool:
    """Prints a line for every posterior and returns whether all checks pass."""
    jax.config.update("jax_enable_x64", True)
    lines, passed = [], True
    for name in names:
        ours = name in load.MODELS
        case = load.load(name, folder) if ours else hard.CASES[name]()
        values = {site: draws[:_DRAWS] for site, draws in latent(case.reference, name).items()}
        gap = _gap(case, values, name, folder) if ours else 0.0
        errors = None if name in _JUMPS else stein(case, values)
        correct = gap < _NATS and (errors is None or errors < _ERRORS)
        passed = passed and correct
        shown = f"{gap:.1g}" if ours else ""
        stein_errors = "do not hold at a jump" if errors is None else f"{errors:.1f}"
        lines.append((name, shown, stein_errors, "ok" if correct else "WRONG"))
    header = ("posterior", "range of log density differences", "Stein, standard errors", "")
    table.markdown(header, lines)
    return passed


def latent(reference: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Latent sites from the reference draws, which may be of deterministics."""
    if name != "eight_schools-eight_schools_noncentered":
        return reference
    mu, tau, theta = (reference[site] for site in ("mu", "tau", "theta"))
    return {"mu": mu, "tau": tau, "theta_trans": (theta - mu[:, None]) / tau[:, None]}


def stein(case: Case, values: dict[str, np.ndarray]) -> float:
    """The largest deviation from Stein's identities, in standard errors."""

    def one(draw):
        z = unconstrain_fn(case.model, case.args, {}, draw)
        score = jax.grad(lambda at: -potential_energy(case.model, case.args, {}, at))(z)
        return z, score

    z, score = (_flat(tree) for tree in jax.jit(jax.vmap(one))(values))
    # draws rounded to single precision may be on the boundary of a support
    kept = np.isfinite(z).all(1) & np.isfinite(score).all(1)
    z, score = z[kept], score[kept]
    terms = np.concatenate([score, (z - z.mean(0)) * score + 1], axis=1)
    return float(np.max(np.abs(terms.mean(0)) / (terms.std(0) / np.sqrt(len(terms)))))


def _gap(case: Case, values: dict[str, np.ndarray], name: str, folder: Path) -> float:
    """Range over draws of the model's log density minus the independent one, in nats."""
    data = load.raw(name, folder)
    gaps = []
    for i in range(_POINTS):
        at = {site: draws[i] for site, draws in values.items()}
        ours, _ = log_density(case.model, case.args, {}, at)
        values_at = {site: draws[i] for site, draws in case.reference.items()}
        gaps.append(float(ours) - LOG_DENSITIES[name](values_at, data))
    return float(np.ptp(gaps))


def _flat(tree: dict[str, jax.Array]) -> np.ndarray:
    return np.concatenate(
        [np.asarray(tree[site]).reshape(len(tree[site]), -1) for site in sorted(tree)], axis=1
    )
