"""Stochastic gradient descent on an objective, with any optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vijax._contracts import (
    Algorithm,
    Axes,
    Batch,
    Guide,
    Info,
    Objective,
    OtherOptimum,
    PyTree,
    Setting,
    Target,
    Variables,
)
from vijax._identity import fingerprint
from vijax._mixed import mixed


class GradientState(NamedTuple):
    """Variables, the model's mutable state, the optimizer's state, step-size factor and phase."""

    variables: Variables
    mutable: dict[str, PyTree]
    optimizer: PyTree
    step_size: Array
    phase: Array


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax transformation that compares by what it does, not by which object it is.

    Two `optax.adam(1e-2)` are equal, so that a second fit finds the first one's programs.
    """

    transformation: optax.GradientTransformation = dataclasses.field(compare=False, repr=False)
    lookup: Hashable = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.transformation, optax.GradientTransformation):
            raise TypeError(
                "optimizer: expected an optax.GradientTransformation such as optax.adam(1e-2), "
                f"got {type(self.transformation).__name__}."
            )
        object.__setattr__(self, "lookup", fingerprint(self.transformation))


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam as configuration, the default. Unlike an optax object it can be written to a file.

    Args:
        rate: step size.
    """

    transformation: optax.GradientTransformation = dataclasses.field(
        init=False, compare=False, repr=False
    )
    rate: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "transformation", optax.adam(self.rate))
        super().__post_init__()


@dataclasses.dataclass(frozen=True)
class Gradient(Algorithm):
    """`variables <- variables + step_size * update(gradient of the objective)`.

    Args:
        objective: the loss.
        optimizer: any optax transformation; line searches and `optax.lbfgs` receive the value,
            gradient and value function of the step's own draws.
        precision: `"bfloat16"` takes the model's matrix products and convolutions in it, see
            `vijax.fit`; `None` changes nothing.
    """

    objective: Objective
    optimizer: Optimizer
    precision: str | None = dataclasses.field(default=None, kw_only=True)

    @property
    def raises_elbo(self) -> bool:
        return not isinstance(self.objective, OtherOptimum)

    def init(self, variables: Variables, mutable: dict[str, PyTree]) -> GradientState:
        state = self.optimizer.transformation.init(variables)
        return GradientState(variables, mutable, state, jnp.ones(()), jnp.zeros(()))

    def step(
        self, state: GradientState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[GradientState, Info]:
        if self.precision is not None:
            target = _mixed_target(target, self.precision)
        setting = Setting(state.mutable, key, target, guide, batch, state.phase)

        def loss_of(variables: Variables) -> tuple[Array, dict[str, PyTree]]:
            return self.objective(variables, setting)

        (loss, mutable), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.variables)
        update, optimizer = optax.with_extra_args_support(self.optimizer.transformation).update(
            gradient,
            state.optimizer,
            state.variables,
            value=loss,
            grad=gradient,
            value_fn=lambda variables: loss_of(variables)[0],
        )
        update = jax.tree.map(lambda u: state.step_size.astype(u.dtype) * u, update)
        variables = optax.apply_updates(state.variables, update)
        state = state._replace(variables=variables, mutable=mutable, optimizer=optimizer)
        return state, Info(loss)

    def variables(self, state: GradientState) -> Variables:
        return state.variables

    def mutable(self, state: GradientState) -> dict[str, PyTree]:
        return state.mutable

    def row_axes(self, state: GradientState, axes: Variables) -> GradientState:
        try:
            optimizer = optax.tree_utils.tree_map_params(
                self.optimizer.transformation,
                lambda _, own: own,
                state.optimizer,
                axes,
                transform_non_params=lambda _: Axes(),
            )
        except (IndexError, TypeError, ValueError) as error:
            raise TypeError(
                "optimizer: expected one that keeps its state parameter by parameter, as Adam "
                "does, since latents are cut into batches; a line search or L-BFGS does not."
            ) from error
        mutable = jax.tree.map(lambda _: Axes(), state.mutable)
        return GradientState(axes, mutable, optimizer, Axes(), Axes())  # type: ignore[arg-type]

    def rescale(self, state: GradientState, factor: Any) -> GradientState:
        return state._replace(step_size=state.step_size * factor)

    def move(self, state: GradientState, variables: Variables, forget: bool) -> GradientState:
        if forget:
            state = state._replace(optimizer=self.optimizer.transformation.init(variables))
        return state._replace(variables=variables, phase=state.phase + 1)


def _mixed_target(target: Target, precision: str) -> Target:
    """A target whose log density has its products in a lower precision."""
    terms = None if target.terms is None else mixed(target.terms, precision)
    evaluate = mixed(target.evaluate, precision)
    return dataclasses.replace(target, evaluate=evaluate, terms=terms, programs={})
