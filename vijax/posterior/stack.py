"""Combines several fits of one model in one posterior, a weighted mixture of their guides."""

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
from vijax.runtime.keys import RngKey, as_key, fold_in

Weighting = Literal["evidence", "stacking"]

_DRAWS, _EVIDENCE_DRAWS = 1000, 4000
_NEGLIGIBLE = 1e-4  # weight below which a fit is dropped


def stack(
    posteriors: Sequence[Posterior], weights: Weighting = "stacking", *, rng_key: RngKey = 0
) -> Posterior:
    """Combines fits of one model to the same data by evidence or stacking weights.

    Args:
        posteriors: fits whose guides have densities, in the same coordinates.
        weights: `"evidence"`, proportional to each fit's estimate of the evidence, which recovers
            the probabilities of separated modes; or `"stacking"`, which maximize the mixture's
            leave-one-out predictive density (by Pareto-smoothed importance sampling).
            Sources: Using Stacking to Average Bayesian Predictive Distributions, Yao, Vehtari,
            Simpson, Gelman, 2018; Stacking for Non-mixing Bayesian Computations, Yao, Vehtari,
            Gelman, 2022.
        rng_key: for the draws of the weights and of the new assessment.

    Returns:
        A posterior whose guide is a `Mixture` of the fits' guides, in order, without those of
        weight under 1e-4; newly assessed.

    Raises:
        VijaxError: there are no posteriors, `weights` is unknown, or coordinates differ.
        ModelError: models, data or values of `param` sites differ.
        GuideError: a guide has no density.
    """
    start, fits = time.perf_counter(), [one._result for one in posteriors]
    _check(fits, weights)
    key = as_key(rng_key)
    method = _evidence_weights if weights == "evidence" else _stacking_weights
    values = method([(one, fold_in(key, i)) for i, one in enumerate(fits)])
    kept = np.flatnonzero(values > _NEGLIGIBLE)
    first, guides = fits[0], _guides([fits[i] for i in kept])
    logits = jax.device_put(np.log(values[kept]).astype(np.float32))
    params = MixtureParams(logits, tuple(fits[i].params for i in kept))
    problem = Problem(
        first.model,
        first.arguments,
        first.target,
        Mixture(guides),
        first.batch,
        key,
    )
    listed = ", ".join(f"{one:.3f}" for one in values)
    solution = Solution(
        Variables(params, first.variables.model),
        f"{len(fits)} fits by {weights}, weights {listed}",
        all(fits[i].converged for i in kept),
        0,
    )
    assessment = assess_solution(problem, solution, first.mutable, "check")
    candidate = Candidate(problem, solution, assessment)
    return Posterior(finish_candidate(candidate, first.mutable, (), start))


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
        if one.target.space != first.target.space or not _equal(
            (one.batch.data, one.variables.model), (first.batch.data, first.variables.model)
        ):
            raise ModelError(
                mismatch(where, "the model, data and `param` values of the first", "different ones")
            )
        if not _equal(one.batch.centering, first.batch.centering):
            raise VijaxError(
                mismatch(
                    where,
                    "the coordinates of the first",
                    "different ones",
                    "Fit it with centering=posteriors[0].centering.",
                )
            )


def _guides(fits: list[FitResult]) -> tuple[DensityGuide, ...]:
    return tuple(one.guide for one in fits if isinstance(one.guide, DensityGuide))


def _equal(one: object, other: object) -> bool:
    """Whether two trees hold equal arrays."""
    leaves, others = jax.tree.leaves_with_path(one), jax.tree.leaves_with_path(other)
    return len(leaves) == len(others) and all(
        path == at and np.array_equal(a, b)
        for (path, a), (at, b) in zip(leaves, others, strict=True)
    )


def _evidence_weights(fits: list[tuple[FitResult, jax.Array]]) -> np.ndarray:
    log_evidence = np.array(
        [proposals(one, key, _EVIDENCE_DRAWS, fresh=True)[1].log_evidence for one, key in fits]
    )
    weights = np.exp(log_evidence - log_evidence.max())
    return weights / weights.sum()


def _stacking_weights(fits: list[tuple[FitResult, jax.Array]]) -> np.ndarray:
    pointwise = {f"{i}": by_observation(_log_likelihood(*fit)) for i, fit in enumerate(fits)}
    return np.array(list(leave_one_out(pointwise)[1].values()))


def _log_likelihood(result: FitResult, key: jax.Array) -> dict[str, np.ndarray]:
    """Pointwise log likelihood by site, under uncorrected draws, as those of the mixture are."""
    z = draws.from_guide(result, key, _DRAWS)
    return pointwise.log_likelihood(result, result.batch, z)
