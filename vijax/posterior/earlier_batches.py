"""What an update passes on of a posterior without an approximation: batches, conjugate families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts.conjugate import ConjugateBlock
from vijax.guides.conjugate import BoundConjugate
from vijax.model import Arguments, split
from vijax.model.conjugate_priors import are_priors
from vijax.model.updating import Batches, Earlier
from vijax.posterior import sampling
from vijax.posterior.result import FitResult

# Numbers of batches for which there are programs: few, since each is compiled.
_CAPACITIES = (4, 16, 32, 64)
_MAX_ELEMENTS = 2**20  # of the data that are kept: more rows leave little skewness
_EQUAL = 0.02  # sd of log weights up to which the guide is the posterior: means within 0.02 sd
_NUM_DRAWS = 1000


def with_kept_batches(
    result: FitResult, model: Callable[..., Any], new: Arguments
) -> Earlier | None:
    """What the fit had of earlier data, and its own; `None` where these are not to be kept.

    Args:
        result: the earlier fit.
        model: the model function.
        new: the arguments of the update, without earlier data.
    """
    target = result.target
    summed = target.marginalized.sizes or target.space.discrete.sites or target.structure.bounds
    if result.missing or summed:
        return None
    args, kwargs = result.arguments.join(result.batch.data)
    prior, before = kwargs.pop("earlier", None) or Earlier()
    arguments, data = split(model, args, kwargs, on_device=False)
    count = 0 if before is None else int(before.used.sum())
    if arguments.lookup != new.lookup or count == _CAPACITIES[-1]:
        return None
    capacity = next(one for one in _CAPACITIES if one > count)
    if capacity * sum(array.size for array in data.values()) > _MAX_ELEMENTS:
        return None
    own = [data.get(name) for name in arguments.names]
    kept = [None] * len(own) if before is None else before.arrays
    arrays = tuple(
        None if array is None else _extended(array, earlier, count, capacity)
        for array, earlier in zip(own, kept, strict=True)
    )
    evidence = _log_evidence(result) + (0.0 if before is None else float(before.log_evidence))
    offset = np.asarray(evidence, jnp.result_type(float))
    return Earlier(prior, Batches(arrays, np.arange(capacity) <= count, offset))


def _extended(array: Any, earlier: Any, count: int, capacity: int) -> np.ndarray:
    """The first `count` arrays of `earlier`, and one more, which fills the rest."""
    found = np.repeat(np.asarray(array)[None], capacity, axis=0)
    if earlier is not None:
        found[:count] = np.asarray(earlier)[:count]
    return found


def _log_evidence(result: FitResult) -> float:
    """The estimate of the fit; 0 without one, for a constant leaves the posterior as it is."""
    found = result.assessment.importance
    value = float(result.assessment.elbo) if found is None else found.log_evidence
    return value if np.isfinite(value) else 0.0


def conjugate_blocks(
    result: FitResult, supports: Mapping[str, Any], key: Array
) -> tuple[ConjugateBlock, ...]:
    """The blocks of a conjugate guide that is the posterior and can be a prior; empty if not."""
    guide = result.guide
    if not isinstance(guide, BoundConjugate) or result.missing:
        return ()
    if not are_priors(guide.plan.blocks, supports):
        return ()
    proposed, _ = sampling.proposals(result, key, _NUM_DRAWS)
    rounding = 2 * result.assessment.diagnostics.rounding
    return guide.plan.blocks if proposed.log_weights.std() <= max(_EQUAL, rounding) else ()
