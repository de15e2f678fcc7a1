"""Assesses a finished fit: ELBO, importance weights, stationarity and the chain check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.contracts import (
    Data,
    DensityGuide,
    GaussianGuide,
    Guide,
    ParticleGuide,
    PyTree,
    Target,
    TransportGuide,
    Variables,
)
from vijax.contracts.kernel import Kernel
from vijax.diagnostics import importance as weights
from vijax.diagnostics.bridge_sampling import bridge_sampling
from vijax.diagnostics.chain_check import ChainCheck, States, check, evaluation_budget
from vijax.diagnostics.diagnosis import Diagnosis, Diagnostics
from vijax.diagnostics.enumeration import enumerate_states
from vijax.diagnostics.gradient_check import wrong_gradient
from vijax.diagnostics.importance import Draws, Importance
from vijax.diagnostics.propriety import improper_direction
from vijax.diagnostics.pullback import PullbackKernel
from vijax.diagnostics.shift import Shift, shift
from vijax.diagnostics.stationarity import Scores, Stationarity, stationarity
from vijax.diagnostics.status import CERTIFIED_SHIFT, diagnose
from vijax.diagnostics.stein_discrepancy import discrepancy
from vijax.runtime.deadline import time_is_up
from vijax.runtime.keys import fold_in, host_rng
from vijax.runtime.progress import stage
from vijax.runtime.stopwatch import spent_on

_NUM_DRAWS = 4000
_MIN_DRAWS = 200
_NEARLY_ALL = 0.95  # effective share of the draws at which more would add nothing
_SCORES = 1000  # draws for the check of stationarity
_CHECK_DIM = 2000  # largest dimension in which chains are run
_MAX_ELEMENTS = 2**33  # draws times data elements that an assessment may cost
_MAX_COORDINATES = 2**24  # draws times coordinates that it may hold in memory, several times over


Chains = Literal["none", "check", "correct"]


class Assessment(NamedTuple):
    """The diagnostics behind a posterior's status.

    Attributes:
        draws: draws from the guide with their log densities.
        elbo: estimate of the evidence lower bound in nats, from fresh draws.
        elbo_se: its standard error.
        diagnostics: the quantities that the status is based on.
        chain_states: states that replace the draws, by site `(num, *z_shape)`: of the chains, or
            of exact probabilities.
    """

    draws: Draws
    elbo: float
    elbo_se: float
    diagnostics: Diagnostics
    chain_states: dict[str, np.ndarray] | None = None

    @property
    def diagnosis(self) -> Diagnosis:
        """Status, reasons and advice."""
        return diagnose(self.diagnostics)

    @property
    def importance(self) -> Importance | None:
        """Importance sampling from the guide, `None` where it does not apply."""
        return self.diagnostics.importance

    @property
    def shift(self) -> Shift | None:
        """Change of the moments by importance correction, `None` likewise."""
        return self.diagnostics.shift

    @property
    def check(self) -> ChainCheck | None:
        """Comparison with short chains, `None` where they were not run."""
        return self.diagnostics.check

    @property
    def stationarity(self) -> Stationarity | None:
        """Distance of a Gaussian guide from the maximum of its ELBO, `None` for others."""
        return self.diagnostics.stationarity


def num_assessment_draws(batch: Data, target: Target) -> int:
    """At most 4,000 draws, fewer where they would cost too much time or memory."""
    in_time = _MAX_ELEMENTS // weights.num_elements(batch, target.cost)
    affordable = min(in_time, _MAX_COORDINATES // target.space.dim)
    return max(_MIN_DRAWS, min(_NUM_DRAWS, affordable))


class FittedGuide(NamedTuple):
    """A guide with its parameters, and a target with all its data.

    Attributes:
        target: the target.
        guide: the guide.
        variables: its parameters and the model's.
        mutable: the model's mutable state.
        key: random key of the assessment.
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
    fitted: FittedGuide,
    converged: bool,
    nonfinite_steps: Sequence[object] = (),
    num_modes: int = 1,
    more_modes: bool = False,
    chains: Chains = "check",
) -> Assessment:
    """Assesses a full-batch fit.

    Args:
        fitted: the fit.
        converged: see `Diagnostics`.
        nonfinite_steps: see `Diagnostics`.
        num_modes: see `Diagnostics`.
        more_modes: see `Diagnostics`.
        chains: `"none"`; `"check"`, short chains check the guide; `"correct"`, they may also
            continue until their states can replace the guide's draws.
    """
    assessment = assess_importance(fitted, converged, nonfinite_steps, num_modes)
    diagnostics = assessment.diagnostics._replace(more_modes=more_modes)
    assessment = assessment._replace(diagnostics=diagnostics)
    if chains == "none":
        return assessment
    return add_chain_check(assessment, fitted, correct=chains == "correct")


@spent_on("check")
def assess_importance(
    fitted: FittedGuide, converged: bool, nonfinite_steps: Sequence[object], num_modes: int
) -> Assessment:
    """Assessment by importance weights and a natural-gradient step; arguments as in `assess`."""
    at_most = num_assessment_draws(fitted.batch, fitted.target)
    at_most = max(_MIN_DRAWS, at_most // 16) if time_is_up() else at_most
    with stage("importance sampling", at_most, "point"):
        draws = _draw(fitted, at_most)
    return assess_draws(fitted, draws, converged, nonfinite_steps, num_modes)


def assess_draws(
    fitted: FittedGuide,
    draws: Draws,
    converged: bool,
    nonfinite_steps: Sequence[object] = (),
    num_modes: int = 1,
    kernel: Scores | None = None,
) -> Assessment:
    """The same for draws with their densities; `kernel` replaces that of the fit."""
    target, guide, dim = fitted.target, fitted.guide, fitted.target.space.dim
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
        discrete=bool(target.space.discrete.sites),
    )
    constant = np.ptp(flat, axis=0) == 0
    # a point mass in any coordinate has no density; a discrete site may have a single value
    if np.any(constant & ~_discrete(target)):
        return Assessment(draws, elbo, elbo_se, diagnostics)
    found = weights.importance(draws.log_weights)
    diagnostics = diagnostics._replace(importance=found, shift=shift(flat, found.log_weights))
    scores: Scores = fitted.kernel if kernel is None else kernel
    num = min(_SCORES, num_draws // 4)
    cheap = dim <= _CHECK_DIM and target.differentiable and not scores.is_costly(num)
    if finite_share == 1 and isinstance(guide, GaussianGuide) and cheap:
        # by draws, since the guide's own covariance method would compile a dozen programs when run
        # eagerly; and by other draws than those it multiplies, with which it would be correlated
        covariance = np.cov(flat[num:], rowvar=False).reshape(dim, -1)
        step = stationarity(flat[:num], scores(flat[:num])[1], covariance)
        diagnostics = diagnostics._replace(stationarity=step)
    return Assessment(draws, elbo, elbo_se, diagnostics)


def _draw(fitted: FittedGuide, at_most: int) -> Draws:
    """Draws with their densities; fewer where these are costly and weights are nearly equal."""
    some = at_most if at_most == _NUM_DRAWS else max(_MIN_DRAWS, at_most // 4)
    draws = weights.draw(*fitted, some)
    if (
        some == at_most
        or time_is_up()
        or weights.importance(draws.log_weights).ess > _NEARLY_ALL * some
    ):
        return draws
    rest = weights.draw(*fitted._replace(key=fold_in(fitted.key, 2)), at_most - some)
    return jax.tree.map(lambda *parts: np.concatenate(parts), draws, rest)


@spent_on("check")
def add_chain_check(assessment: Assessment, fitted: FittedGuide, correct: bool) -> Assessment:
    """The assessment with a check by short chains, where they can be run; see `assess`."""
    target, guide = fitted.target, fitted.guide
    draws, diagnostics = assessment.draws, assessment.diagnostics
    possible = target.differentiable and target.space.dim <= _CHECK_DIM
    possible &= diagnostics.finite_share > diagnostics.least_share
    if diagnostics.importance is None or not possible:
        return assessment
    if time_is_up():
        return assessment._replace(diagnostics=diagnostics._replace(out_of_time=True))
    kernel, transform = fitted.kernel, None
    if isinstance(guide, TransportGuide) and draws.noise is not None:
        kernel = PullbackKernel(target, guide, fitted.variables, fitted.mutable, fitted.batch)
        transform = kernel.transport
    correcting = correct and assessment.diagnosis.status != "certified"
    with stage("short HMC chains"):
        found, states = check(
            kernel,
            weights.flatten(target.space, draws.z) if draws.noise is None else draws.noise,
            diagnostics.importance.log_weights,
            draws.labels,
            host_rng(fold_in(fitted.key, 1)),
            CERTIFIED_SHIFT,
            correct,
            evaluation_budget(kernel, correcting),
            transform,
        ) or (None, None)
    # a flow's chains have its tails, which bridge sampling relies on
    return with_chains(assessment, fitted, found, states, correct, bridge=transform is None)


def with_chains(
    assessment: Assessment,
    fitted: FittedGuide,
    found: ChainCheck | None,
    states: States | None,
    correct: bool,
    bridge: bool = True,
) -> Assessment:
    """The assessment with the result of a check by short chains.

    Args:
        assessment: without it.
        fitted: the fit.
        found: the check, `None` where no chains could be run.
        states: final states of the chains likewise.
        correct: whether these may replace the guide's draws.
        bridge: whether the log evidence is found by bridge sampling where they do.
    """
    target, use_chains = fitted.target, correct and found is not None and found.converged
    diagnostics = assessment.diagnostics._replace(check=found, use_chains=use_chains)
    assessment = assessment._replace(diagnostics=diagnostics)
    if use_chains and states is not None and assessment.diagnosis.status == "corrected":
        if bridge:
            assessment = _with_bridge(assessment, fitted, states)
        return assessment._replace(chain_states=weights.split(target.space, states.points))
    return assessment


def _with_bridge(assessment: Assessment, fitted: FittedGuide, states: States) -> Assessment:
    """The assessment with the log evidence by bridge sampling between draws and states."""
    diagnostics, guide, space = assessment.diagnostics, fitted.guide, fitted.target.space
    assert diagnostics.importance is not None
    assert diagnostics.check is not None
    assert isinstance(guide, DensityGuide)
    log_q = guide.host_log_prob(fitted.variables.guide, space, states.points)
    if log_q is None:
        return assessment
    effective = min(len(log_q), diagnostics.check.mean_se.max() ** -2)
    of_guide = assessment.draws.log_weights
    bridge = bridge_sampling(of_guide, states.log_density - log_q, effective, states.chain)
    se = weights.at_least(bridge.se, bridge.log_evidence)
    if diagnostics.check.separate:  # the shares of the modes are those of the weights
        se = max(se, diagnostics.importance.log_evidence_se)
    importance = diagnostics.importance._replace(
        log_evidence=bridge.log_evidence,
        log_evidence_se=se,
        method="bridge",
    )
    return assessment._replace(diagnostics=diagnostics._replace(importance=importance))


def with_enumeration(assessment: Assessment, fitted: FittedGuide) -> Assessment:
    """The assessment with the exact posterior, where the sites are discrete and have few values."""
    space, importance = fitted.target.space, assessment.importance
    exact = None if importance is None else enumerate_states(fitted.kernel)
    if exact is None:
        return assessment
    assert importance is not None
    eps = np.finfo(fitted.kernel.dtype).eps
    importance = importance._replace(
        log_evidence=exact.log_evidence,
        log_evidence_se=float(eps * max(1.0, abs(exact.log_evidence))),
        method="enumeration",
    )
    comparison = exact.compare(weights.flatten(space, assessment.draws.z))
    diagnostics = assessment.diagnostics._replace(importance=importance, enumeration=comparison)
    assessment = assessment._replace(diagnostics=diagnostics)
    if assessment.diagnosis.status != "corrected":
        return assessment
    states = exact.sample(host_rng(fold_in(fitted.key, 1)))
    return assessment._replace(chain_states=weights.split(space, states))


def add_propriety(assessment: Assessment, fitted: FittedGuide) -> Assessment:
    """The assessment with a check that the posterior is proper, unless the fit is certified."""
    target = fitted.target
    if not (target.structure.improper and target.differentiable):
        return assessment
    if assessment.diagnosis.status == "certified":
        return assessment
    draws = weights.flatten(target.space, assessment.draws.z) if assessment.draws.z else None
    if draws is None or target.space.discrete.sites:
        return assessment
    found = improper_direction(fitted.kernel, draws)
    return assessment._replace(diagnostics=assessment.diagnostics._replace(improper=found))


def add_gradient_check(
    assessment: Assessment, fitted: FittedGuide, kernel: Kernel | None = None
) -> Assessment:
    """The assessment with a check of the model's gradient at draws; see `assess_draws`."""
    target, diagnostics = fitted.target, assessment.diagnostics
    checked = diagnostics.wrong_gradient is not None
    if checked or not target.differentiable or not assessment.draws.z:
        return assessment
    finite = np.isfinite(assessment.draws.log_weights)
    draws = weights.flatten(target.space, assessment.draws.z)[finite]
    kernel = fitted.kernel if kernel is None else kernel
    found = wrong_gradient(kernel, draws, host_rng(fold_in(fitted.key, 7)))
    assessment = assessment._replace(diagnostics=diagnostics._replace(wrong_gradient=found))
    return assessment._replace(chain_states=None) if found else assessment


def assess_elbos(
    log_weights: np.ndarray, converged: bool, nonfinite_steps: Sequence[object] = ()
) -> Assessment:
    """Assesses a fit of which only the ELBO is known: on minibatches, or without time for more.

    Args:
        log_weights: `log p - log q` of single draws on independent batches, or other unbiased
            estimates of the ELBO, `(num,)`; there may be none.
        converged: see `Diagnostics`.
        nonfinite_steps: see `Diagnostics`.
    """
    elbo, elbo_se = weights.elbo(log_weights) if log_weights.size > 1 else (np.nan, np.nan)
    diagnostics = Diagnostics(
        None,
        None,
        converged=converged,
        nonfinite_steps=nonfinite_steps,
        num_draws=log_weights.size,
        finite_share=float(np.isfinite(log_weights).mean()) if log_weights.size else 1.0,
    )
    no_draws = Draws({}, np.zeros(0), np.zeros(0))
    return Assessment(no_draws, elbo, elbo_se, diagnostics)


def _discrete(target: Target) -> np.ndarray:
    """Which coordinates are indices of values of discrete sites, `(dim,)`."""
    return np.repeat(
        [site.cardinality is not None for site in target.space.sites],
        [site.size for site in target.space.sites],
    )
