"""Stochastic gradient descent on an objective, with any optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vijax.algorithms.encoder_statistics import with_statistics
from vijax.contracts import (
    Algorithm,
    Axes,
    Batch,
    ControlVariateObjective,
    Guide,
    Info,
    LossContext,
    NonElboObjective,
    Objective,
    PyTree,
    ScheduledObjective,
    Target,
    Variables,
)
from vijax.runtime.fingerprint import fingerprint
from vijax.runtime.precision import check_precision, mixed_precision


class GradientState(NamedTuple):
    """The state of gradient descent.

    Attributes:
        variables: the guide's parameters and the model's `param` sites.
        mutable: the model's mutable state.
        optimizer: the optimizer's state.
        step_size: factor of the updates.
        phase: as in `LossContext`.
        control_params: parameters of the objective's control variates, without leaves if it has
            none.
        control_optimizer: state of their optimizer, without leaves if there are none.
    """

    variables: Variables
    mutable: dict[str, PyTree]
    optimizer: PyTree
    step_size: Array
    phase: Array
    control_params: PyTree = ()
    control_optimizer: PyTree = ()


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax transformation that compares by structure instead of identity.

    Two `optax.adam(1e-2)` are equal, so that a second fit reuses the compiled programs.
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
    """Adam as configuration, the default. Unlike an optax object, it can be saved to a file.

    Args:
        rate: learning rate.
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
    """Stochastic gradient descent, `variables <- variables + step_size * update(gradient)`.

    Parameters `c` of the objective's control variates, see `ControlVariateObjective`, take a step
    along `-d/dc ||gradient||^2` after each of these. Source: Backpropagation through the void,
    Grathwohl, Choi, Wu, Roeder, Duvenaud, 2018, algorithm 1.

    Args:
        objective: the loss.
        optimizer: any optax transformation; line searches and `optax.lbfgs` receive the value,
            gradient and value function for the draws of the step.
        precision: `"bfloat16"` for the model's matrix products and convolutions, see `vijax.fit`;
            `None` for full precision.
        control_optimizer: optimizer of the control variates' parameters, of constant step size.

    Raises:
        ValueError: `precision` is unknown.
    """

    objective: Objective
    optimizer: Optimizer
    precision: str | None = dataclasses.field(default=None, kw_only=True)
    control_optimizer: Optimizer = dataclasses.field(default=Adam(0.01), kw_only=True)

    def __post_init__(self) -> None:
        check_precision(self.precision)

    @property
    def maximizes_elbo(self) -> bool:
        objective = self.objective
        other = isinstance(objective, ScheduledObjective) and not objective.has_elbo_optimum
        return not (other or isinstance(objective, NonElboObjective))

    @property
    def scheduled(self) -> bool:
        return isinstance(self.objective, ScheduledObjective) and self.objective.scheduled

    def for_fit(self, num_steps: int | None, guide: Guide) -> Gradient:
        if self.scheduled and num_steps is None:
            raise ValueError(
                f"num_steps: expected a number of steps with the schedule of {self.objective!r}, "
                "got None. Let the schedule end at 1 some time before."
            )
        return self

    def init(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
    ) -> GradientState:
        one, zero = jnp.ones(()), jnp.zeros(())
        state = self.optimizer.transformation.init(variables)
        initial = GradientState(variables, mutable, state, one, zero)
        if isinstance(self.objective, ControlVariateObjective):
            context = LossContext(mutable, key, target, guide, batch, zero)
            initial = initial._replace(control_params=self.objective.init_control_params(context))
        params = initial.control_params
        return initial._replace(control_optimizer=self._init_control_optimizer(params))

    def _init_control_optimizer(self, params: PyTree) -> PyTree:
        """Initial state of the control variates' optimizer; empty if there are no parameters."""
        return self.control_optimizer.transformation.init(params) if jax.tree.leaves(params) else ()

    def step(
        self, state: GradientState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[GradientState, Info]:
        if self.precision is not None:
            target = mixed_target(target, self.precision)
        context = LossContext(
            state.mutable, key, target, guide, batch, state.phase, state.control_params
        )

        def loss_of(
            variables: Variables, control_params: PyTree = state.control_params
        ) -> tuple[Array, dict[str, PyTree]]:
            return self.objective(variables, context._replace(control_params=control_params))

        def evaluate(control_params: PyTree) -> tuple[tuple[Array, dict[str, PyTree]], Variables]:
            return jax.value_and_grad(loss_of, has_aux=True)(state.variables, control_params)

        def squared_norm(control_params: PyTree) -> tuple[Array, Any]:
            result = evaluate(control_params)
            return optax.tree_utils.tree_norm(result[1], squared=True), result

        if jax.tree.leaves(state.control_params):
            control_gradient, result = jax.grad(squared_norm, has_aux=True)(state.control_params)
            state = self._update_control_variates(state, control_gradient)
        else:
            result = evaluate(state.control_params)
        (loss, mutable), gradient = result
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
        params = with_statistics(guide, variables.guide, state.variables.guide, target, batch)
        variables = variables._replace(guide=params)
        state = state._replace(variables=variables, mutable=mutable, optimizer=optimizer)
        return state, Info(loss)

    def _update_control_variates(self, state: GradientState, gradient: PyTree) -> GradientState:
        """A step of the control variates' parameters; none if the gradient is not finite.

        (Non-finite steps of the variables are undone by the loop.)
        """
        finite = jnp.isfinite(optax.tree_utils.tree_sum(gradient))
        updates, control_optimizer = self.control_optimizer.transformation.update(
            gradient, state.control_optimizer, state.control_params
        )
        moved = (optax.apply_updates(state.control_params, updates), control_optimizer)
        kept = (state.control_params, state.control_optimizer)
        control_params, control_optimizer = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), moved, kept
        )
        return state._replace(control_params=control_params, control_optimizer=control_optimizer)

    def row_axes(self, state: GradientState, axes: Variables) -> GradientState:
        try:
            optimizer = optax.tree_utils.tree_map_params(
                self.optimizer.transformation,
                lambda _, leaf_axes: leaf_axes,
                state.optimizer,
                axes,
                transform_non_params=lambda _: Axes(),
            )
        except (IndexError, TypeError, ValueError) as error:
            raise TypeError(
                "optimizer: expected one with separate state for each parameter, such as Adam, for "
                "minibatches with local latent variables; a line search or L-BFGS has none."
            ) from error
        shared = state._replace(variables=None, optimizer=None)  # type: ignore[arg-type]
        rest = jax.tree.map(lambda _: Axes(), shared)
        return rest._replace(variables=axes, optimizer=optimizer)

    def rescale(self, state: GradientState, factor: Any) -> GradientState:
        return state._replace(step_size=state.step_size * factor)

    def move(self, state: GradientState, variables: Variables, reset: bool) -> GradientState:
        if reset:
            state = state._replace(
                optimizer=self.optimizer.transformation.init(variables),
                control_optimizer=self._init_control_optimizer(state.control_params),
            )
        return state._replace(variables=variables, phase=state.phase + 1)


def mixed_target(target: Target, precision: str) -> Target:
    """A target with the matrix products of its log density in a lower precision."""
    return target.with_density(
        mixed_precision(target.evaluate, precision), mixed_precision(target.terms, precision)
    )
