"""IVON, the improved variational online Newton method: mean-field fits by one gradient a step."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.algorithms.gradient import Adam, Optimizer, mixed_target
from vijax.algorithms.model_steps import ascend_model, require_differentiable, require_shared
from vijax.contracts import (
    Algorithm,
    Axes,
    Batch,
    Guide,
    Info,
    Position,
    PyTree,
    Target,
    Variables,
)
from vijax.guides import MeanField
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.objectives.estimators.particles import model_batch
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.precision import check_precision


class IVONState(NamedTuple):
    """The state of IVON.

    Attributes:
        variables: the guide's parameters and the model's `param` sites.
        velocity: moving average of the gradient, by site.
        curvature: moving average of that of the likelihood, by site.
        prior: precision of the prior over the number of rows, by site, where it is normal.
        mutable: the model's mutable state.
        optimizer: the state of the optimizer of `param` sites.
        rate: factor of the step size.
        step: number of steps since the moving averages were empty.
        total: number of steps.
    """

    variables: Variables
    velocity: Position
    curvature: Position
    prior: Position
    mutable: dict[str, PyTree]
    optimizer: PyTree
    rate: Array
    step: Array
    total: Array


@dataclasses.dataclass(frozen=True)
class IVON(Algorithm):
    """Variational learning with one gradient a step, for a `MeanField` guide of a network.

    With `N` rows, prior precision `N d` and moving averages `g` and `h` of gradient and curvature,
    both per row, the guide is `N(m, 1 / (N (h + d)))`, and

    - a draw `w` of it has the gradient `g'`, of the negative log density over `N`;
    - `h' = g'_lik (w - m) / sd^2 / N`, Stein's estimate of the curvature of the likelihood;
    - `h <- h - r (h - h') + r^2 (h - h')^2 / (2 (h + d))` with `r = 1 - decay`, always positive;
    - `m <- m - rate (h_0 + d) g / (h + d)`.

    Number of rows and prior are those of the model and its plates. With
    `MeanField(noise="flipout")` the curvature has less noise, at the cost of a second pass. Source:
    Variational Learning is Effective for Large Deep Networks, Shen, Daheim, Cong, Nickl, Marconi,
    Bazan, Yokota, Gurevych, Cremers, Khan and Moellenhoff, 2024.

    Args:
        rate: step size, larger than Adam's: as large as is stable, about that of plain gradient
            descent.
        momentum: of the gradient's moving average.
        decay: of the curvature's moving average; smaller for few steps.
        curvature: `h_0`, per row, of which the first standard deviations are made.
        schedule: factor of the rate by step, any optax schedule; constant by default.
        optimizer: of `param` sites.
        precision: as in `Gradient`.

    Raises:
        ValueError: an option is out of its range.
        GuideError: on use, with another guide, or with `noise="local"`.
    """

    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 0.999
    curvature: float = 0.5
    schedule: Any = None
    optimizer: Optimizer = Adam(1e-3)
    precision: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name in ("rate", "curvature"):
            if not getattr(self, name) > 0:
                raise ValueError(mismatch(name, "a positive number", getattr(self, name)))
        for name in ("momentum", "decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(mismatch(name, "a number in [0, 1)", getattr(self, name)))

    @property
    def default_guide(self) -> Guide:
        return MeanField()

    def init(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
    ) -> IVONState:
        if not isinstance(guide, MeanField):
            raise GuideError(
                f"algorithm='ivon': expected guide='meanfield', got {guide!r}. Use one, or "
                "algorithm='gradient'."
            )
        if guide.noise == "local":  # whose outputs, not weights, are drawn
            raise GuideError(
                "algorithm='ivon': expected MeanField(noise='shared') or 'flipout', whose draws of "
                "weights show the curvature, got noise='local'. Use one of these."
            )
        require_differentiable(target, "ivon")
        require_shared(target, "ivon")
        loc = variables.guide.loc
        curvature = jax.tree.map(lambda x: jnp.full_like(x, self.curvature), loc)
        prior = jax.tree.map(jnp.zeros_like, loc)
        rate, zero = jnp.ones((), jnp.result_type(float)), jnp.zeros((), int)
        return IVONState(
            _with_scales(variables, curvature, prior, num_rows(target)),
            jax.tree.map(jnp.zeros_like, loc),
            curvature,
            prior,
            mutable,
            self.optimizer.transformation.init(variables.model),
            rate,
            zero,
            zero,
        )

    def step(
        self, state: IVONState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[IVONState, Info]:
        if self.precision is not None:
            target = mixed_target(target, self.precision)
        assert isinstance(guide, MeanField)
        params, rows = state.variables.guide, num_rows(target)
        draw = guide.draw(params, target.space, key, batch)
        noise = guide.weight_noise(params, target.space)
        ((kind, moments),) = noise.items()

        def log_density(z: Position, moments: Any, model: PyTree) -> tuple[Array, PyTree]:
            given = model_batch(key, batch)._replace(noise={kind: moments})
            return target.evaluate(z, given, model, state.mutable)

        with_gradients = jax.value_and_grad(log_density, argnums=(0, 1, 2), has_aux=True)
        inputs = draw.z, dict(moments), state.variables.model
        (log_p, mutable), (of_value, of_moments, of_model) = with_gradients(*inputs)
        step, rates = state.step + 1, 1 - self.decay
        velocity, curvature, prior, loc = {}, {}, {}, {}
        factor = self.rate * state.rate * self._scheduled(state.total)
        for name, (mean, sd) in moments.items():
            of_mean, of_sd = of_moments[name]
            # a closed-form prior has its gradient in the moments: -sd / (prior sd)^2 in sd
            d = jnp.maximum(-of_sd / sd, 0.0) / rows
            h = state.curvature[name]
            found = -of_value[name] * (draw.z[name] - mean) * (h + d)
            difference = h - found
            curvature[name] = h - rates * difference + 0.5 * (rates * difference) ** 2 / (h + d)
            gradient = -(of_value[name] + of_mean) / rows
            velocity[name] = self.momentum * state.velocity[name] + (1 - self.momentum) * gradient
            unbiased = velocity[name] / (1 - self.momentum**step)
            scale = (self.curvature + d) / (curvature[name] + d)
            loc[name], prior[name] = mean - factor * scale * unbiased, d
        guide_params = MeanFieldParams(loc, params.log_scale)
        variables = state.variables._replace(guide=guide_params)
        variables, optimizer = ascend_model(self.optimizer, state.optimizer, variables, of_model)
        new = state._replace(
            variables=_with_scales(variables, curvature, prior, rows),
            velocity=velocity,
            curvature=curvature,
            prior=prior,
            mutable=mutable,
            optimizer=optimizer,
            step=step,
            total=state.total + 1,
        )
        return new, Info(-guide.entropy(params, target.space) - log_p)

    def _scheduled(self, step: Array) -> Any:
        return 1.0 if self.schedule is None else self.schedule(step)

    def row_axes(self, state: IVONState, axes: Variables) -> IVONState:
        shared: IVONState = jax.tree.map(lambda _: Axes(), state._replace(variables=axes))
        return shared._replace(variables=axes)

    def rescale(self, state: IVONState, factor: float | Array) -> IVONState:
        return state._replace(rate=state.rate * factor)

    def move(self, state: IVONState, variables: Variables, reset: bool) -> IVONState:
        velocity, step = state.velocity, state.step
        if reset:
            velocity, step = jax.tree.map(jnp.zeros_like, velocity), jnp.zeros_like(step)
        return state._replace(variables=variables, velocity=velocity, step=step)


def num_rows(target: Target) -> int:
    """Rows of the data: of the largest plate, 1 without any."""
    return max((plate.size for plate in target.subsampling.plates.values()), default=1)


def _with_scales(
    variables: Variables, curvature: Position, prior: Position, rows: int
) -> Variables:
    """The variables with the standard deviations `1 / sqrt(N (h + d))`."""
    log_scale = {name: -0.5 * jnp.log(rows * (h + prior[name])) for name, h in curvature.items()}
    return variables._replace(guide=variables.guide._replace(log_scale=log_scale))
