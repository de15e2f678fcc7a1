"""Runs a model function once at given values, and reads its log density off the trace.

Each latent site asks where its value comes from at the moment it is reached, with its
distribution as the model made it at this point. A support that depends on other latents, inside
`ImproperUniform` or a `scan` too, is thus always the current one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers
from numpyro.distributions import constraints

from vijax._contracts import PyTree
from vijax._errors import ModelError, mismatch
from vijax._mixed import exact
from vijax.model.centring import LocationScale, coordinate, location_scale, log_spread, place
from vijax.model.chain import Before
from vijax.model.checks import check_discrete, check_latent, check_observed, naming
from vijax.model.drawing import drawn_value, from_drawn_value
from vijax.model.effects import (
    Record,
    Sources,
    Step,
    Values,
    copied,
    count_masks,
    without_masks,
)
from vijax.model.supports import bijector
from vijax.model.validation import known_arguments

Site = dict[str, Any]
Trace = dict[str, Site]
Sampler = Callable[[str, Site, tuple[Step, ...]], Any]
Drawn = frozenset[str] | Literal["all"]


def run(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Array,
    sampler: Sampler,
    params: Mapping[str, PyTree] | None = None,
    mutable: Mapping[str, PyTree] | None = None,
    index: Mapping[str, Array] | None = None,
    full: Mapping[str, int] | None = None,
    scored: bool = True,
    apart: frozenset[int] = frozenset(),
    first: bool = False,
    drawn: Drawn = frozenset(),
) -> Trace:
    """The model's trace, with `sampler` deciding the values of its sample sites.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        key: feeds sites left to sample and `numpyro.prng_key`.
        sampler: `(name, site, steps) -> value`, `None` to leave the site alone.
        params: `param` sites in unconstrained space; those missing take the model's start value.
        mutable: mutable state by name.
        index: rows in use of subsampled plates.
        full: their full sizes, where the model is given the rows in use only.
        scored: whether the log density will be read off the trace.
        apart: scans of whose steps the trace has but some, each seen for itself.
        first: whether that is the first step, or all others.
        drawn: discrete sites that are latents like any other, not summed out.
    """

    def sample(name: str, site: Site, steps: tuple[Step, ...]) -> Any:
        if is_latent(site) and site["fn"].is_discrete and (drawn == "all" or name in drawn):
            site["_drawn"] = True
        return sampler(name, site, steps)

    def param(name: str, site: Site) -> PyTree | None:
        return constrain_param(params[name], site) if params and name in params else None

    sources = Sources(
        sample, param, mutable or {}, index or {}, full or {}, scored, apart=apart, first=first
    )
    # seed outside: sites that have a value need no key, and no split is traced
    seeded = handlers.seed(Values(model, sources), key)
    with known_arguments():
        trace: Trace = handlers.trace(seeded).get_trace(*args, **kwargs)
    for name, (size, used) in sources.plates.items():
        if name not in trace:  # NumPyro keeps plates of control flow bodies to itself
            trace[name] = {"type": "plate", "name": name, "args": (size, used)}
    check_observed(trace)
    return trace


def is_latent(site: Mapping[str, Any]) -> bool:
    """A sample site that neither the model nor a handler inside it has given a value."""
    return site["type"] == "sample" and not site["is_observed"] and site["value"] is None


def from_unconstrained(
    z: Mapping[str, Array], centring: Mapping[str, Array] | None = None
) -> Sampler:
    """Latent values from unconstrained ones; `log |dx/dz|` is recorded beside each.

    Those of a discrete site are the numbers of its values; one without gets the first value. Where
    steps are taken side by side `Before(name)` has the number one step earlier.
    `centring` says in which coordinates sites are, see `Batch`.
    """
    weights = centring or {}

    def sampler(name: str, site: Site, steps: tuple[Step, ...]) -> Array | None:
        if not is_latent(site):
            return None
        fixed = fixed_value(site)
        if fixed is not None:
            return fixed
        if site["fn"].is_discrete and not is_drawn(site):
            return discrete_value(name, site, _state(name, z, steps))
        if name not in z:
            raise ModelError(mismatch(f"site {name!r}", "a value", f"values of {sorted(z)} only"))
        if is_drawn(site):
            least = at_step(weights[name], steps) if name in weights else 0
            return drawn_value(name, site, at_step(z[name], steps), least)
        if name in weights:
            return _place(name, site, at_step(z[name], steps), at_step(weights[name], steps))
        return _transform(site, at_step(z[name], steps))

    return sampler


def from_values(values: Mapping[str, Any], centring: Mapping[str, Array] | None = None) -> Sampler:
    """Latent values as given; the unconstrained ones are recorded beside them.

    Sites without a value are put at the origin of unconstrained space. `centring` as for
    `from_unconstrained`.
    """
    weights = centring or {}

    def sampler(name: str, site: Site, steps: tuple[Step, ...]) -> Array | None:
        if name not in values or not is_latent(site):
            return at_origin(name, site, steps)
        if is_drawn(site):
            check_shape(name, jnp.shape(values[name]), site, steps)
            least = at_step(weights[name], steps) if name in weights else 0
            return from_drawn_value(name, site, at_step(jnp.asarray(values[name]), steps), least)
        dtype = jnp.result_type(values[name], float)
        series = jnp.asarray(values[name], dtype)
        check_shape(name, jnp.shape(series), site, steps)
        x = at_step(series, steps)
        z = bijector(site["fn"].support).inverse(x)
        if name in weights:
            z = coordinate(z, at_step(weights[name], steps), _prior(name, site))
        site["intermediates"] = Record(z, jnp.zeros(()))
        return x

    return sampler


def at_origin(name: str, site: Site, steps: tuple[Step, ...]) -> Array | None:
    """A value inside the support, near the origin of unconstrained space."""
    # one, not zero: the origin is no point on a sphere
    return at_level(1.0)(name, site, steps)


def at_level(level: float | Array) -> Sampler:
    """Values with `level` in every unconstrained coordinate, and the log scales beside them."""

    def sampler(name: str, site: Site, steps: tuple[Step, ...]) -> Array | None:
        if not is_latent(site):
            return None
        fixed = fixed_value(site)
        if fixed is not None:
            return fixed
        if is_drawn(site):
            return drawn_value(name, site, jnp.zeros(site_shape(site), jnp.int32))
        if site["fn"].is_discrete:
            return discrete_value(name, site, 0)
        check_latent(name, site)
        z = jnp.full(bijector(site["fn"].support).z_shape(site_shape(site)), level)
        x = _transform(site, z)
        prior = location_scale(site["fn"])
        if prior is not None:
            spread = jnp.zeros(jnp.shape(z)) + jnp.sum(prior.scale)  # asked for what it depends on
            site["intermediates"] = site["intermediates"]._replace(log_spread=spread)
        return x

    return sampler


def discrete_value(name: str, site: Site, state: Array | int) -> Array:
    """The value of a discrete site with a number, or with numbers of the site's shape.

    Masks on it are dropped: where a masked site is not used, its own prior sums to one, and what
    is summed out stays the evidence.

    Raises:
        ModelError: the site has no finite list of values.
    """
    check_discrete(name, site)
    support = jnp.ravel(site["fn"].enumerate_support(expand=False))
    site["fn"] = without_masks(site["fn"])
    site["_states"] = len(support)
    return jnp.broadcast_to(support[state], site_shape(site))


def _state(name: str, z: Mapping[Any, Array], steps: tuple[Step, ...]) -> Array | int:
    """The number of the value of a discrete site; a scalar holds in all rows and steps."""
    moment = steps[-1].moment if steps else "now"
    state = z.get({"now": name, "before": Before(name)}.get(moment))
    if state is None:
        return 0
    return at_step(state, steps) if jnp.ndim(state) else state


def is_enumerated(site: Mapping[str, Any]) -> bool:
    """Whether a site of a trace is a discrete latent."""
    return "_states" in site


def is_drawn(site: Mapping[str, Any]) -> bool:
    """Whether a site is a discrete latent that is not summed out."""
    return "_drawn" in site


def _transform(site: Site, z: Array) -> Array:
    x, log_det = bijector(site["fn"].support).forward(z)
    site["intermediates"] = Record(z, log_det)
    return x


def _place(name: str, site: Site, w: Array, weight: Array) -> Array:
    """The value at coordinate `w` of another centring."""
    prior = _prior(name, site)
    z, stretch = place(w, weight, prior)
    x, log_det = bijector(site["fn"].support).forward(z)
    spread = log_spread(weight, prior)
    site["intermediates"] = Record(w, log_det + stretch, log_spread=spread)
    return x


def _prior(name: str, site: Site) -> LocationScale:
    found = location_scale(site["fn"])
    if found is None:
        raise ModelError(
            f"centring of site {name!r}: expected a prior with a location and a scale, such as "
            f"Normal or StudentT, got {type(site['fn']).__name__}. Leave the site out."
        )
    return found


def at_step(series: Array, steps: tuple[Step, ...]) -> Array:
    """The part of an array for a whole series that belongs to the present step."""
    for step in steps:
        series = series[step.index]
    return series


def check_shape(name: str, shape: tuple[int, ...], site: Site, steps: tuple[Step, ...]) -> None:
    """Compares the shape of a value with that of its site.

    Raises:
        ModelError: naming the site and both shapes.
    """
    expected = (*(step.length for step in steps), *site_shape(site))
    if tuple(shape) != expected:
        raise ModelError(mismatch(f"site {name!r}", f"a value of shape {expected}", f"{shape}"))


def fixed_value(site: Mapping[str, Any]) -> Array | None:
    """The value of a latent site that cannot vary: a point mass."""
    fn = site["fn"]
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)):
        fn = fn.base_dist
    return jnp.broadcast_to(fn.v, site_shape(site)) if isinstance(fn, dist.Delta) else None


def site_shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of a sample site's value."""
    return tuple(site["kwargs"].get("sample_shape", ())) + tuple(site["fn"].shape())


def latents(trace: Trace) -> Iterator[tuple[str, Site, Record]]:
    """The sites of a trace whose values came from unconstrained space."""
    for name, site in trace.items():
        record = site.get("intermediates")
        if isinstance(record, Record) and record.z is not None and not site["is_observed"]:
            yield name, site, record


def log_probs(trace: Trace, scaled: bool = True) -> dict[str, Array]:
    """Log density by sample site, elementwise over its batch; `log |Jacobian|` not included.

    Args:
        trace: from `run`.
        scaled: whether plate and `scale` factors are applied.
    """
    out = {}
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        log_prob = elementwise(site)
        if scaled and site["scale"] is not None:
            log_prob = site["scale"] * log_prob
        out[name] = log_prob
    return out


def powered(trace: Trace, names: Iterable[str]) -> dict[str, Array]:
    """Log density of some sites, elementwise, with the factors of `scale` handlers only."""
    out = {}
    for name in names:
        scale, log_prob = trace[name]["scale"], elementwise(trace[name])
        scale = None if scale is None else scale / plate_scale(trace, trace[name])
        out[name] = log_prob if scale is None else scale * log_prob
    return out


def elementwise(site: Mapping[str, Any]) -> Array:
    """Log density of a sample site over its batch, unscaled."""
    with naming(site), exact():
        return _log_prob(site)


def _log_prob(site: Mapping[str, Any]) -> Array:
    record, fn = site.get("intermediates"), site["fn"]
    if not isinstance(record, Record) or record.log_prob is None:
        return fn.log_prob(site["value"])
    log_prob = record.log_prob
    if is_enumerated(site) or is_drawn(site):
        return log_prob
    while count_masks(fn) > site["_masks"]:  # masks round the control flow primitive
        if isinstance(fn, dist.MaskedDistribution):
            log_prob = jnp.where(fn._mask, log_prob, 0.0)
        fn = fn.base_dist
    return log_prob


def log_density(trace: Trace) -> Array:
    """Log density of a trace in unconstrained space, a scalar."""
    log_prob = sum((jnp.sum(value) for value in log_probs(trace).values()), jnp.zeros(()))
    return sum(log_dets(trace).values(), log_prob)


def log_dets(trace: Trace, bent: bool = False) -> dict[str, Array]:
    """`log |dx/dz|` by latent site, scalars, for a trace from `from_unconstrained`.

    `bent` leaves sites out whose coordinates are their values, so that it is zero.
    """
    # a subsampled plate scales the Jacobian with the density; `scale` and `mask` act on the
    # density alone
    return {
        name: plate_scale(trace, site) * jnp.sum(jnp.asarray(record.log_det))
        for name, site, record in latents(trace)
        if not (bent and _is_flat(site, record))
    }


def _is_flat(site: Mapping[str, Any], record: Record) -> bool:
    """Whether the coordinates of a site are its values."""
    if is_drawn(site):
        return True
    support = site["fn"].support
    while isinstance(support, constraints._IndependentConstraint):
        support = support.base_constraint
    return support is constraints.real and record.log_spread is None


def log_spreads(trace: Trace) -> dict[str, Array]:
    """Log prior sd, given all else, of the sites in coordinates of another centring, like `z`."""
    return {
        name: record.log_spread
        for name, _, record in latents(trace)
        if record.log_spread is not None
    }


def values(trace: Trace) -> dict[str, Array]:
    """Latent sites and deterministics."""
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "deterministic" or (site["type"] == "sample" and not site["is_observed"])
    }


def mutable(trace: Trace) -> dict[str, PyTree]:
    """The mutable state that a run has left behind."""
    return {name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}


def plate_scale(trace: Trace, site: Mapping[str, Any]) -> float:
    """Full rows over rows in use, multiplied over the plates of a site."""
    scales = plate_scales(trace)
    own = {frame.name for frame in site["cond_indep_stack"]}
    return math.prod(scale for name, scale in scales.items() if name in own)


def plate_scales(trace: Trace) -> dict[str, float]:
    """Full rows over rows in use, by plate."""
    plates = {name: site["args"] for name, site in trace.items() if site["type"] == "plate"}
    return {name: size / (used or size) for name, (size, used) in plates.items()}


def constrain_param(value: PyTree, site: Mapping[str, Any]) -> PyTree:
    """A `param` site's unconstrained value, moved into its constraint."""
    constraint = param_constraint(site)
    return copied(value) if constraint is None else bijector(constraint).forward(value)[0]


def param_value(site: Mapping[str, Any]) -> PyTree:
    """A `param` site's value in a trace."""
    value = site["value"]
    for _ in range(site.get("_steps", 0)):  # a scan stacks one copy for each step
        value = jax.tree.map(lambda leaf: leaf[0], value)
    return value


def start_param(name: str, site: Mapping[str, Any]) -> PyTree:
    """A `param` site's start value in unconstrained space.

    Raises:
        ModelError: the model gives it none.
    """
    value = param_value(site)
    if value is None:
        raise ModelError(
            f"param site {name!r}: expected a start value, got none. "
            f"Write numpyro.param({name!r}, value) in the model."
        )
    constraint = param_constraint(site)
    if constraint is None:
        return jax.tree.map(_as_float, value)
    return bijector(constraint).inverse(_as_float(value))


def _as_float(leaf: Any) -> Array:
    array = jnp.asarray(leaf)
    floating = jnp.issubdtype(array.dtype, jnp.inexact) or not jnp.issubdtype(
        array.dtype, jnp.number
    )
    return array.astype(array.dtype if floating else float)


def param_constraint(site: Mapping[str, Any]) -> constraints.Constraint | None:
    """A `param` site's constraint, `None` for the real line and for network parameters."""
    constraint = site["kwargs"].get("constraint", constraints.real)
    return None if constraint is constraints.real else constraint
