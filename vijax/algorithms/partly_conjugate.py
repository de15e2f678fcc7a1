"""Steps for guides with a conjugate part: natural gradients there, an optimizer elsewhere."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vijax.algorithms.gradient import Adam, Optimizer
from vijax.contracts import Algorithm, Axes, Batch, Guide, Info, Position, PyTree, Target, Variables
from vijax.guides.composite import Composite
from vijax.guides.conjugate import BoundConjugate, values_of
from vijax.runtime.checks import check_count
from vijax.runtime.errors import GuideError, ModelError, mismatch
from vijax.solvers.block_updates import entropy, of_color, with_gradient


class PartlyConjugateState(NamedTuple):
    """The state of the steps.

    Attributes:
        variables: the guide's parameters.
        mutable: the model's mutable state.
        optimizer: of the parameters outside of the conjugate part.
        step_size: factor of both step sizes, 1 at the start.
    """

    variables: Variables
    mutable: dict[str, PyTree]
    optimizer: PyTree
    step_size: Array


@dataclasses.dataclass(frozen=True)
class PartlyConjugate(Algorithm):
    """Conjugate-computation variational inference for `guide={"site": ..., ...: "conjugate"}`.

    A step draws the other sites from their guides. Given a draw the conjugate part has an exact
    expected log joint density, of which the conjugate part takes a natural-gradient step, block by
    block, and the other guides a step of their optimizer along its gradient through the draw.
    Source: Conjugate-computation variational inference, Khan and Lin, 2017.

    Args:
        rate: step size of the natural gradients, at most 1.
        num_particles: draws of the other sites per step.
        optimizer: of the other guides' parameters.
    """

    rate: float = 0.5
    num_particles: int = 4
    optimizer: Optimizer = Adam(0.05)

    def __post_init__(self) -> None:
        check_count("num_particles", self.num_particles)
        if not 0 < self.rate <= 1:
            raise ValueError(mismatch("rate", "a number in (0, 1]", self.rate))

    def init(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
    ) -> PartlyConjugateState:
        number = conjugate_part(guide)
        if number is None:
            raise GuideError(f"algorithm: expected a guide with a conjugate part, got {guide!r}.")
        if variables.model:
            raise ModelError(
                f"param site {next(iter(variables.model))!r}: expected none in a model with a "
                "conjugate guide. Give it a prior (numpyro.sample), or use another guide."
            )
        optimizer = self.optimizer.transformation.init(_others(variables.guide, number))
        return PartlyConjugateState(variables, mutable, optimizer, jnp.ones(()))

    def step(
        self, state: PartlyConjugateState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[PartlyConjugateState, Info]:
        number = conjugate_part(guide)
        assert number is not None
        assert isinstance(guide, Composite)
        plan = guide.parts[number][1].plan
        families, others = state.variables.guide[number], _others(state.variables.guide, number)
        keys = jax.random.split(key, self.num_particles)

        def objective(others: tuple[PyTree, ...], expectations: Mapping[str, Any]) -> Array:
            """The ELBO without the entropy of the conjugate part."""

            def particle(key: Array) -> Array:
                z, log_q = _draw(guide, number, others, target, key, batch)
                values, log_det = values_of(target, z, batch)
                joint = target.functions.expected_log_joint(plan, expectations, batch, values)
                return joint + log_det - log_q

            return jnp.mean(jax.vmap(particle)(keys))

        rate, scales = self.rate * state.step_size, plan.scales(target.space)
        expectations = {name: family.expectations for name, family in families.items()}
        bound, slope = jax.value_and_grad(objective)(others, expectations)
        loss = -(bound + entropy(target, plan, families))
        for color in range(plan.num_colors):
            names = of_color(plan, color, families)
            at_draws = functools.partial(objective, others)
            _, gradient = with_gradient(at_draws, families, names, scales)
            families = families | {n: families[n].step(g, rate) for n, g in gradient.items()}
        downhill = jax.tree.map(jnp.negative, slope)
        updates, optimizer = self.optimizer.transformation.update(downhill, state.optimizer, others)
        scaled = jax.tree.map(lambda step: state.step_size * step, updates)
        others = optax.apply_updates(others, scaled)
        params = (*others[:number], families, *others[number:])
        new = state._replace(variables=Variables(params), optimizer=optimizer)
        return new, Info(loss)

    def row_axes(self, state: PartlyConjugateState, axes: Variables) -> PartlyConjugateState:
        shared: PartlyConjugateState = jax.tree.map(
            lambda _: Axes(), state._replace(variables=axes)
        )
        return shared._replace(variables=axes)

    def rescale(self, state: PartlyConjugateState, factor: float | Array) -> PartlyConjugateState:
        return state._replace(step_size=state.step_size * factor)

    def move(
        self, state: PartlyConjugateState, variables: Variables, reset: bool
    ) -> PartlyConjugateState:
        return state._replace(variables=variables)


def partly_conjugate(num_particles: int | None, optimizer: Any) -> PartlyConjugate:
    """The algorithm with these options of `fit`."""
    default = PartlyConjugate()
    return PartlyConjugate(
        num_particles=num_particles or default.num_particles,
        optimizer=default.optimizer if optimizer is None else Optimizer(optimizer),
    )


def conjugate_part(guide: Guide) -> int | None:
    """The number of the conjugate part of a composite guide, `None` without one."""
    if not isinstance(guide, Composite):
        return None
    parts = [i for i, (_, part) in enumerate(guide.parts) if isinstance(part, BoundConjugate)]
    return parts[0] if parts else None


def _others(params: tuple[PyTree, ...], number: int) -> tuple[PyTree, ...]:
    return (*params[:number], *params[number + 1 :])


def _draw(
    guide: Composite,
    number: int,
    others: tuple[PyTree, ...],
    target: Target,
    key: Array,
    batch: Batch,
) -> tuple[Position, Array]:
    """A draw of all sites outside of the conjugate part."""
    parts = [part for i, part in enumerate(guide.parts) if i != number]
    z: Position = {}
    log_q = jnp.zeros(())
    for i, ((names, part), params) in enumerate(zip(parts, others, strict=True)):
        draw = part.draw(params, target.space.subset(names), jax.random.fold_in(key, i), batch)
        z, log_q = {**z, **draw.z}, log_q + draw.log_q
    return z, log_q
