"""A data set among many that are fitted together, and the assessment of their fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vijax.auto.candidate import MAX_UNSEEN, Candidate
from vijax.auto.history import Attempt
from vijax.contracts import Solution, Variables
from vijax.contracts.kernel import Floats
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.diagnostics import importance as weights
from vijax.diagnostics.assessment import (
    Assessment,
    FittedGuide,
    assess_draws,
    num_assessment_draws,
)
from vijax.diagnostics.gradient_check import MIN_DRAWS, are_wrong
from vijax.engine.problem import Problem
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.runtime.keys import rng_of_words
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.many.gaussians import Gaussians

_CHECKED = 400  # draws of which some are used to check the gradient


@dataclasses.dataclass
class Member:
    """A data set among many.

    Attributes:
        number: its place in the kernel.
        problem: its problem, in the coordinates of `best`.
        words: of its key.
        rng: source of randomness of its solvers.
        best: its best fit so far.
        history: the stages of its fit.
        alone: why it has to be fitted by itself, empty if it has not.
        known: a fit and its status.
        mixture: along the tail of its mode, with a higher ELBO than the fit before other
            coordinates are learned.
    """

    number: int
    problem: Problem
    words: tuple[int, int]
    rng: np.random.Generator
    best: Candidate | None = None
    history: tuple[Attempt, ...] = ()
    alone: str = ""
    known: tuple[Candidate, str] | None = None
    mixture: Candidate | None = None

    def stream(self, *numbers: int) -> np.random.Generator:
        """A source of randomness derived from the key of the fit."""
        return rng_of_words(self.words, *numbers)

    @property
    def fit(self) -> Candidate:
        """Its best fit."""
        assert self.best is not None
        return self.best

    @property
    def status(self) -> str:
        """The status of its best fit; found once, since it is made of many words."""
        if self.known is None or self.known[0] is not self.fit:
            self.known = (self.fit, self.fit.assessment.diagnosis.status)
        return self.known[1]

    @property
    def gaussian(self) -> Gaussian:
        """Its best fit as a Gaussian."""
        return gaussian_of(self.fit.solution.variables.guide)

    def fitted(self, candidate: Candidate) -> FittedGuide:
        """A fit as the assessment takes it."""
        problem = candidate.problem
        variables = candidate.solution.variables
        mutable: dict[str, Any] = {}
        target, guide = problem.target, problem.guide
        return FittedGuide(target, guide, variables, mutable, problem.key, problem.batch)

    def record(self, stage: str, found: Candidate, kept: bool, seconds: float) -> None:
        """Adds a stage to the history."""
        assessment, guide = found.assessment, type(found.problem.guide).__name__
        khat = np.nan if assessment.importance is None else assessment.importance.khat
        numbers = (assessment.elbo, assessment.elbo_se, khat)
        attempt = Attempt(stage, guide, *numbers, assessment.diagnosis.status, kept, seconds)
        self.history = (*self.history, attempt)


def numbers(members: Sequence[Member]) -> np.ndarray:
    """The places of members in the kernel."""
    return np.array([one.number for one in members], int)


def params_of(gaussians: Gaussians) -> list[FullRankParams]:
    """The parameters of the guide for each row, host arrays in its precision."""
    upper = np.linalg.qr(np.swapaxes(gaussians.factor, 1, 2)).R
    sign = np.where(np.diagonal(upper, axis1=1, axis2=2) < 0, -1.0, 1.0)
    cholesky = np.swapaxes(upper * sign[..., None], 1, 2)
    scale = np.diagonal(cholesky, axis1=1, axis2=2)
    lower = np.tril(cholesky / scale[..., None], -1)
    columns = (gaussians.mean, np.log(scale), lower)
    dtype = np.dtype(jnp.result_type(float))
    rounded = (column.astype(dtype) for column in columns)
    return [FullRankParams(*row) for row in zip(*rounded, strict=True)]


def gaussian_of(params: FullRankParams) -> Gaussian:
    """The Gaussian with these parameters."""
    loc, log_scale, lower = (np.asarray(leaf, np.float64) for leaf in params)
    return Gaussian(loc, np.exp(log_scale)[:, None] * (np.tril(lower, -1) + np.eye(loc.size)))


def assess_many(
    kernel: StackedKernel,
    members: Sequence[Member],
    problems: Sequence[Problem],
    solutions: Sequence[Solution],
) -> list[Candidate]:
    """The solutions with their importance-sampling diagnostics, all draws in one call.

    Args:
        kernel: log density and gradient of all sets.
        members: whose solutions these are, ordered.
        problems: of the solutions.
        solutions: one for each.
    """
    target = kernel.target
    num = num_assessment_draws(problems[0].batch, target)
    drawn = []
    for member, problem, solution in zip(members, problems, solutions, strict=True):
        rng = member.stream(5)
        one = problem.guide.host_draws(solution.variables.guide, target.space, rng, num)
        assert one is not None  # a dense Gaussian is drawn on the host
        drawn.append(one)
    points = np.stack([one.points for one in drawn])
    log_p, scores = kernel.at(points, numbers(members))
    out = []
    for i, (member, problem, solution, one) in enumerate(
        zip(members, problems, solutions, drawn, strict=True)
    ):
        z = weights.split(target.space, one.points)
        draws = weights.Draws(z, log_p[i], one.log_q, one.labels, one.noise)
        candidate = Candidate(problem, solution, Assessment(draws, 0.0, 0.0, None))  # type: ignore[arg-type]
        known = _Known(kernel, member.number, scores[i])
        num_modes = 1 + len(solution.alternatives)
        fitted = member.fitted(candidate)
        found = assess_draws(fitted, draws, solution.converged, (), num_modes, known)
        more = solution.unseen is not None and solution.unseen > MAX_UNSEEN
        diagnostics = found.diagnostics._replace(more_modes=more)
        out.append(candidate._replace(assessment=found._replace(diagnostics=diagnostics)))
    return out


def check_gradients(kernel: StackedKernel, members: Sequence[Member]) -> None:
    """Checks the gradient of each member's log density at draws of its fit."""
    if not members:
        return
    draws = []
    for member in members:
        found = member.fit.assessment.draws
        finite = np.isfinite(found.log_weights)
        draws.append(weights.flatten(kernel.target.space, found.z)[finite][:_CHECKED])
    enough = min(len(one) for one in draws) >= MIN_DRAWS
    rngs = [member.stream(5, 7) for member in members]
    wrong = are_wrong(kernel, numbers(members), draws, rngs) if enough else [True] * len(members)
    for member, bad in zip(members, wrong, strict=True):
        if bad:
            member.alone = "its gradient may be wrong"
        assessment = member.fit.assessment
        diagnostics = assessment.diagnostics._replace(wrong_gradient=())
        member.best = member.fit._replace(assessment=assessment._replace(diagnostics=diagnostics))


class _Known:
    """The scores of draws that were evaluated with those of other sets, for `assess_draws`."""

    def __init__(self, kernel: StackedKernel, number: int, scores: Floats) -> None:
        self.one, self.scores = kernel.of_set(number), scores

    def is_costly(self, num: int) -> bool:
        return self.one.is_costly(num)

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        return np.zeros(len(points)), self.scores[: len(points)]


def solution_at(params: FullRankParams, reason: str, converged: bool, evaluations: int) -> Solution:
    """A solution with these parameters of the guide."""
    return Solution(Variables(params), reason, converged, evaluations)
