"""Validation and conversion of NumPyro autoguides and guide functions to vijax guides."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.infer.autoguide import (
    AutoDAIS,
    AutoDelta,
    AutoGuide,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoSemiDAIS,
    AutoSurrogateLikelihoodDAIS,
)

from vijax.contracts import Batch, Guide, Position, PyTree, Space, Target
from vijax.guides.composite import assign
from vijax.guides.numpyro import tracing
from vijax.guides.numpyro.autoguide import AutoPart, auto_class, copy_autoguide
from vijax.guides.numpyro.checks import (
    check_params,
    check_sites,
    check_supports,
    draws_latents_only,
    scored_sites,
)
from vijax.guides.numpyro.guide_function import DensityFunction, NumPyroFunction
from vijax.guides.numpyro.row_checks import checked_on_rows
from vijax.guides.numpyro.rows import local_sites, rows_in_use
from vijax.guides.numpyro.tracing import Arguments
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.fingerprint import fingerprint
from vijax.runtime.jaxpr import used_inputs
from vijax.runtime.jaxpr_digest import jaxpr_digest


def adapt(
    guide: Callable[..., Any] | type[AutoGuide],
    model: Callable[..., Any],
    arguments: Arguments,
    target: Target,
    space: Space | None = None,
) -> Guide:
    """A vijax guide from a NumPyro autoguide (instance or class) or guide function.

    The guide is traced abstractly, without computing values.

    Args:
        guide: the NumPyro guide; a function is called with the arguments of the model.
        model: the model function, without any `functools.partial`.
        arguments: the static part of the model's arguments, from `vijax.model.split`.
        target: the model's target.
        space: the sites to cover; by default all of the target's.

    Raises:
        GuideError: the guide's latent sites are not the model's, a shape differs, a site is
            discrete, or this kind of guide is not supported.
    """
    space = target.space if space is None else space
    if inspect.isclass(guide) and issubclass(guide, AutoGuide):
        _check_supported(guide)
        guide = _instance(guide, model)
    if isinstance(guide, AutoGuide):
        return _adapt_auto(guide, model, arguments, target, space)
    return _adapt_function(guide, model, arguments, target, space)


def _adapt_function(
    function: Callable[..., Any],
    model: Callable[..., Any],
    arguments: Arguments,
    target: Target,
    space: Space,
) -> Guide:
    label = f"guide {getattr(function, '__name__', type(function).__name__)!r}"
    if space != target.space:
        raise GuideError(
            f"{label}: expected a guide function for all sites {list(target.space.names)}, got one "
            f"for {list(space.names)}. Transforming its values to unconstrained space takes all "
            "sites. Write one function for all sites, or use vijax guides or autoguides by group."
        )
    identity = (fingerprint(function, opaque_by_identity=True), arguments.lookup)
    guide = NumPyroFunction(function, identity, arguments, target)
    if local_sites(target):
        guide = checked_on_rows(label, guide)
        space = space if guide.whole else target.on_batch.space

    scored: list[str] = []

    def trace_and_check(data: dict[str, Array], key: Array) -> tuple[Array, PyTree]:
        trace = guide.trace(None, key, Batch(data))
        check_sites(label, trace, space)
        scored.extend(scored_sites(trace))
        args, kwargs = arguments.join(data)
        model_trace = tracing.run(model, args, kwargs, key)
        check_supports(label, trace, model_trace)
        check_params(label, trace, model_trace)
        return tracing.log_prob(trace), tracing.params(trace)

    data, key = tracing.abstract_data(arguments), jax.random.key(0)
    with tracing.tracing_errors(label):
        digest = jaxpr_digest(jax.make_jaxpr(trace_and_check)(data, key))
        if not scored:
            jax.eval_shape(functools.partial(_draw_gradient, guide), data, key)
    # what the function read while it was traced, from files for example, is in the program
    guide = dataclasses.replace(guide, identity=(identity, digest), scored=tuple(scored))
    _check_supports(label, guide)
    if not _has_density(guide):
        if scored:
            raise GuideError(
                f"{label}, site {scored[0]!r}: expected a reparameterized distribution, or a guide "
                "without auxiliary sites, factors and point masses, got a distribution whose draws "
                "have no gradient in a guide whose density cannot be evaluated. Use a "
                "reparameterized one (a Normal, a transformed Normal, a mixture of Normals, ...)."
            )
        return guide
    fields = {field.name: getattr(guide, field.name) for field in dataclasses.fields(guide)}
    return DensityFunction(**fields)


def _has_density(guide: NumPyroFunction) -> bool:
    """Whether a guide function has a density at any point: its trace is deterministic given z."""
    data, key = tracing.abstract_data(guide.arguments), jax.random.key(0)
    target, dtype = guide.target, jnp.result_type(float)
    space = target.space if guide.whole else target.on_batch.space
    values = {site.name: jax.ShapeDtypeStruct(site.shape, dtype) for site in space.sites}

    def start(data: dict[str, Array], key: Array) -> PyTree:
        return tracing.params(guide.trace(None, key, Batch(data)))

    params = jax.eval_shape(start, data, key)
    latents_only = False

    def density(values: Position, key: Array, params: PyTree, data: dict[str, Array]) -> Array:
        nonlocal latents_only
        trace = guide.trace(params, key, Batch(data), values)
        latents_only = draws_latents_only(trace, space)
        return tracing.log_prob(trace, check_support=True)

    try:
        jaxpr = jax.make_jaxpr(jax.value_and_grad(density))(values, key, params, data).jaxpr
    except (RuntimeError, ValueError):  # a transform has no inverse, or one without gradient
        return False
    is_random = used_inputs(jaxpr, [True] * len(jaxpr.outvars))[len(values)]
    return latents_only and not is_random


def _draw_gradient(guide: NumPyroFunction, data: dict[str, Array], key: Array) -> PyTree:
    """Gradient of a draw; fails where JAX lacks the derivative of a distribution function."""
    start = tracing.params(guide.trace(None, key, Batch(data)))
    floating = {
        name: value
        for name, value in start.items()
        if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(value))
    }

    def log_q(floating: dict[str, PyTree]) -> Array:
        return tracing.log_prob(guide.trace(start | floating, key, Batch(data)))

    return jax.grad(log_q)(floating)


def _check_supports(label: str, guide: NumPyroFunction) -> None:
    """Raises if a support depends on the model's `param` sites, which a guide cannot access."""
    target, key = guide.target, jax.random.key(0)
    data = tracing.abstract_data(guide.arguments)
    params, _ = jax.eval_shape(target.initialize, key, Batch(data))
    if not params:
        return

    def constrained(params: PyTree, data: dict[str, Array], z: Position) -> dict[str, Array]:
        values = target.constrain(z, Batch(data, rows_in_use(target)), params, {})
        return {name: values[name] for name in z}

    z = tracing.abstract_position(target.on_batch.space)
    depends = tracing.dependent(constrained, params, data, z)
    for name, flag in depends.items():
        if flag:
            raise GuideError(
                f"{label}, site {name!r}: its support depends on the model's param sites "
                f"({sorted(params)}), which a guide function cannot access. Use a vijax guide, or "
                "define the site on a fixed support and transform it in the model."
            )


def _adapt_auto(
    guide: AutoGuide, model: Callable[..., Any], arguments: Arguments, target: Target, space: Space
) -> Guide:
    parts = tuple(_parts(guide, model, arguments, space))
    if space != target.space and any(isinstance(part.guide, AutoDelta) for part in parts):
        raise GuideError(
            f"sites {list(space.names)}: AutoDelta finds the mode in constrained space and must "
            "cover all sites. Use 'map' for a group of sites: the mode in unconstrained space."
        )
    if any(isinstance(part.guide, AutoDAIS) and part.names != target.space.names for part in parts):
        raise GuideError(
            f"sites {list(space.names)}: AutoDAIS uses the gradient of the joint log density "
            "and must cover all sites. Use another guide for a group of sites."
        )
    groups = assign([part.names for part in parts], space)
    assert len(groups) == len(parts)
    adapted = auto_class(parts)(parts, arguments, target)
    label = f"guide {type(guide).__name__}"
    z = tracing.abstract_position(space)
    with tracing.tracing_errors(label):
        values = jax.eval_shape(
            functools.partial(adapted.start, space=space), jax.random.key(0), location=z
        )
    _check_names(values)
    return adapted


def _parts(
    guide: AutoGuide, model: Callable[..., Any], arguments: Arguments, space: Space
) -> Iterator[AutoPart]:
    """The autoguides that a guide consists of, with their sites."""
    if isinstance(guide, AutoGuideList):
        for inner in guide._guides:
            if not isinstance(inner, AutoGuide):
                raise GuideError(
                    f"AutoGuideList: expected autoguides only, got {inner!r}. Write one guide "
                    "function for all sites, or use autoguides and vijax guides by site: "
                    "guide={'a': ..., 'b': ...}."
                )
            yield from _parts(inner, model, arguments, space)
        return
    _check_supported(type(guide))
    names = _autoguide_sites(guide, model, arguments, space)
    copied = copy_autoguide(guide)
    copied.prototype_trace = None
    copied.create_plates = None
    yield AutoPart(names, copied, fingerprint(copied))


def _check_supported(kind: type[AutoGuide]) -> None:
    label = f"guide {kind.__name__}"
    if issubclass(kind, AutoLaplaceApproximation):
        raise GuideError(
            f"{label}: in NumPyro it is a point mass until the fit is complete, so its draws have "
            "no variance. Use guide='laplace'."
        )
    if issubclass(kind, (AutoSemiDAIS, AutoSurrogateLikelihoodDAIS)):
        raise GuideError(
            f"{label}: not supported, because it takes a separate local or surrogate model. Use "
            "AutoDAIS on all rows, or on minibatches guide='plates' or guides.Amortized."
        )


def _autoguide_sites(
    guide: AutoGuide, model: Callable[..., Any], arguments: Arguments, space: Space
) -> tuple[str, ...]:
    """The latent sites of the autoguide's model, which may be a blocked version of the model."""
    guide_model = guide.model
    while isinstance(guide_model, functools.partial):
        guide_model = guide_model.func
    if guide_model is model or guide_model is None:
        return space.names
    label = f"guide {type(guide).__name__}"
    found: list[str] = []

    def collect_latents(data: dict[str, Array], key: Array) -> None:
        args, kwargs = arguments.join(data)
        trace = tracing.run(guide.model, args, kwargs, key)
        found.extend(
            name
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        )

    with tracing.tracing_errors(f"the model of {label}"):
        jax.eval_shape(collect_latents, tracing.abstract_data(arguments), jax.random.key(0))
    extra = sorted(set(found) - set(space.names))
    if extra:
        raise GuideError(
            f"{label}, site {extra[0]!r}: expected a guide for {list(space.names)}, got one "
            f"for a model that also has {extra}. Construct it for this model, or block those sites."
        )
    return tuple(name for name in space.names if name in found)


def _check_names(values: list[dict[str, PyTree]]) -> None:
    """Raises if two autoguides have parameters of the same name."""
    seen: set[str] = set()
    for part in values:
        repeated = sorted(seen & part.keys())
        if repeated:
            raise GuideError(
                mismatch(
                    f"guide parameter {repeated[0]!r}",
                    "one autoguide with this parameter",
                    "two",
                    "Give each autoguide a different prefix=.",
                )
            )
        seen |= part.keys()


def _instance(kind: type[AutoGuide], model: Callable[..., Any]) -> AutoGuide:
    try:
        return kind(model)
    except TypeError as error:
        raise GuideError(
            f"guide {kind.__name__}: {error}. Pass an instance, {kind.__name__}(model, ...)."
        ) from None
