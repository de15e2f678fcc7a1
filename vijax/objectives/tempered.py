"""A flattened target at first, as a wrapper of any objective."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from vijax.contracts import ControlVariateObjective, Evaluation, Objective, PyTree, LossContext, Terms, Variables
from vijax.objectives.elbo import ELBO


@dataclasses.dataclass(frozen=True)
class Tempered(ControlVariateObjective):
    """An objective for `p(x, z)^temperature`, which joins separate modes while it is small.

    One temperature a phase: phases end where the fit reduces its step size because it has become
    stationary, and from the last temperature on it is 1, the target itself. Source: Variational
    tempering, Mandt, McInerney, Abrol, Ranganath, Blei, 2016.

    Args:
        temperatures: of the first phases, above 0 and at most 1.
        objective: what is wrapped; `ELBO()` by default.
    """

    temperatures: tuple[float, ...] = (0.1, 0.5)
    objective: Objective = ELBO()

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0 < one <= 1 for one in self.temperatures):
            raise ValueError(
                f"temperatures: expected numbers above 0 and at most 1, got {self.temperatures}."
            )

    def init_control_params(self, setting: LossContext) -> PyTree:
        inside = self.objective
        return inside.init_control_params(setting) if isinstance(inside, ControlVariateObjective) else ()

    def __call__(self, variables: Variables, setting: LossContext) -> tuple[Array, dict[str, PyTree]]:
        schedule = jnp.asarray((*self.temperatures, 1.0))
        temperature = schedule[jnp.minimum(setting.phase, len(self.temperatures)).astype(int)]

        def evaluate(*state: PyTree) -> Evaluation:
            found = setting.target.evaluate(*state)
            return found._replace(log_density=temperature * found.log_density)

        def terms(*state: PyTree) -> Terms:
            found = setting.target.terms(*state)
            return found._replace(values={n: temperature * v for n, v in found.values.items()})

        flat = setting.target.with_density(evaluate, terms)
        return self.objective(variables, setting._replace(target=flat))
