"""Mixtures of Gaussians at what paths found, as the search of a single fit makes them.

Paths may see mass that a fit does not cover although all of them end in one mode: along a ridge or
in a funnel. Where a mixture with Gaussians there has no higher ELBO the fit is kept, and its chains
decide how far it can be relied on; see `vijax.auto.modes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vijax.auto.candidate import Candidate
from vijax.auto.many.member import Member, numbers, params_of
from vijax.auto.modes import weights_of_modes
from vijax.contracts import Guide, PyTree, Solution, Variables
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.diagnostics import importance as weights
from vijax.diagnostics.assessment import Assessment, num_assessment_draws
from vijax.guides import FullRank, Mixture
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.guides.mixture import MixtureParams
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.many.gaussians import stack


def mixtures(
    kernel: StackedKernel, members: Sequence[Member], others: Sequence[Sequence[Gaussian]]
) -> list[Candidate | None]:
    """Mixtures of fits and other Gaussians, weighted by their marginal likelihoods.

    Args:
        kernel: log density and gradient of all sets.
        members: whose fits these are, ordered.
        others: Gaussians beside each fit, one at least.

    Returns:
        For each a candidate without diagnostics, `None` where the fit has nearly all the mass.
    """
    if not members:
        return []
    mixed: list[int] = []
    made: list[tuple[Mixture, MixtureParams]] = []
    evidence = _log_evidences(kernel, members, others)
    for i, (member, (params, values)) in enumerate(zip(members, evidence, strict=True)):
        first = member.fit.assessment.importance
        assert first is not None
        every = [member.fit.solution.variables.guide, *params]
        mixture = _mixture(every, [first.log_evidence, *values])
        if mixture is not None:
            mixed.append(i)
            made.append(mixture)
    out: list[Candidate | None] = [None] * len(members)
    drawn = _evaluated(kernel, [members[i] for i in mixed], made)
    for i, (guide, at), draws in zip(mixed, made, drawn, strict=True):
        fit = members[i].fit
        found = Assessment(draws, *weights.elbo(draws.log_weights), fit.assessment.diagnostics)
        problem = dataclasses.replace(fit.problem, guide=guide)
        out[i] = Candidate(problem, Solution(Variables(at), "mixture", True, 0), found)
    return out


def _log_evidences(
    kernel: StackedKernel, members: Sequence[Member], others: Sequence[Sequence[Gaussian]]
) -> list[tuple[list[FullRankParams], list[float]]]:
    """Parameters and log evidences, by importance sampling, of all Gaussians of each member."""
    owners = [member for member, of_member in zip(members, others, strict=True) for _ in of_member]
    params = params_of(stack([one for of_member in others for one in of_member]))
    drawn = _evaluated(kernel, owners, [(FullRank(), one) for one in params])
    values = [weights.importance(one.log_weights).log_evidence for one in drawn]
    counts = [len(one) for one in others]
    ends = np.cumsum(counts)
    return [
        (params[end - count : end], values[end - count : end])
        for end, count in zip(ends, counts, strict=True)
    ]


def _mixture(
    params: Sequence[FullRankParams], log_evidence: Sequence[float]
) -> tuple[Mixture, MixtureParams] | None:
    """The mixture of those with the most mass; `None` if it is the first alone."""
    kept, logits = weights_of_modes(np.array(log_evidence))
    if list(kept) == [0]:
        return None
    return (
        Mixture((FullRank(),) * len(kept)),
        MixtureParams(logits, tuple(params[i] for i in kept)),  # type: ignore[arg-type]
    )


def _evaluated(
    kernel: StackedKernel, members: Sequence[Member], guides: Sequence[tuple[Guide, PyTree]]
) -> list[weights.Draws]:
    """Draws of a guide for each member, who are ordered, with their densities."""
    if not members:
        return []
    space = kernel.target.space
    num = num_assessment_draws(members[0].problem.batch, kernel.target)
    drawn = []
    for member, (guide, params) in zip(members, guides, strict=True):
        one = guide.host_draws(params, space, member.stream(5), num)
        assert one is not None  # dense Gaussians and their mixtures are drawn on the host
        drawn.append(one)
    log_p, _ = kernel.at(np.stack([one.points for one in drawn]), numbers(members))
    return [
        weights.Draws(weights.split(space, one.points), value, one.log_q, one.labels)
        for one, value in zip(drawn, log_p, strict=True)
    ]
