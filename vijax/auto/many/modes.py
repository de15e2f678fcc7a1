"""Search for modes that the fits of many data sets do not cover; see `vijax.auto.modes`.

Where a mode is found that may have a share of the mass, a set is left to a fit of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vijax.auto.candidate import MAX_UNSEEN, is_better
from vijax.auto.many.member import Member, numbers
from vijax.auto.many.mixtures import mixtures
from vijax.auto.mode_search import unaffordable
from vijax.auto.modes import (
    MAX_MODES,
    MAX_UNCOVERED,
    MIN_ROUNDS,
    MIN_SEPARATION,
    MIN_VISITS,
    ROUNDS,
    inside,
    nearest,
)
from vijax.contracts.stacked_kernel import StackedKernel
from vijax.runtime.deadline import time_is_up
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.gaussians.low_rank import LowRankGaussian
from vijax.solvers.many.ascent import ascend
from vijax.solvers.many.gaussians import stack
from vijax.solvers.many.pathfinder import find
from vijax.solvers.pathfinder.pathfinder import PathfinderResult

_NEGLIGIBLE = 15.0  # nats below the ELBO of the fit: bounds do not differ by as much
_OTHER_MODE = "another mode was found"
_INCOMPLETE = "the search for modes was not complete"


class _Refined(NamedTuple):
    """A Gaussian that maximizes the ELBO near a start, and its ELBO."""

    gaussian: Gaussian
    elbo: float


@dataclasses.dataclass
class _Search:
    """The search of one set.

    Attributes:
        member: the set.
        rng: source of randomness.
        known: the fit and other modes.
        visits: how many paths reached each.
        rounds: the rounds of paths.
        done: whether it has ended.
        modes: other modes of some mass.
    """

    member: Member
    rng: np.random.Generator
    known: list[Gaussian]
    visits: list[int]
    rounds: list[PathfinderResult] = dataclasses.field(default_factory=list)
    done: bool = False
    modes: list[Gaussian] = dataclasses.field(default_factory=list)

    @property
    def elbo(self) -> float:
        """The ELBO of the fit."""
        return self.member.fit.assessment.elbo

    def add(self, found: _Refined, count: int) -> None:
        """Adds a mode that so many paths reached."""
        if found.elbo > self.elbo - _NEGLIGIBLE or not np.isfinite(found.elbo):
            # other coordinates of hierarchical sites may have a single mode
            if self.member.problem.batch.centering and np.isfinite(found.elbo):
                self.modes.append(found.gaussian)
            else:
                self.member.alone = _OTHER_MODE
        self.known.append(found.gaussian)
        self.visits.append(count)

    def visit(self, gaussian: LowRankGaussian, count: int, refined: _Refined | None) -> None:
        """Counts paths that ended at a Gaussian; a mode if, refined, it is not a known one."""
        closest, distance = nearest(gaussian, self.known)
        if distance > MIN_SEPARATION and refined is not None:
            closest, distance = nearest(refined.gaussian, self.known)
            if distance > MIN_SEPARATION:
                self.add(refined, count)
                return
        self.visits = [
            visited + count if j == closest or inside(gaussian, one) else visited
            for j, (visited, one) in enumerate(zip(self.visits, self.known, strict=True))
        ]


def search_many(kernel: StackedKernel, members: Sequence[Member]) -> None:
    """Searches for other modes; members are left alone where there are any of some mass."""
    searches = []
    for member in members:
        if unaffordable(member.problem):
            member.alone = "other modes cannot be searched for"
            continue
        rng = member.stream(55)
        searches.append(_Search(member, rng, [member.gaussian], [1]))
    found = [(one, other) for one in searches for other in one.member.fit.solution.alternatives]
    for (one, _), refined in zip(found, _refined(kernel, found), strict=True):
        if nearest(refined.gaussian, one.known)[1] > MIN_SEPARATION:
            one.add(refined, 1)
    for _ in range(ROUNDS):
        active = [one for one in searches if not (one.done or one.member.alone)]
        if not active or time_is_up():
            break
        _round(kernel, active)
    left = [one for one in searches if not one.member.alone]
    _uncovered(kernel, left)
    for one in left:
        if one.member.alone:
            continue
        if not one.done and one.visits.count(1) > MAX_UNSEEN * sum(one.visits):
            one.member.alone = _INCOMPLETE
            continue
        candidate = one.member.fit
        diagnostics = candidate.assessment.diagnostics._replace(num_modes=1, more_modes=False)
        one.member.best = candidate._replace(
            solution=candidate.solution._replace(alternatives=(), unseen=0.0),
            assessment=candidate.assessment._replace(diagnostics=diagnostics),
        )


def _round(kernel: StackedKernel, active: list[_Search]) -> None:
    """A round of paths for each set."""
    sets = numbers([one.member for one in active])
    found = find(kernel, [one.rng for one in active], sets)
    results = [found.result(i) if found.finite[i] else None for i in range(len(active))]
    reached: list[tuple[_Search, LowRankGaussian, int]] = []
    for one, ends in zip(active, results, strict=True):
        if ends is None:
            one.member.alone = _INCOMPLETE
            continue
        one.rounds.append(ends)
        reached += [(one, gaussian, count) for gaussian, count in ends.modes(one.elbo)]
    separate = [nearest(gaussian, one.known)[1] > MIN_SEPARATION for one, gaussian, _ in reached]
    wanted = [
        (one, gaussian) for (one, gaussian, _), far in zip(reached, separate, strict=True) if far
    ]
    refined = iter(_refined(kernel, wanted))
    for (one, gaussian, count), far in zip(reached, separate, strict=True):
        one.visit(gaussian, count, next(refined) if far else None)
    for one in active:
        if one.member.alone:
            continue
        enough = one.rounds[-1].unseen <= MAX_UNSEEN or len(one.rounds) >= MIN_ROUNDS
        one.done = min(one.visits) >= MIN_VISITS and enough
        if len(one.known) > MAX_MODES:
            one.member.alone = _INCOMPLETE


def _uncovered(kernel: StackedKernel, searches: list[_Search]) -> None:
    """What paths saw and a fit does not cover, as along a ridge."""
    covers = [_Cover(one, [*one.known]) for one in searches]
    while True:
        seen = [(one, gaussian) for one in covers if (gaussian := one.next()) is not None]
        if not seen or time_is_up():
            break
        refined = _refined(kernel, [(one.search, gaussian) for one, gaussian in seen])
        for (one, _), found in zip(seen, refined, strict=True):
            one.add(found)
    several = [one for one in covers if one.search.modes or one.added]
    members = [one.search.member for one in several]
    mixed = mixtures(kernel, members, [one.search.modes + one.added for one in several])
    for cover, member, mixture in zip(several, members, mixed, strict=True):
        search = cover.search
        if mixture is None or not (search.modes or is_better(mixture, member.fit)):
            continue
        # better coordinates of hierarchical sites may represent the mass, if it is of one mode
        connected = all(ends.num_modes == 1 for ends in search.rounds)
        if connected and member.problem.batch.centering:
            member.mixture = mixture
        else:
            member.alone = _OTHER_MODE


def leave_mixtures(members: Sequence[Member]) -> None:
    """Leaves members alone where a mixture has a higher ELBO than the fit in its coordinates."""
    for member in members:
        if member.mixture is None:
            continue
        centering = member.fit.problem.batch.centering.values()
        learned = any(np.any(np.asarray(value)) for value in centering)
        if not learned or is_better(member.mixture, member.fit):
            member.alone = _OTHER_MODE
        member.mixture = None


@dataclasses.dataclass
class _Cover:
    """The Gaussians that cover what the paths of a search saw; see `vijax.auto.modes`.

    Attributes:
        search: the search.
        known: the fit, its other modes and what was added.
        added: Gaussians where there was mass that no others covered.
        round_: the round of paths that is looked at.
    """

    search: _Search
    known: list[Gaussian]
    added: list[Gaussian] = dataclasses.field(default_factory=list)
    round_: int = 0

    def next(self) -> LowRankGaussian | None:
        """The next one that is not covered, `None` if all are."""
        while self.round_ < len(self.search.rounds) and len(self.added) < MAX_UNCOVERED:
            found = self.search.rounds[self.round_].uncovered(self.known, self.search.elbo)
            if found is not None:
                return found
            self.round_ += 1
        return None

    def add(self, found: _Refined) -> None:
        """Adds the Gaussian found from there, unless it is a known one."""
        separate = nearest(found.gaussian, self.known)[1] > MIN_SEPARATION
        if separate and np.isfinite(found.elbo):
            self.known.append(found.gaussian)
            self.added.append(found.gaussian)
        else:
            self.round_ += 1


def _refined(
    kernel: StackedKernel, starts: Sequence[tuple[_Search, Gaussian | LowRankGaussian]]
) -> list[_Refined]:
    """The Gaussian of largest ELBO near each start; those of a set are consecutive."""
    if not starts:
        return []
    dense = [one.dense if isinstance(one, LowRankGaussian) else one for _, one in starts]
    sets = numbers([one.member for one, _ in starts])
    fits = ascend(kernel, [one.rng for one, _ in starts], stack(dense), sets)
    return [_Refined(fits.gaussians.row(i), float(fits.elbo[i])) for i in range(len(starts))]
