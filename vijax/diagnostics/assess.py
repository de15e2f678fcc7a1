"""Assesses a finished fit: draws once, then ELBO, importance weights, shifts and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax._contracts import (
    Batch,
    GaussianGuide,
    Guide,
    ParticleGuide,
    Position,
    PyTree,
    Target,
    TransportGuide,
    Variables,
)
from vijax._kernel import Kernel
from vijax._keys import fold_in, host_rng
from vijax.diagnostics import weights
from vijax.diagnostics.discrepancy import judge_particles
from vijax.diagnostics.moment_check import MomentCheck, check
from vijax.diagnostics.stationarity import Stationarity, stationarity
from vijax.diagnostics.transported import TransportedKernel
from vijax.diagnostics.verdict import CERTIFIED_SHIFT, Evidence, Shift, Verdict, judge, shift
from vijax.diagnostics.weights import Draws, Importance

_NUM_DRAWS = 4000
_MIN_DRAWS = 200
_SCORES = 1000  # draws that say whether the guide is stationary
_CHECK_DIM = 2000  # largest dimension in which chains are asked
_MAX_ELEMENTS = 2**33  # draws times data elements that an assessment may cost
_MAX_NUMBERS = 2**24  # draws times coordinates that it may hold, several times over


Chains = Literal["none", "check", "mend"]


class Assessment(NamedTuple):
    """The evidence behind a posterior's status.

    Attributes:
        draws: draws from the guide with their log densities.
        elbo: fresh estimate of the evidence lower bound in nats.
        elbo_se: its standard error.
        importance: `None` where importance sampling does not apply.
        shift: what the correction changes, `None` likewise.
        verdict: all of it combined.
        check: what short chains say, `None` where they were not asked.
        stationarity: how far a Gaussian guide is from the optimum of its ELBO, `None` for others.
        states: where these chains are, by site `(num, *z_shape)`, if they stand in for draws.
    """

    draws: Draws
    elbo: float
    elbo_se: float
    importance: Importance | None
    shift: Shift | None
    verdict: Verdict
    check: MomentCheck | None = None
    states: dict[str, np.ndarray] | None = None
    stationarity: Stationarity | None = None


def num_assessment_draws(batch: Batch, dim: int) -> int:
    """4,000 draws, fewer where they would take long or fill the memory."""
    affordable = min(_MAX_ELEMENTS // weights.num_elements(batch, dim), _MAX_NUMBERS // dim)
    return max(_MIN_DRAWS, min(_NUM_DRAWS, affordable))


def assess(
    target: Target,
    guide: Guide,
    variables: Variables,
    mutable: dict[str, PyTree],
    key: Array,
    batch: Batch,
    converged: bool,
    troubles: Sequence[object],
    num_modes: int = 1,
    chains: Chains = "check",
) -> Assessment:
    """Assesses a full-batch fit.

    Args:
        target: the target.
        guide: the fitted guide.
        variables: its parameters and the model's.
        mutable: the model's mutable state.
        key: randomness.
        batch: the data.
        converged: see `Evidence`.
        troubles: see `Evidence`.
        num_modes: see `Evidence`.
        chains: whether short chains check the guide, and whether they may go on until their
            states can stand in for its draws.
    """
    num_draws = num_assessment_draws(batch, target.space.dim)
    draws = weights.draw(target, guide, variables, mutable, key, batch, num_draws)
    if isinstance(guide, ParticleGuide):
        kernel = Kernel(target, batch, variables.model, mutable)
        points = np.asarray(guide.points(variables.guide, target.space), np.float64)
        verdict = judge_particles(kernel, points, converged, troubles)
        return Assessment(draws, np.nan, np.nan, None, None, verdict)
    elbo, elbo_se = weights.elbo(draws.log_weights)
    flat = weights.flatten(target.space, draws.z)
    finite_share = float(np.mean(np.isfinite(draws.log_weights)))
    evidence = Evidence(
        None,
        None,
        converged=converged,
        troubles=troubles,
        num_draws=num_draws,
        finite_share=finite_share,
        num_modes=num_modes,
    )
    constant = np.ptp(flat, axis=0) == 0
    # a point mass, in whatever coordinate, has no density; a discrete site may be certain
    if np.any(constant & ~_discrete(target)):
        return Assessment(draws, elbo, elbo_se, None, None, judge(evidence))
    importance = weights.importance(draws.log_weights)
    moved = shift(flat, importance.log_weights)
    evidence = evidence._replace(importance=importance, shift=moved)
    kernel = Kernel(target, batch, variables.model, mutable)
    checked = None
    still = None
    chains = chains if target.explorable else "none"
    scored = min(_SCORES, num_draws // 4)
    cheap = target.space.dim <= _CHECK_DIM and not kernel.is_costly(scored)
    cheap &= target.explorable
    if finite_share == 1 and isinstance(guide, GaussianGuide) and cheap:
        # not the guide's own method: run eagerly it compiles a dozen programs; and of other draws
        # than those it is applied to, which in many dimensions it would be correlated with
        covariance = np.cov(flat[scored:], rowvar=False).reshape(target.space.dim, -1)
        still = stationarity(flat[:scored], kernel(flat[:scored])[1], covariance)
        evidence = evidence._replace(stationarity=still)
    mend = chains == "mend"
    if chains != "none" and finite_share > 0.5 and target.space.dim <= _CHECK_DIM:
        seen, place = kernel, None
        if isinstance(guide, TransportGuide) and draws.noise is not None:
            seen = TransportedKernel(target, guide, variables, mutable, batch)
            place = seen.place
        checked = check(
            seen,
            flat if draws.noise is None else draws.noise,
            importance.log_weights,
            draws.labels,
            host_rng(fold_in(key, 1)),
            CERTIFIED_SHIFT,
            mend,
            place,
        )
    found, pool = checked or (None, None)
    mended = mend and found is not None and found.settled
    verdict = judge(evidence._replace(check=found, mended=mended))
    states = None
    if mended and pool is not None and verdict.status == "corrected":
        states = weights.split(target.space, pool)
    return Assessment(draws, elbo, elbo_se, importance, moved, verdict, found, states, still)


def assess_scores(
    log_weights: np.ndarray, converged: bool, troubles: Sequence[object]
) -> Assessment:
    """Assesses a minibatch fit, where only the ELBO can be estimated without bias."""
    elbo, elbo_se = weights.elbo(log_weights)
    evidence = Evidence(
        None, None, converged=converged, troubles=troubles, num_draws=log_weights.size
    )
    nothing = Draws({}, np.zeros(0), np.zeros(0))
    return Assessment(nothing, elbo, elbo_se, None, None, judge(evidence))


def _discrete(target: Target) -> np.ndarray:
    """Which coordinates are numbers of values, `(dim,)`."""
    return np.repeat(
        [site.states is not None for site in target.space.sites],
        [site.size for site in target.space.sites],
    )


def recentre(
    target: Target, z: Position, here: Batch, there: Batch, model: PyTree, mutable: PyTree
) -> Position:
    """Positions `(num, ...)` in the coordinates of one batch, moved to those of another."""

    def move(z: Position) -> Position:
        values = target.constrain(z, here, model, mutable)
        latent = {name: values[name] for name in target.space.names}
        return target.unconstrain(latent, there, model, mutable)

    return jax.vmap(move)(z)
