"""Tempering (annealing) of the target, as a wrapper of any objective."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from vijax.contracts import (
    ControlVariateObjective,
    Evaluation,
    LossContext,
    Objective,
    PyTree,
    ScheduledObjective,
    Terms,
    Variables,
)
from vijax.objectives.elbo import ELBO


@dataclasses.dataclass(frozen=True)
class Tempered(ControlVariateObjective, ScheduledObjective):
    """An objective for the tempered target `p(x, z)^temperature`, which connects separate modes.

    One temperature per phase, and 1, the target itself, after the last. A phase ends when the fit
    becomes stationary and reduces its step size. Source: Variational tempering, Mandt, McInerney,
    Abrol, Ranganath, Blei, 2016.

    Args:
        temperatures: powers of `p(x, z)` in the first phases, above 0 and at most 1.
        objective: the wrapped objective, `ELBO()` by default.
    """

    temperatures: tuple[float, ...] = (0.1, 0.5)
    objective: Objective = ELBO()

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0 < one <= 1 for one in self.temperatures):
            raise ValueError(
                f"temperatures: expected numbers above 0 and at most 1, got {self.temperatures}."
            )

    @property
    def scheduled(self) -> bool:
        return isinstance(self.objective, ScheduledObjective) and self.objective.scheduled

    @property
    def has_elbo_optimum(self) -> bool:
        wrapped = self.objective
        return not isinstance(wrapped, ScheduledObjective) or wrapped.has_elbo_optimum

    def init_control_params(self, context: LossContext) -> PyTree:
        wrapped = self.objective
        return (
            wrapped.init_control_params(context)
            if isinstance(wrapped, ControlVariateObjective)
            else ()
        )

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        schedule = jnp.asarray((*self.temperatures, 1.0))
        temperature = schedule[jnp.minimum(context.phase, len(self.temperatures)).astype(int)]

        def evaluate(*state: PyTree) -> Evaluation:
            result = context.target.evaluate(*state)
            return result._replace(log_density=temperature * result.log_density)

        def terms(*state: PyTree) -> Terms:
            result = context.target.terms(*state)
            return result._replace(values={n: temperature * v for n, v in result.values.items()})

        tempered = context.target.with_density(evaluate, terms)
        return self.objective(variables, context._replace(target=tempered))
