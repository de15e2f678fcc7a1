"""Stochastic gradient descent on an objective, with any optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vijax.contracts import (
    Algorithm,
    Axes,
    Batch,
    ControlVariateObjective,
    Guide,
    Info,
    NonElboObjective,
    Objective,
    PyTree,
    LossContext,
    Target,
    Variables,
)
from vijax.runtime.fingerprint import fingerprint
from vijax.runtime.precision import check_precision, mixed_precision


class GradientState(NamedTuple):
    """Where a fit is.

    Attributes:
        variables: what is fitted.
        mutable: the model's mutable state.
        optimizer: the optimizer's state.
        step_size: a factor.
        phase: as in `LossContext`.
        controls: parameters of the objective's control variates, without leaves if it has none.
        control_optimizer: the state of their optimizer, likewise.
    """

    variables: Variables
    mutable: dict[str, PyTree]
    optimizer: PyTree
    step_size: Array
    phase: Array
    controls: PyTree = ()
    control_optimizer: PyTree = ()


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

    Parameters of the objective's control variates, see `ControlVariateObjective`, take a step after each of
    these, with the gradient of the squared norm of the gradient. Source: Backpropagation through
    the void, Grathwohl, Choi, Wu, Roeder, Duvenaud, 2018, algorithm 1.

    Args:
        objective: the loss.
        optimizer: any optax transformation; line searches and `optax.lbfgs` receive the value,
            gradient and value function of the step's own draws.
        precision: `"bfloat16"` takes the model's matrix products and convolutions in it, see
            `vijax.fit`; `None` changes nothing.
        control_optimizer: optimizer of the control variates' parameters, whose step size stays as it is.

    Raises:
        ValueError: the precision is another one.
    """

    objective: Objective
    optimizer: Optimizer
    precision: str | None = dataclasses.field(default=None, kw_only=True)
    control_optimizer: Optimizer = dataclasses.field(default=Adam(0.01), kw_only=True)

    def __post_init__(self) -> None:
        check_precision(self.precision)

    @property
    def maximizes_elbo(self) -> bool:
        return not isinstance(self.objective, NonElboObjective)

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
        begun = GradientState(variables, mutable, state, one, zero)
        if isinstance(self.objective, ControlVariateObjective):
            setting = LossContext(mutable, key, target, guide, batch, zero)
            begun = begun._replace(control_params=self.objective.init_control_params(setting))
        return begun._replace(control_optimizer=self._ready(begun.controls))

    def _ready(self, controls: PyTree) -> PyTree:
        """The state in which parameters of control variates begin to be learned."""
        return self.control_optimizer.transformation.init(controls) if jax.tree.leaves(controls) else ()

    def step(
        self, state: GradientState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[GradientState, Info]:
        if self.precision is not None:
            target = _mixed_target(target, self.precision)
        setting = LossContext(state.mutable, key, target, guide, batch, state.phase, state.control_params)

        def loss_of(
            variables: Variables, controls: PyTree = state.control_params
        ) -> tuple[Array, dict[str, PyTree]]:
            return self.objective(variables, setting._replace(control_params=controls))

        def found(controls: PyTree) -> tuple[tuple[Array, dict[str, PyTree]], Variables]:
            return jax.value_and_grad(loss_of, has_aux=True)(state.variables, controls)

        def squared(controls: PyTree) -> tuple[Array, Any]:
            after = found(controls)
            return optax.tree_utils.tree_norm(after[1], squared=True), after

        if jax.tree.leaves(state.control_params):
            slopes, after = jax.grad(squared, has_aux=True)(state.control_params)
            state = self._learned(state, slopes)
        else:
            after = found(state.control_params)
        (loss, mutable), gradient = after
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

    def _learned(self, state: GradientState, slopes: PyTree) -> GradientState:
        """The state with control variates moved along `-slopes`, or kept where not all are finite.

        Steps of the variables that are not finite are undone by the loop, which does not look here.
        """
        finite = jnp.isfinite(optax.tree_utils.tree_sum(slopes))
        updates, control_optimizer = self.control_optimizer.transformation.update(slopes, state.control_optimizer, state.control_params)
        moved = (optax.apply_updates(state.control_params, updates), control_optimizer)
        kept = (state.control_params, state.control_optimizer)
        controls, control_optimizer = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, kept)
        return state._replace(control_params=controls, control_optimizer=control_optimizer)

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
        whole = state._replace(variables=None, optimizer=None)  # type: ignore[arg-type]
        rest = jax.tree.map(lambda _: Axes(), whole)
        return rest._replace(variables=axes, optimizer=optimizer)

    def rescale(self, state: GradientState, factor: Any) -> GradientState:
        return state._replace(step_size=state.step_size * factor)

    def move(self, state: GradientState, variables: Variables, forget: bool) -> GradientState:
        if forget:
            state = state._replace(
                optimizer=self.optimizer.transformation.init(variables),
                control_optimizer=self._ready(state.control_params),
            )
        return state._replace(variables=variables, phase=state.phase + 1)


def _mixed_target(target: Target, precision: str) -> Target:
    """A target whose log density has its products in a lower precision."""
    return target.with_density(mixed_precision(target.evaluate, precision), mixed_precision(target.terms, precision))
