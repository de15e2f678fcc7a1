"""The sample sites of a model, with arguments that are polynomials in its latent sites.

The model runs once on abstract latent values. The program from these to the arguments of its
distributions is interpreted as polynomials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.discrete import ZeroInflatedProbs

from vijax.contracts import Batch, Site
from vijax.model.conjugacy.densities.table import arguments_of
from vijax.model.conjugacy.interpreter import Interpreter
from vijax.model.conjugacy.rules.arithmetic import RULES
from vijax.model.conjugacy.rules.loops import LOOPS
from vijax.model.conjugacy.rules.shapes import STRUCTURAL
from vijax.model.conjugacy.values import (
    Atom,
    Index,
    Polynomial,
    Term,
    Value,
    new_axes,
)
from vijax.model.tracing import substitution
from vijax.model.tracing.handler import Message, Record
from vijax.model.tracing.log_densities import site_mask
from vijax.model.tracing.sites import Trace, is_enumerated, plate_scale, plate_scales

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
        inner_mask: that of masks inside of its event, over the elements of the event.
        scale: the factor of its log density, `None` for 1.
        enumerated: whether it is a discrete latent.
        plate_scale: full rows over rows in use, of its plates.
        rows: for some rows of a plate, its place in the batch shape, from the right; in
            arguments and value it is the last axis of the batch. `None` for all rows.
    """

    fn: dist.Distribution
    arguments: tuple[Mapping[str, Value], ...]
    value: Value
    mask: Value | None
    inner_mask: Value | None
    scale: Value | None
    enumerated: bool
    plate_scale: float
    rows: int | None = None


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
    ) -> tuple[dict[str, Reading], dict[str, float]]:
        """The sample sites, those in `names` if given, with `states` of discrete sites.

        Returns:
            Them, and full rows over rows in use, by plate.
        """
        rows = {name: len(index) for name, index in batch.index.items()}
        shapes = {
            site.name: jax.ShapeDtypeStruct(site.on_rows(rows).shape, jnp.result_type(float))
            for site in self.sites
        }
        kept: dict[str, tuple[dist.Distribution, bool, float]] = {}
        scales: dict[str, float] = {}

        def outputs(values: dict[str, Array]) -> dict[str, Any]:
            substitute_fn = substitution.from_constrained({**self.given, **values}, states)
            trace = self.trace(
                batch, substitute_fn, with_log_density=False, arguments=_arguments, **options
            )
            scales.update(plate_scales(trace))
            found = {}
            for name, site in trace.items():
                if site["type"] != "sample" or (names is not None and name not in names):
                    continue
                kept[name] = (site["fn"], is_enumerated(site), plate_scale(trace, site))
                found[name] = _parts(trace, site)
            return found

        closed, tree = jax.make_jaxpr(outputs, return_shape=True)(shapes)
        interpreter = Interpreter(STRUCTURAL | LOOPS, RULES, self.supports)
        inputs = [site_value(site, rows) for site in sorted(self.sites, key=lambda s: s.name)]
        results = interpreter.run(closed.jaxpr, closed.consts, inputs)
        found = jax.tree.unflatten(jax.tree.structure(tree), results)
        readings = {
            name: Reading(fn, *found[name], *others) for name, (fn, *others) in kept.items()
        }
        return readings, scales


def _parts(trace: Trace, site: Message) -> tuple[Any, ...]:
    """What a site's log density is computed from, as arrays."""
    scale = site["scale"]
    if scale is not None:
        scale = scale / plate_scale(trace, site)
    mask = site_mask(site)
    record = site.get("intermediates")
    arguments = record.arguments if isinstance(record, Record) else None
    if arguments is None:
        arguments = _arguments(site["fn"])
    pairs = zip(bases(site["fn"]), arguments, strict=True)
    arguments = tuple(_over_steps(site, fn, found) for fn, found in pairs)
    return arguments, site["value"], mask, _inner_mask(site["fn"]), scale


def _arguments(fn: dist.Distribution) -> tuple[dict[str, Any], ...]:
    """The arguments of a distribution and of what it consists of."""
    return tuple(map(arguments_of, bases(fn)))


def _over_steps(site: Message, fn: dist.Distribution, arguments: dict) -> dict[str, Any]:
    """Arguments in a loop, with axes of length 1 between those of the steps and their own."""
    loops = len(site.get("_loops", ()))
    if not loops:
        return arguments
    batch = jnp.ndim(site["value"]) - loops - fn.event_dim
    found = {}
    for name, array in arguments.items():
        missing = batch - (jnp.ndim(array) - loops - event_dim(fn, name))
        own = tuple(range(loops, loops + max(missing, 0)))
        found[name] = jnp.expand_dims(array, own) if own and jnp.ndim(array) >= loops else array
    return found


def event_dim(fn: dist.Distribution, argument: str) -> int:
    """Number of the last dimensions of an argument that belong to one event."""
    constraint = fn.arg_constraints.get(argument)
    return 0 if constraint is None else constraint.event_dim


def _inner_mask(fn: dist.Distribution) -> Array | None:
    """The product of the masks inside of an event, as in `Normal(...).mask(seen).to_event(1)`."""
    found: Array | None = None
    inside = False
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        if isinstance(fn, dist.Independent):
            inside = True
            if found is not None:
                found = jnp.expand_dims(found, tuple(range(-fn.reinterpreted_batch_ndims, 0)))
        elif isinstance(fn, dist.MaskedDistribution) and inside:
            mask = jnp.asarray(fn._mask, bool)
            found = mask if found is None else found & mask
        fn = fn.base_dist
    return found


def bases(fn: dist.Distribution) -> list[dist.Distribution]:
    """The distributions inside of wrappers: one, and for mixtures the components and weights."""
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    if isinstance(fn, dist.MixtureSameFamily):
        return [*bases(fn.mixing_distribution), *bases(fn.component_distribution)]
    if isinstance(fn, ZeroInflatedProbs):
        return [fn, *bases(fn.base_dist)]
    return [fn]
