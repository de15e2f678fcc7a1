"""Stochastic variational inference: natural gradients of conjugate models on minibatches."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Algorithm, Axes, Batch, Guide, Info, PyTree, Target, Variables
from vijax.guides.conjugate import BoundConjugate, Conjugate
from vijax.runtime.errors import GuideError
from vijax.solvers.block_updates import entropy, expected_log_joint, local_blocks, solve_local


class StochasticVIState(NamedTuple):
    """The state of stochastic variational inference.

    Attributes:
        variables: the families of the blocks, by name.
        mutable: the model's mutable state, unchanged.
        factor: of the constant rate.
        steps: number of steps taken.
    """

    variables: Variables
    mutable: dict[str, PyTree]
    factor: Array
    steps: Array


@dataclasses.dataclass(frozen=True)
class StochasticVI(Algorithm):
    """Stochastic variational inference (SVI) for `guide="conjugate"`.

    A step solves the local blocks of the rows of its batch by coordinate ascent, and moves the
    natural parameters of the global blocks towards what they would be if all rows were like these:
    `eta <- (1 - r) eta + r dL/d(mean parameters)`, a step of size `r` along the natural gradient.
    Source: Stochastic Variational Inference, Hoffman, Blei, Wang and Paisley, 2013, whose rates
    `(t + delay)^-forgetting` are bounded below by a constant: the averages of iterates at constant
    rates have less noise. `fit` reduces the constant when the iterates are stationary.

    Args:
        rate: the constant, between 0 and 1.
        forgetting: exponent of the decreasing rate, in (0.5, 1].
        delay: steps by which it is delayed; 1 for a first step to the optimum of the first batch.

    Raises:
        ValueError: an argument is out of its range.
    """

    rate: float = 0.1
    forgetting: float = 0.7
    delay: float = 1.0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("rate", 0 < self.rate <= 1, "a number in (0, 1]"),
            ("forgetting", 0.5 < self.forgetting <= 1, "a number in (0.5, 1]"),
            ("delay", self.delay >= 1, "a number of at least 1"),
        ):
            if not valid:
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)!r}.")

    @property
    def default_guide(self) -> Guide:
        return Conjugate()

    def init(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
    ) -> StochasticVIState:
        if not isinstance(guide, BoundConjugate):
            raise GuideError(f"algorithm: expected guide='conjugate' for {self!r}, got {guide!r}.")
        return StochasticVIState(variables, mutable, jnp.ones(()), jnp.zeros((), jnp.int32))

    def step(
        self, state: StochasticVIState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[StochasticVIState, Info]:
        assert isinstance(guide, BoundConjugate)
        plan, families = guide.plan, state.variables.guide
        local = local_blocks(target, plan)
        families = solve_local(target, plan, families, batch, local)
        names = [name for name in families if name not in local]
        expected, gradient = expected_log_joint(target, plan, families, batch, names)
        loss = -(expected + entropy(target, plan, families))
        rate = self._rate(state)
        families = families | {name: families[name].step(g, rate) for name, g in gradient.items()}
        variables = state.variables._replace(guide=families)
        return state._replace(variables=variables, steps=state.steps + 1), Info(loss)

    def _rate(self, state: StochasticVIState) -> Array:
        decreasing = (state.steps + self.delay) ** -self.forgetting
        return jnp.maximum(self.rate * state.factor, decreasing)

    def row_axes(self, state: StochasticVIState, axes: Variables) -> StochasticVIState:
        shared = jax.tree.map(lambda _: Axes(), state._replace(variables=None))  # type: ignore[arg-type]
        return shared._replace(variables=axes)

    def rescale(self, state: StochasticVIState, factor: float | Array) -> StochasticVIState:
        return state._replace(factor=state.factor * factor)

    def move(
        self, state: StochasticVIState, variables: Variables, reset: bool
    ) -> StochasticVIState:
        return state._replace(variables=variables)
