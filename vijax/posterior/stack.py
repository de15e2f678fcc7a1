"""Several fits of one model as one posterior: a mixture of their guides, with weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import numpy as np

from vijax.auto.candidate import Candidate, assess_solution
from vijax.contracts import DensityGuide, Solution, Variables
from vijax.engine.problem import Problem
from vijax.guides import Mixture
from vijax.guides.mixture import MixtureParams
from vijax.posterior import draws, pointwise
from vijax.posterior.finish import finish_candidate
from vijax.posterior.loo import by_observation, leave_one_out
from vijax.posterior.posterior import Posterior
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import proposals
from vijax.runtime.errors import GuideError, ModelError, VijaxError, mismatch
from vijax.runtime.keys import as_key, fold_in

Weighting = Literal["evidence", "stacking"]

_DRAWS, _EVIDENCE_DRAWS = 1000, 4000
_NEGLIGIBLE = 1e-4  # weight below which a fit is left out


def stack(
    posteriors: Sequence[Posterior], weights: Weighting = "stacking", rng_key: int = 0
) -> Posterior:
    """One posterior from several fits of the same model to the same data.

    Args:
        posteriors: fits whose guides have densities, in the same coordinates.
        weights: `"evidence"`, each fit's own estimate of the evidence, which restores the shares
            of modes that lie apart; or `"stacking"`, which of all mixtures predict the
            observations best, each left out in turn (by Pareto-smoothed importance sampling).
            Sources: Using Stacking to Average Bayesian Predictive Distributions, Yao, Vehtari,
            Simpson, Gelman, 2018; Stacking for Non-mixing Bayesian Computations, Yao, Vehtari,
            Gelman, 2022.
        rng_key: for the draws behind the weights and the new assessment.

    Returns:
        A posterior whose guide is a `Mixture`, its components the fits in order less those of
        weight under 1e-4, assessed anew.

    Raises:
        VijaxError: there are no posteriors, `weights` is unknown, or they differ in coordinates.
        ModelError: they are of different models, data or values of `param` sites.
        GuideError: a guide has no density.
    """
    began, fits = time.perf_counter(), [one._result for one in posteriors]
    _check(fits, weights)
    key = as_key(rng_key)
    score = _by_evidence if weights == "evidence" else _by_stacking
    share = score([(one, fold_in(key, i)) for i, one in enumerate(fits)])
    kept = np.flatnonzero(share > _NEGLIGIBLE)
    first, guides = fits[0], _guides([fits[i] for i in kept])
    logits = jax.device_put(np.log(share[kept]).astype(np.float32))
    params = MixtureParams(logits, tuple(fits[i].params for i in kept))
    problem = Problem(
        first.model,
        first.arguments,
        first.target,
        Mixture(guides),
        first.batch,
        key,
    )
    listed = ", ".join(f"{one:.3f}" for one in share)
    solution = Solution(
        Variables(params, first.variables.model),
        f"{len(fits)} fits by {weights}, weights {listed}",
        all(fits[i].converged for i in kept),
        0,
    )
    assessment = assess_solution(problem, solution, first.mutable, "check")
    candidate = Candidate(problem, solution, assessment)
    return Posterior(finish_candidate(candidate, first.mutable, (), began))


def _check(fits: list[FitResult], weights: str) -> None:
    if weights not in get_args(Weighting):
        expected = f"one of {list(get_args(Weighting))}"
        raise VijaxError(mismatch("weights", expected, repr(weights)))
    if not fits:
        raise VijaxError(mismatch("posteriors", "at least one", "none"))
    first = fits[0]
    for i, one in enumerate(fits):
        where = f"posteriors[{i}]"
        if not isinstance(one.guide, DensityGuide):
            raise GuideError(mismatch(where, "a guide with a density", repr(one.guide)))
        if one.missing:
            unknown = f"one without {', '.join(map(repr, one.missing))}"
            raise ModelError(mismatch(where, "a fit with all data in memory", unknown))
        if one.target.space != first.target.space or not _alike(
            (one.batch.data, one.variables.model), (first.batch.data, first.variables.model)
        ):
            raise ModelError(
                mismatch(where, "the model, data and `param` values of the first", "others")
            )
        if not _alike(one.batch.centering, first.batch.centering):
            raise VijaxError(
                mismatch(
                    where,
                    "the coordinates of the first",
                    "others",
                    "Fit it with centering=posteriors[0].centering.",
                )
            )


def _guides(fits: list[FitResult]) -> tuple[DensityGuide, ...]:
    return tuple(one.guide for one in fits if isinstance(one.guide, DensityGuide))


def _alike(one: object, other: object) -> bool:
    """Whether two trees hold equal arrays."""
    leaves, others = jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other)
    return len(leaves) == len(others) and all(
        path == at and np.array_equal(a, b)
        for (path, a), (at, b) in zip(leaves, others, strict=True)
    )


def _by_evidence(fits: list[tuple[FitResult, jax.Array]]) -> np.ndarray:
    found = np.array(
        [proposals(one, key, _EVIDENCE_DRAWS, fresh=True)[1].log_evidence for one, key in fits]
    )
    weights = np.exp(found - found.max())
    return weights / weights.sum()


def _by_stacking(fits: list[tuple[FitResult, jax.Array]]) -> np.ndarray:
    pointwise = {f"{i}": by_observation(_log_likelihood(*fit)) for i, fit in enumerate(fits)}
    return np.array(list(leave_one_out(pointwise)[1].values()))


def _log_likelihood(result: FitResult, key: jax.Array) -> dict[str, np.ndarray]:
    """By site, under the guide's own draws, of which the mixture will be made."""
    z = draws.from_guide(result, key, _DRAWS)
    return pointwise.log_likelihood(result, result.batch, z)
