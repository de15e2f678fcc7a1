"""Assesses a finished fit: draws once, then ELBO, importance weights, shifts and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.contracts import (
    Batch,
    Data,
    GaussianGuide,
    Guide,
    ParticleGuide,
    Position,
    PyTree,
    Target,
    TransportGuide,
    Variables,
)
from vijax.contracts.kernel import Kernel
from vijax.diagnostics import importance as weights
from vijax.diagnostics.chain_check import ChainCheck, affordable, check
from vijax.diagnostics.importance import Draws, Importance
from vijax.diagnostics.pullback import TransportedKernel
from vijax.diagnostics.stationarity import Stationarity, stationarity
from vijax.diagnostics.status import CERTIFIED_SHIFT, Diagnosis, Diagnostics, Shift, diagnose, shift
from vijax.diagnostics.stein_discrepancy import discrepancy
from vijax.runtime.keys import fold_in, host_rng

_NUM_DRAWS = 4000
_MIN_DRAWS = 200
_NEARLY_ALL = 0.95  # effective share of the draws at which more would tell nothing
_SCORES = 1000  # draws that say whether the guide is stationary
_CHECK_DIM = 2000  # largest dimension in which chains are asked
_MAX_ELEMENTS = 2**33  # draws times data elements that an assessment may cost
_MAX_NUMBERS = 2**24  # draws times coordinates that it may hold, several times over


Chains = Literal["none", "check", "correct"]


class Assessment(NamedTuple):
    """The diagnostics behind a posterior's status.

    Attributes:
        draws: draws from the guide with their log densities.
        elbo: fresh estimate of the diagnostics lower bound in nats.
        elbo_se: its standard error.
        diagnostics: what the verdict is made from.
        chain_states: where the chains are, by site `(num, *z_shape)`, if they stand in for draws.
    """

    draws: Draws
    elbo: float
    elbo_se: float
    diagnostics: Diagnostics
    chain_states: dict[str, np.ndarray] | None = None

    @property
    def diagnosis(self) -> Diagnosis:
        """All of it combined."""
        return diagnose(self.diagnostics)

    @property
    def importance(self) -> Importance | None:
        """Importance sampling from the guide, `None` where it does not apply."""
        return self.diagnostics.importance

    @property
    def shift(self) -> Shift | None:
        """What the correction changes, `None` likewise."""
        return self.diagnostics.shift

    @property
    def check(self) -> ChainCheck | None:
        """What short chains say, `None` where they were not asked."""
        return self.diagnostics.check

    @property
    def stationarity(self) -> Stationarity | None:
        """How far a Gaussian guide is from the optimum of its ELBO, `None` for others."""
        return self.diagnostics.stationarity


def num_assessment_draws(batch: Data, dim: int) -> int:
    """4,000 draws at most, fewer where they would take long or fill the memory."""
    affordable = min(_MAX_ELEMENTS // weights.num_elements(batch, dim), _MAX_NUMBERS // dim)
    return max(_MIN_DRAWS, min(_NUM_DRAWS, affordable))


class Fitted(NamedTuple):
    """What is assessed: a guide on a target with all its data.

    Attributes:
        target: the target.
        guide: the guide.
        variables: its parameters and the model's.
        mutable: the model's mutable state.
        key: randomness of the assessment.
        batch: the data, in memory or in blocks.
    """

    target: Target
    guide: Guide
    variables: Variables
    mutable: dict[str, PyTree]
    key: Array
    batch: Data

    @property
    def kernel(self) -> Kernel:
        """The log density with its gradient."""
        return Kernel(self.target, self.batch, self.variables.model, self.mutable)


def assess(
    fitted: Fitted,
    converged: bool,
    nonfinite_steps: Sequence[object] = (),
    num_modes: int = 1,
    chains: Chains = "check",
) -> Assessment:
    """Assesses a full-batch fit.

    Args:
        fitted: the fit.
        converged: see `Diagnostics`.
        nonfinite_steps: see `Diagnostics`.
        num_modes: see `Diagnostics`.
        chains: whether short chains check the guide, and whether they may go on until their
            states can stand in for its draws.
    """
    weighed = weigh(fitted, converged, nonfinite_steps, num_modes)
    return weighed if chains == "none" else ask_chains(weighed, fitted, correct=chains == "correct")


def weigh(
    fitted: Fitted, converged: bool, nonfinite_steps: Sequence[object], num_modes: int
) -> Assessment:
    """What importance weights and a step of natural gradients say; arguments as in `assess`."""
    target, guide, dim = fitted.target, fitted.guide, fitted.target.space.dim
    at_most = num_assessment_draws(fitted.batch, dim)
    draws = _drawn(fitted, at_most)
    num_draws = len(draws.log_p)
    if isinstance(guide, ParticleGuide):
        points = np.asarray(guide.points(fitted.variables.guide, target.space), np.float64)
        diagnostics = Diagnostics(
            None,
            None,
            converged=converged,
            nonfinite_steps=nonfinite_steps,
            num_draws=len(points),
            discrepancy=discrepancy(points, fitted.kernel(points)[1]),
        )
        return Assessment(draws, np.nan, np.nan, diagnostics)
    elbo, elbo_se = weights.elbo(draws.log_weights)
    flat = weights.flatten(target.space, draws.z)
    finite_share = float(np.mean(np.isfinite(draws.log_weights)))
    diagnostics = Diagnostics(
        None,
        None,
        converged=converged,
        nonfinite_steps=nonfinite_steps,
        num_draws=num_draws,
        finite_share=finite_share,
        num_modes=num_modes,
    )
    constant = np.ptp(flat, axis=0) == 0
    # a point mass, in whatever coordinate, has no density; a discrete site may be certain
    if np.any(constant & ~_discrete(target)):
        return Assessment(draws, elbo, elbo_se, diagnostics)
    found = weights.importance(draws.log_weights)
    diagnostics = diagnostics._replace(importance=found, shift=shift(flat, found.log_weights))
    kernel, scored = fitted.kernel, min(_SCORES, num_draws // 4)
    cheap = dim <= _CHECK_DIM and target.differentiable and not kernel.is_costly(scored)
    if finite_share == 1 and isinstance(guide, GaussianGuide) and cheap:
        # not the guide's own method: run eagerly it compiles a dozen programs; and of other draws
        # than those it is applied to, which in many dimensions it would be correlated with
        covariance = np.cov(flat[scored:], rowvar=False).reshape(dim, -1)
        still = stationarity(flat[:scored], kernel(flat[:scored])[1], covariance)
        diagnostics = diagnostics._replace(stationarity=still)
    return Assessment(draws, elbo, elbo_se, diagnostics)


def _drawn(fitted: Fitted, at_most: int) -> Draws:
    """Draws with their densities; where these take long fewer, if they weigh nearly the same."""
    some = at_most if at_most == _NUM_DRAWS else max(_MIN_DRAWS, at_most // 4)
    draws = weights.draw(*fitted, some)
    if some == at_most or weights.importance(draws.log_weights).ess > _NEARLY_ALL * some:
        return draws
    rest = weights.draw(*fitted._replace(key=fold_in(fitted.key, 2)), at_most - some)
    return jax.tree.map(lambda *parts: np.concatenate(parts), draws, rest)


def ask_chains(assessment: Assessment, fitted: Fitted, correct: bool) -> Assessment:
    """The assessment with what short chains say, where they can be asked; see `assess`."""
    target, guide = fitted.target, fitted.guide
    draws, diagnostics = assessment.draws, assessment.diagnostics
    asked = target.differentiable and target.space.dim <= _CHECK_DIM
    if diagnostics.importance is None or not asked or diagnostics.finite_share <= 0.5:
        return assessment
    kernel, place = fitted.kernel, None
    if isinstance(guide, TransportGuide) and draws.noise is not None:
        kernel = TransportedKernel(target, guide, fitted.variables, fitted.mutable, fitted.batch)
        place = kernel.place
    needed = correct and assessment.diagnosis.status != "certified"
    found, pool = check(
        kernel,
        weights.flatten(target.space, draws.z) if draws.noise is None else draws.noise,
        diagnostics.importance.log_weights,
        draws.labels,
        host_rng(fold_in(fitted.key, 1)),
        CERTIFIED_SHIFT,
        correct,
        affordable(kernel, needed),
        place,
    ) or (None, None)
    use_chains = correct and found is not None and found.settled
    assessment = assessment._replace(
        diagnostics=diagnostics._replace(check=found, use_chains=use_chains)
    )
    if use_chains and pool is not None and assessment.diagnosis.status == "corrected":
        return assessment._replace(chain_states=weights.split(target.space, pool))
    return assessment


def assess_scores(
    log_weights: np.ndarray, converged: bool, nonfinite_steps: Sequence[object]
) -> Assessment:
    """Assesses a minibatch fit, where only the ELBO can be estimated without bias."""
    elbo, elbo_se = weights.elbo(log_weights)
    diagnostics = Diagnostics(
        None, None, converged=converged, nonfinite_steps=nonfinite_steps, num_draws=log_weights.size
    )
    nothing = Draws({}, np.zeros(0), np.zeros(0))
    return Assessment(nothing, elbo, elbo_se, diagnostics)


def _discrete(target: Target) -> np.ndarray:
    """Which coordinates are numbers of values, `(dim,)`."""
    return np.repeat(
        [site.cardinality is not None for site in target.space.sites],
        [site.size for site in target.space.sites],
    )


def recenter(
    target: Target, z: Position, here: Batch, there: Batch, model: PyTree, mutable: PyTree
) -> Position:
    """Positions `(num, ...)` in the coordinates of one batch, moved to those of another."""

    def move(z: Position) -> Position:
        values = target.constrain(z, here, model, mutable)
        latent = {name: values[name] for name in target.space.names}
        return target.unconstrain(latent, there, model, mutable)

    return jax.vmap(move)(z)
