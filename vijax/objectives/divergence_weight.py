"""The weight of the divergence from the prior in a bound, constant or by the step of a fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Evaluation, PyTree, Target
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.fingerprint import fingerprint


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A function of the number of a step that compares by structure instead of identity.

    Two `optax.linear_schedule(0.0, 1.0, 100)` are equal: a second fit reuses compiled programs.
    """

    function: Callable[[Any], Any] = dataclasses.field(compare=False, repr=False)
    lookup: Hashable = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lookup", fingerprint(self.function))


def checked_weight(beta: Any) -> float | Schedule:
    """The option `beta`.

    Raises:
        ValueError: it is neither a number from 0 up nor a function.
    """
    if isinstance(beta, Schedule):
        return beta
    if callable(beta):
        return Schedule(beta)
    number = isinstance(beta, (int, float)) and not isinstance(beta, bool)
    if not number or not 0 <= beta < math.inf:
        expected = "a number from 0 up or a function of the step, as optax.linear_schedule(0, 1, n)"
        raise ValueError(mismatch("beta", expected, repr(beta)))
    return float(beta)


def weight_at(beta: float | Schedule, batch: Batch) -> Array | float:
    """The weight in a step.

    Raises:
        ValueError: it depends on the step, and this is none.
    """
    if not isinstance(beta, Schedule):
        return beta
    if batch.step is None:
        raise ValueError(mismatch("beta", "a step of a fit, Batch.step", "none"))
    return jnp.asarray(beta.function(batch.step), jnp.result_type(float))


def weighted_target(target: Target, weight: Array | float) -> Target:
    """The target with the log priors of latents multiplied by a weight.

    Raises:
        GuideError: there are discrete latents, whose priors are not separate terms.
    """
    if target.space.discrete.sites or target.marginalized.sizes:
        name = (*target.space.discrete.names, *target.marginalized.sizes)[0]
        raise GuideError(
            f"beta: expected continuous sites, got {name!r}, which is discrete. Use Tempered."
        )

    def evaluate(z: Any, batch: Batch, model: Any, mutable: dict[str, PyTree]) -> Evaluation:
        found, info = target.terms(z, batch, model, mutable), target.term_info(batch)
        total = jnp.zeros(())
        for name, value in found.values.items():
            total += jnp.sum(value) * (1.0 if info[name].prior_of is None else weight)
        return Evaluation(total, found.mutable)

    return target.with_density(evaluate, target.terms)
