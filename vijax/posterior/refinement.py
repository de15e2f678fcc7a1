"""Encodings of rows improved by gradient steps of each row's own ELBO."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import AmortizedGuide, Batch, Part, Position, PyTree, Target, Variables
from vijax.guides import MeanField
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.posterior.local_rows import (
    LocalParts,
    has_independent_coordinates,
    row_log_q,
    row_terms,
)
from vijax.posterior.result import FitResult
from vijax.runtime.errors import GuideError

_RATE = 0.1  # of natural gradients, at the start
_LARGEST = 3.0  # change of a location, in standard deviations, and of a log scale, over the rate
_CHECKS = 16  # draws by which refined rows are compared with their encodings
_WORSE = 2.0  # standard errors of that comparison, beyond which the steps have done harm


class Block(NamedTuple):
    """A block of rows of a fitted model.

    Attributes:
        target: of the block.
        plate: of the rows.
        variables: the fitted variables.
        mutable: the model's mutable state.
        batch: the rows' data.
    """

    target: Target
    plate: str
    variables: Variables
    mutable: dict[str, PyTree]
    batch: Batch


def check_refinable(result: FitResult) -> None:
    """Checks that the latents of rows are Gaussian and independent given the row's data.

    Raises:
        GuideError: naming the guide whose rows have no parameters of their own.
    """
    for part in result.guide.independent_parts(result.params, result.target.space):
        if not isinstance(part.guide, AmortizedGuide):
            continue
        by_row = isinstance(part.guide.row_guide, MeanField)
        if not (by_row and has_independent_coordinates(part.guide)):
            raise GuideError(
                "refine_steps: expected guides.Amortized for the latents of rows, got "
                f"{part.guide!r}. Use refine_steps=None."
            )


def refined(parts: LocalParts, block: Block, key: Array, num_steps: int) -> LocalParts:
    """The local parts after `natural_steps`, of rows whose bound these have not clearly lowered.

    Bounds before and after are compared by common draws.

    Args:
        parts: the factors of the guide on the block, local ones as `MeanField`.
        block: the rows.
        key: of the draws.
        num_steps: number of steps.
    """
    moving, comparing = jax.random.split(key)
    start = tuple(part.params for part in parts.local)
    end = natural_steps(parts, block, moving, num_steps)

    def gain(key: Array) -> Array:
        return _row_bounds(parts, end, block, key) - _row_bounds(parts, start, block, key)

    gains = lax.map(gain, jax.random.split(comparing, _CHECKS))
    error = gains.std(axis=0, ddof=1) / _CHECKS**0.5
    better = gains.mean(axis=0) >= -_WORSE * error  # not where it is nan
    kept = tuple(
        part._replace(params=_chosen(better, new, part, block.plate))
        for part, new in zip(parts.local, end, strict=True)
    )
    return parts._replace(local=kept)


def natural_steps(
    parts: LocalParts, block: Block, key: Array, num_steps: int
) -> tuple[MeanFieldParams, ...]:
    """The parameters of local parts after natural-gradient steps of the ELBO of each row.

    The model stays as it is. A step takes one draw, with the path gradient (sticking the landing),
    whose noise vanishes where a row's posterior is in the family: `loc + r s^2 grad`,
    `log s + r grad / 2`. The rate `r` falls from 0.1 to 0 by a cosine, so that steps settle.
    Sources: Iterative Amortized Inference, Marino, Yue, Mandt, 2018; Semi-Amortized Variational
    Autoencoders, Kim, Wiseman, Miller, Sontag, Rush, 2018.
    """

    def step(
        params: tuple[MeanFieldParams, ...], state: tuple[Array, Array]
    ) -> tuple[tuple[MeanFieldParams, ...], None]:
        rate, own = state
        gradients = jax.grad(lambda at: jnp.sum(_row_bounds(parts, at, block, own)))(params)
        return tuple(_moved(p, g, rate) for p, g in zip(params, gradients, strict=True)), None

    rates = _RATE * 0.5 * (1 + jnp.cos(jnp.pi * jnp.arange(num_steps) / num_steps))
    steps = jax.random.split(key, num_steps)
    start = tuple(part.params for part in parts.local)
    return lax.scan(step, start, (rates, steps))[0]


def _row_bounds(
    parts: LocalParts, params: tuple[MeanFieldParams, ...], block: Block, key: Array
) -> Array:
    """`log p(x_i, z_i) - log q(z_i)` of a draw of every row, `(rows,)`, with its path gradient."""
    target, plate, variables, mutable, batch = block
    z: Position = {}
    log_q = jnp.zeros(())
    keys = iter(jax.random.split(key, len(parts.shared) + len(parts.local)))
    for part in parts.shared:
        z |= part.guide.draw(part.params, part.space, next(keys), batch).z
    for part, own in zip(parts.local, params, strict=True):
        drawn = part.guide.draw(own, part.space, next(keys), batch).z
        fixed = Part(part.guide, lax.stop_gradient(own), part.space)
        log_q += row_log_q(fixed, drawn, plate, batch)
        z |= drawn
    values = target.terms(z, batch, variables.model, mutable).values
    scale = parts.local[0].space.sites[0].scale
    return row_terms(values, target.term_info(batch), plate, scale) - log_q


def _moved(params: MeanFieldParams, gradient: MeanFieldParams, rate: Array) -> MeanFieldParams:
    """A natural-gradient step of limited length; elements without a finite gradient stay."""

    def limited(change: Array) -> Array:
        change = jnp.where(jnp.isfinite(change), change, 0.0)
        return rate * jnp.clip(change, -_LARGEST, _LARGEST)

    loc, log_scale = dict(params.loc), dict(params.log_scale)
    for name in loc:
        scale = jnp.exp(log_scale[name])
        loc[name] += scale * limited(scale * gradient.loc[name])
        log_scale[name] += limited(0.5 * gradient.log_scale[name])
    return MeanFieldParams(loc, log_scale)


def _chosen(better: Array, new: MeanFieldParams, part: Part, plate: str) -> MeanFieldParams:
    """The new parameters of rows that are better, the old ones of others."""
    found = MeanFieldParams({}, {})
    for site in part.space.sites:
        ((_, axis),) = site.axes([plate]).pairs
        shape = [1] * len(site.z_shape)
        shape[axis] = -1
        where = better.reshape(shape)
        for into, after, before in zip(found, new, part.params, strict=True):
            into[site.name] = jnp.where(where, after[site.name], before[site.name])
    return found
