"""`E_q log p` of a model as a function of the expectations of its latent sites.

The model runs once on abstract latent values. The program from these to the arguments of its
distributions is interpreted as polynomials, and a table of distributions (`densities`) takes these
to expected log densities. Discrete sites are eliminated from `log sum_z exp(E log p(x, z | w))`,
the optimum over their joint distribution; the expectation of every other term is a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.contracts import Batch, Site
from vijax.model.conjugacy.densities.arguments import data
from vijax.model.conjugacy.densities.table import arguments_of, row_of
from vijax.model.conjugacy.expectation import Expectation, NotConjugate
from vijax.model.conjugacy.interpreter import Interpreter, full_array
from vijax.model.conjugacy.rules.arithmetic import RULES
from vijax.model.conjugacy.rules.shapes import STRUCTURAL
from vijax.model.conjugacy.values import (
    Atom,
    Index,
    Known,
    Polynomial,
    Term,
    Value,
    known,
    new_axes,
    sites_of,
)
from vijax.model.discrete.elimination import Elimination
from vijax.model.discrete.factors import Factor
from vijax.model.tracing import substitution
from vijax.model.tracing.handler import Message
from vijax.model.tracing.log_densities import site_mask
from vijax.model.tracing.sites import Trace, is_enumerated, plate_scale, plate_scales
from vijax.runtime.precision import full_precision

Values = Mapping[Any, Any]


class Refusal(NamedTuple):
    """Why a site is not conditionally conjugate.

    Attributes:
        site: the site.
        argument: the argument of its distribution, `""` for the distribution itself.
        reason: in words.
        latents: the latent sites that it depends on.
    """

    site: str
    argument: str
    reason: str
    latents: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f"{self.argument!r} of " if self.argument else ""
        return f"{of}site {self.site!r} {self.reason}"


class Refused(Exception):
    """Sites that are not conditionally conjugate: `refusals`."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        super().__init__("; ".join(map(str, refusals)))
        self.refusals = tuple(dict.fromkeys(refusals))


class Reading(NamedTuple):
    """A sample site as it was read.

    Attributes:
        fn: its distribution, for its classes and shapes; arguments are abstract.
        arguments: those of its base distributions, innermost first.
        value: its value.
        mask: the product of its masks, `None` without.
        scale: the factor of its log density, `None` for 1.
        enumerated: whether it is a discrete latent.
    """

    fn: dist.Distribution
    arguments: tuple[Mapping[str, Value], ...]
    value: Value
    mask: Value | None
    scale: Value | None
    enumerated: bool


def support_kind(fn: dist.Distribution) -> str:
    """The kind of support of a latent site: what functions of it are statistics."""
    support = fn.support
    while isinstance(support, dist.constraints.independent):
        support = support.base_constraint
    if support is dist.constraints.real:
        return "real"
    if support is dist.constraints.positive or support is dist.constraints.nonnegative:
        return "positive"
    if support is dist.constraints.unit_interval:
        return "unit"
    if support is dist.constraints.simplex:
        return "simplex"
    if support is dist.constraints.positive_definite:
        return "matrix"
    if isinstance(support, dist.constraints._Interval):
        bounds = support.lower_bound, support.upper_bound
        if all(isinstance(b, (int, float)) for b in bounds) and bounds == (0, 1):
            return "unit"
    return "other"


def site_value(site: Site, rows: Mapping[str, int]) -> Polynomial:
    """A latent site as a polynomial in itself."""
    dims = new_axes(site.on_rows(rows).shape)
    entries = tuple(axis if axis.size > 1 else Index(0, ()) for axis in dims)
    return Polynomial(dims, (Term((), (Atom(site.name, "power", 1, entries),)),))


class Reader:
    """Reads a model with its latent sites.

    Args:
        trace: runs the model, `TracedModel.trace`.
        sites: the continuous latent sites to read.
        supports: their kinds of support.
        given: values of all others, which are like data.
    """

    def __init__(
        self,
        trace: Callable[..., Trace],
        sites: tuple[Site, ...],
        supports: dict[str, str],
        given: Values = MappingProxyType({}),
    ) -> None:
        self.trace, self.sites, self.supports, self.given = trace, sites, supports, given

    def read(
        self, batch: Batch, states: Values, names: frozenset[str] | None = None, **options: Any
    ) -> dict[str, Reading]:
        """The sample sites, those in `names` if given, with `states` of discrete sites."""
        rows = {name: len(index) for name, index in batch.index.items()}
        shapes = {
            site.name: jax.ShapeDtypeStruct(site.on_rows(rows).shape, jnp.result_type(float))
            for site in self.sites
        }
        kept: dict[str, tuple[dist.Distribution, bool]] = {}

        def outputs(values: dict[str, Array]) -> dict[str, Any]:
            substitute_fn = substitution.from_constrained({**self.given, **values}, states)
            trace = self.trace(batch, substitute_fn, with_log_density=False, **options)
            found = {}
            for name, site in trace.items():
                if site["type"] != "sample" or (names is not None and name not in names):
                    continue
                kept[name] = (site["fn"], is_enumerated(site))
                found[name] = _parts(trace, site)
            return found

        closed, tree = jax.make_jaxpr(outputs, return_shape=True)(shapes)
        interpreter = Interpreter(STRUCTURAL, RULES, self.supports)
        inputs = [site_value(site, rows) for site in sorted(self.sites, key=lambda s: s.name)]
        results = interpreter.run(closed.jaxpr, closed.consts, inputs)
        found = jax.tree.unflatten(jax.tree.structure(tree), results)
        readings = {}
        for name, (fn, enumerated) in kept.items():
            arguments, value, mask, scale = found[name]
            readings[name] = Reading(fn, arguments, value, mask, scale, enumerated)
        return readings


def _parts(trace: Trace, site: Message) -> tuple[Any, ...]:
    """What a site's log density is computed from, as arrays."""
    scale = site["scale"]
    if scale is not None:
        scale = scale / plate_scale(trace, site)
    mask = site_mask(site)
    base = _bases(site["fn"])
    arguments = tuple(map(arguments_of, base))
    return arguments, site["value"], mask, scale


def _bases(fn: dist.Distribution) -> list[dist.Distribution]:
    """The distributions inside of wrappers: one, and for mixtures the components and weights."""
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    if isinstance(fn, dist.MixtureSameFamily):
        return [*_bases(fn.mixing_distribution), *_bases(fn.component_distribution)]
    return [fn]


# ---- expected log densities


def expected_log_density(expectation: Expectation, name: str, reading: Reading) -> Array:
    """`E log p` of a site, elementwise over its batch, masked and scaled.

    Raises:
        Refused: it is not conditionally conjugate.
    """
    expectation.site = name
    try:
        with full_precision():
            found = _elementwise(expectation, reading.fn, list(reading.arguments), reading)
        if reading.mask is not None:
            found = jnp.where(_array(reading.mask, "mask").astype(bool), found, 0.0)
        if reading.scale is not None:
            found = found * _array(reading.scale, "scale factor")
    except NotConjugate as error:
        latents = tuple(sorted(_latents(reading, error.argument)))
        raise Refused([Refusal(name, error.argument, error.reason, latents)]) from None
    return found


def _array(value: Value, what: str) -> Array:
    if not isinstance(value, Known):
        raise NotConjugate(f"depends on {', '.join(sorted(sites_of(value)))}", what)
    return jnp.asarray(full_array(value))


def _latents(reading: Reading, argument: str) -> frozenset[str]:
    """The latent sites that an argument depends on, if any, or else all arguments and the value."""
    named = [found[argument] for found in reading.arguments if argument in found]
    own = frozenset[str]().union(*map(sites_of, named))
    everything = [value for found in reading.arguments for value in found.values()]
    rest = [v for v in (reading.value, reading.mask, reading.scale) if v is not None]
    return own or frozenset[str]().union(*map(sites_of, (*everything, *rest)))


def _elementwise(
    expectation: Expectation, fn: dist.Distribution, arguments: list, reading: Reading
) -> Array:
    """Without masks, over the batch of a distribution."""
    if isinstance(fn, dist.MaskedDistribution):
        return _elementwise(expectation, fn.base_dist, arguments, reading)
    if isinstance(fn, dist.Independent):
        found = _elementwise(expectation, fn.base_dist, arguments, reading)
        axes = tuple(range(-fn.reinterpreted_batch_ndims, 0))
        return jnp.sum(found, axis=axes) if axes else found
    if isinstance(fn, dist.ExpandedDistribution):
        found = _elementwise(expectation, fn.base_dist, arguments, reading)
        return jnp.broadcast_to(found, fn.batch_shape)
    if isinstance(fn, dist.MixtureSameFamily):
        return _mixture(expectation, fn, arguments, reading)
    found = _row(expectation, fn, arguments[0], _masked_value(reading, fn))
    return jnp.broadcast_to(found, jnp.broadcast_shapes(found.shape, fn.batch_shape))


def _row(
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
    leaves = [data(arguments[str(i)], "") for i in range(len(arguments))]
    known_fn = jax.tree.unflatten(jax.tree.structure(fn), leaves)
    return known_fn.log_prob(data(value, "value"))


def _masked_value(reading: Reading, fn: dist.Distribution) -> Value:
    """The value with masked entries, which may be missing, replaced by ones."""
    value, mask = reading.value, reading.mask
    if mask is None or not isinstance(value, Known) or not isinstance(mask, Known):
        return value
    array = jnp.asarray(full_array(value))
    chosen = jnp.asarray(full_array(mask)).astype(bool)
    chosen = chosen.reshape(chosen.shape + (1,) * len(reading.fn.event_shape))
    return known(jnp.where(chosen, array, jnp.ones((), array.dtype)))


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
    array = jnp.expand_dims(jnp.asarray(full_array(value)), -1 - inner)
    inside = reading._replace(value=known(array), mask=None)
    log_p = _elementwise(expectation, components, arguments[1:], inside)
    labels = reading._replace(value=known(jnp.arange(number)), mask=None)
    shaped = _elementwise(expectation, _bases(weights)[0], arguments[:1], labels)
    return jax.nn.logsumexp(log_p + shaped, axis=-1)


def expected_log_joint(
    reader: Reader, marginalization: Any, expectation: Expectation, batch: Batch
) -> Array:
    """`E_q log p(data, latents)` with discrete sites at their optimal distribution, a scalar."""
    specs = {} if marginalization is None else marginalization.plan.specs
    readings = reader.read(batch, {})
    trace = reader.trace(batch, substitution.at_origin, with_log_density=False)
    scales = plate_scales(trace)
    total = jnp.zeros(())
    errors: list[Refusal] = []
    for name, reading in readings.items():
        if name in specs:
            continue
        found = _attempt(errors, expectation, name, reading)
        plates = {frame.name for frame in trace[name]["cond_indep_stack"]}
        factor = 1.0
        for plate in plates:
            factor *= scales.get(plate, 1.0)
        total += factor * jnp.sum(found)
    if specs:
        total += _eliminated(reader, marginalization, expectation, batch, errors, scales)
    if errors:
        raise Refused(errors)
    return total


def _attempt(errors: list[Refusal], expectation: Expectation, name: str, reading: Reading) -> Array:
    """An expected log density; what is not conjugate is collected."""
    try:
        return expected_log_density(expectation, name, reading)
    except Refused as error:
        errors.extend(error.refusals)
        return jnp.zeros(jax.eval_shape(lambda: jnp.zeros(reading.fn.batch_shape)).shape)


def _eliminated(
    reader: Reader,
    marginalization: Any,
    expectation: Expectation,
    batch: Batch,
    errors: list[Refusal],
    scales: Mapping[str, float],
) -> Array:
    plan = marginalization.plan

    def run(states: Any, first_step: bool) -> dict[str, Array]:
        readings = reader.read(
            batch,
            states,
            frozenset(plan.specs),
            vectorized_loops=plan.loops,
            first_step=first_step,
        )
        return {name: _attempt(errors, expectation, name, readings[name]) for name in plan.specs}

    factors: dict[str, Factor] = plan.factors(run)
    return Elimination(plan.variables, scales).log_total(factors.values())
