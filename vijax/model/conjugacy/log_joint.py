"""`E_q log p` of a model as a function of the expectations of its latent sites.

A table of distributions (`densities`) takes arguments that are polynomials to expected log
densities. Discrete sites are eliminated from `log sum_z exp(E log p(x, z | w))`, the optimum over
their joint distribution; the expectation of every other term is a sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.discrete import ZeroInflatedProbs

from vijax.contracts import Batch
from vijax.model.conjugacy.densities.arguments import complement, data
from vijax.model.conjugacy.densities.table import row_of
from vijax.model.conjugacy.expectation import Expectation, NotConjugate
from vijax.model.conjugacy.interpreter import full_array
from vijax.model.conjugacy.quadrature import by_quadrature
from vijax.model.conjugacy.reader import Reader, Reading, Refusal, Refused, bases
from vijax.model.conjugacy.row_blocks import blocks_of, on_rows
from vijax.model.conjugacy.values import (
    Known,
    Value,
    known,
    sites_of,
)
from vijax.model.discrete.elimination import Elimination
from vijax.model.discrete.factors import Factor
from vijax.model.discrete.masks import site_masks, with_masks
from vijax.model.tracing import substitution
from vijax.model.tracing.handler import Loop
from vijax.runtime.precision import full_precision

Values = Mapping[Any, Any]
Part = Callable[[dict[str, Reading]], dict[str, Reading]]  # sites to some of their rows


def expected_log_density(
    expectation: Expectation,
    name: str,
    reading: Reading,
    masked: bool = True,
    averaged: bool = False,
) -> Array:
    """`E log p` of a site, elementwise over its batch, masked and scaled.

    Args:
        expectation: takes values to expectations.
        name: of the site.
        reading: the site as it was read.
        masked: whether its masks are applied.
        averaged: whether only the sum of the result matters.

    Raises:
        Refused: it is not conditionally conjugate.
    """
    expectation.site = name
    if not masked:
        reading = reading._replace(mask=None)
    expectation.averaged = averaged and _affine_in_squares(reading)
    try:
        with full_precision():
            found = _elementwise(expectation, reading.fn, list(reading.arguments), reading)
        if reading.mask is not None:
            found = jnp.where(_array(reading.mask, "mask").astype(bool), found, 0.0)
        if reading.scale is not None:
            found = found * _array(reading.scale, "scale factor")
        if reading.rows is not None:
            found = jnp.moveaxis(found, -1, -reading.rows)
    except NotConjugate as error:
        latents = tuple(sorted(_latents(reading, error.argument)))
        raise Refused([Refusal(name, error.argument, error.reason, latents)]) from None
    return found


def _affine_in_squares(reading: Reading) -> bool:
    """Whether all elements of a site have the same weight and are affine in expected squares."""
    plain = reading.mask is None and reading.inner_mask is None and reading.scale is None
    kinds = {type(fn) for fn in bases(reading.fn)}
    return plain and kinds <= {dist.Normal, dist.MultivariateNormal}


def _array(value: Value, what: str) -> Array:
    if not isinstance(value, Known):
        raise NotConjugate(f"depends on {', '.join(sorted(sites_of(value)))}", what)
    return jnp.asarray(full_array(value))


def _latents(reading: Reading, argument: str) -> frozenset[str]:
    """The latent sites that an argument depends on, if any, or else all arguments and the value."""
    named = [found[argument] for found in reading.arguments if argument in found]
    own = frozenset[str]().union(*map(sites_of, named))
    everything = [value for found in reading.arguments for value in found.values()]
    masks = reading.mask, reading.inner_mask
    rest = [v for v in (reading.value, *masks, reading.scale) if v is not None]
    return own or frozenset[str]().union(*map(sites_of, (*everything, *rest)))


def _elementwise(
    expectation: Expectation, fn: dist.Distribution, arguments: list, reading: Reading
) -> Array:
    """Without masks around the event, over the batch of a distribution."""
    if isinstance(fn, dist.MaskedDistribution):
        return _elementwise(expectation, fn.base_dist, arguments, reading)
    if isinstance(fn, dist.Independent):
        found = _elementwise(expectation, fn.base_dist, arguments, reading)
        last = 0 if reading.rows is None else 1
        axes = tuple(range(-fn.reinterpreted_batch_ndims - last, -last))
        return jnp.sum(found, axis=axes) if axes else found
    if isinstance(fn, dist.ExpandedDistribution):
        found = _elementwise(expectation, fn.base_dist, arguments, reading)
        if _may_be_constant(reading):
            return found
        return jnp.broadcast_to(found, jnp.broadcast_shapes(found.shape, fn.batch_shape))
    found = _unwrapped(expectation, fn, arguments, reading)
    if reading.inner_mask is None:
        return found
    return jnp.where(_array(reading.inner_mask, "mask").astype(bool), found, 0.0)


def _may_be_constant(reading: Reading) -> bool:
    """Whether a log density may be of length 1 in plates and loops: see `Elimination`."""
    return reading.enumerated and reading.fn.event_dim == 0


def _unwrapped(
    expectation: Expectation, fn: dist.Distribution, arguments: list, reading: Reading
) -> Array:
    """Of a distribution that is in no wrapper."""
    if isinstance(fn, dist.MixtureSameFamily):
        return _mixture(expectation, fn, arguments, reading)
    if isinstance(fn, ZeroInflatedProbs):
        return _zero_inflated(expectation, fn, arguments, reading)
    value = _masked_value(reading, fn)
    found = _row(expectation, fn, arguments[0], value)
    # the steps of a loop are dimensions of the value, but not of the distribution in its body
    sizes = tuple(axis.size for axis in value.dims)
    batch = sizes[: len(sizes) - len(fn.event_shape)]
    if _may_be_constant(reading):
        return jnp.broadcast_to(found, (1,) * (len(batch) - found.ndim) + found.shape)
    return jnp.broadcast_to(found, jnp.broadcast_shapes(found.shape, fn.batch_shape, batch))


def _row(
    expectation: Expectation, fn: dist.Distribution, arguments: Mapping[str, Value], value: Value
) -> Array:
    try:
        return _exact(expectation, fn, arguments, value)
    except NotConjugate as error:
        try:
            found = by_quadrature(expectation, fn, arguments, value)
        except NotConjugate:
            raise error from None
        if found is None:
            raise
        return found


def _exact(
    expectation: Expectation, fn: dist.Distribution, arguments: Mapping[str, Value], value: Value
) -> Array:
    row = row_of(fn)
    if row is not None:
        return row[1](expectation, arguments, value)
    latent = sorted(frozenset[str]().union(*map(sites_of, (*arguments.values(), value))))
    if latent:
        raise NotConjugate(
            f"has distribution {type(fn).__name__} of {', '.join(latent)}, which has no "
            "conjugate form here"
        )
    leaves = [data(one, name) for name, one in arguments.items()]
    known_fn = jax.tree.unflatten(jax.tree.structure(fn), leaves)
    return known_fn.log_prob(data(value, "value"))


def _masked_value(reading: Reading, fn: dist.Distribution) -> Value:
    """The value with masked entries, which may be missing, replaced by ones."""
    value = reading.value
    for mask, of in ((reading.mask, reading.fn), (reading.inner_mask, fn)):
        if isinstance(value, Known) and isinstance(mask, Known):
            array = jnp.asarray(full_array(value))
            chosen = jnp.asarray(full_array(mask)).astype(bool)
            if reading.rows is None:
                chosen = chosen.reshape(chosen.shape + (1,) * len(of.event_shape))
            else:  # the rows are the last axis of the innermost batch
                inside = len(fn.event_shape)
                between = (1,) * (len(of.event_shape) - inside)
                shape = *chosen.shape[:-1], *between, chosen.shape[-1]
                chosen = chosen.reshape(shape + (1,) * inside)
            value = known(jnp.where(chosen, array, jnp.ones((), array.dtype)))
    return value


def _zero_inflated(expectation: Expectation, fn: Any, arguments: list, reading: Reading) -> Array:
    """`log(gate + (1 - gate) p(0))` at zero, at the optimum over which of the two a zero is."""
    y = data(reading.value, "value")
    inside = _elementwise(expectation, fn.base_dist, arguments[1:], reading)
    gate = arguments[0]["gate"]
    with expectation.about("gate"):
        expectation.augmented("which zeros are excess")
        log_gate, rest = expectation.log(gate), complement(expectation, gate)
    return jnp.where(y == 0, jnp.logaddexp(log_gate, rest + inside), rest + inside)


def _mixture(expectation: Expectation, fn: Any, arguments: list, reading: Reading) -> Array:
    """`log sum_k exp(E log w_k + E log p_k)`, the optimum over the labels."""
    components, weights = fn.component_distribution, fn.mixing_distribution
    number = components.batch_shape[-1]
    inner = len(components.event_shape)
    value = reading.value
    if not isinstance(value, Known):
        raise NotConjugate(
            "is a latent site with a mixture distribution; write its labels as a discrete site"
        )
    expectation.augmented("the component of each row")
    array = jnp.expand_dims(jnp.asarray(full_array(value)), -1 - inner)
    inside = reading._replace(value=known(array), mask=None, inner_mask=None)
    log_p = _elementwise(expectation, components, arguments[1:], inside)
    labels = inside._replace(value=known(jnp.arange(number)))
    shaped = _elementwise(expectation, bases(weights)[0], arguments[:1], labels)
    return jax.nn.logsumexp(log_p + shaped, axis=-1)


def expected_log_joint(
    reader: Reader,
    marginalization: Any,
    expectation: Expectation,
    batch: Batch,
    in_blocks: bool = True,
    some_rows: bool = False,
    num_steps: int | None = None,
) -> dict[str, Array]:
    """`E_q log p` by site; those that depend on discrete sites are one entry, by all their names.

    Discrete sites have their optimal distribution.

    Args:
        reader: reads the model.
        marginalization: of its discrete sites, `None` without.
        expectation: takes values to expectations.
        batch: the data.
        in_blocks: whether many rows of discrete sites are eliminated in blocks.
        some_rows: whether a sample of many rows stands for all of them.
        num_steps: of loops with discrete sites, how many after the first; all by default.

    Raises:
        Refused: some sites are not conditionally conjugate.
    """
    specs = {} if marginalization is None else marginalization.plan.specs
    readings, scales = reader.read(batch, {})
    found: dict[str, Array] = {}
    errors: list[Refusal] = []
    for name, reading in readings.items():
        if name not in specs:
            log_density = _attempt(errors, expectation, name, reading, averaged=True)
            found[name] = reading.plate_scale * jnp.sum(log_density)
    if specs:
        plan = marginalization.plan
        split = in_blocks and not marginalization.padding
        blocks = blocks_of(plan, readings) if split else None

        def eliminated(part: Part | None = None, rows: Mapping[Any, int] | None = None) -> Array:
            state = reader, marginalization, expectation, batch, errors
            factors, sizes = _factors(*state, part, num_steps)
            elimination = Elimination(plan.variables, scales, {**sizes, **(rows or {})})
            return elimination.log_total(factors.values())

        def of_rows(rows: Array) -> Array:
            assert blocks is not None
            part = functools.partial(on_rows, plan, blocks.plate, rows)
            return eliminated(part, {blocks.plate: rows.size})

        if blocks is None:
            total = eliminated()
        else:
            total = blocks.estimate(of_rows) if some_rows else blocks.sum(of_rows)
        found[", ".join(specs)] = total
    if errors:
        raise Refused(errors)
    return found


def _attempt(
    errors: list[Refusal],
    expectation: Expectation,
    name: str,
    reading: Reading,
    masked: bool = True,
    averaged: bool = False,
) -> Array:
    """An expected log density; what is not conjugate is collected."""
    try:
        return expected_log_density(expectation, name, reading, masked, averaged)
    except Refused as error:
        errors.extend(error.refusals)
        return jnp.zeros(jax.eval_shape(lambda: jnp.zeros(reading.fn.batch_shape)).shape)


def _length(dim: Any, size: int, num_steps: int | None) -> int:
    """The length of a plate, or of a loop with its first step and `num_steps` others."""
    if not isinstance(dim, Loop):
        return size
    return dim.length if num_steps is None else min(dim.length, 1 + num_steps)


def _factors(
    reader: Reader,
    marginalization: Any,
    expectation: Expectation,
    batch: Batch,
    errors: list[Refusal],
    part: Part | None = None,
    num_steps: int | None = None,
) -> tuple[dict[Any, Factor], dict[Any, int]]:
    """The factors that depend on discrete sites, as those of `Marginalization`, or a part.

    Returns:
        Them, of length 1 along plates and loops in which they are constant, and the lengths of all
        rows.
    """
    plan, padding = marginalization.plan, marginalization.padding
    sizes: dict[Any, int] = {}

    def run(states: Any, first_step: bool) -> dict[str, Array]:
        readings, _ = reader.read(
            batch,
            states,
            frozenset(plan.specs),
            vectorized_loops=plan.loops,
            first_step=first_step,
            num_steps=num_steps,
        )
        for name, spec in plan.specs.items():
            axes = zip(spec.dims, readings[name].value.dims, strict=False)
            sizes.update({dim: _length(dim, axis.size, num_steps) for dim, axis in axes})
        readings = readings if part is None else part(readings)
        return {
            name: _attempt(errors, expectation, name, readings[name], name not in padding)
            for name in plan.specs
        }

    factors: dict[Any, Factor] = plan.factors(run)
    if not padding:
        return factors, sizes
    trace = reader.trace(batch, substitution.at_origin, with_log_density=False)
    return with_masks(factors, site_masks(trace, plan), padding, plan), sizes
