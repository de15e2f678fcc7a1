"""Turns a NumPyro autoguide or guide function into a vijax guide, after checking it."""

from __future__ import annotations

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
from vijax.guides.numpyro import running
from vijax.guides.numpyro.auto import AutoPart, auto_class, fresh
from vijax.guides.numpyro.checks import check_sites, draws_latents_only
from vijax.guides.numpyro.dependence import dependent
from vijax.guides.numpyro.function import DensityFunction, NumPyroFunction
from vijax.guides.numpyro.running import Arguments
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.fingerprint import fingerprint
from vijax.runtime.jaxpr import used_inputs


def adapt(
    guide: Callable[..., Any] | type[AutoGuide],
    model: Callable[..., Any],
    arguments: Arguments,
    target: Target,
    space: Space | None = None,
) -> Guide:
    """A vijax guide from a NumPyro autoguide (instance or class) or guide function.

    The guide is traced once, abstractly; nothing is computed.

    Args:
        guide: the NumPyro guide; a function gets the same arguments as the model.
        model: the model function, without the `functools.partial` round it.
        arguments: the static part of the model's arguments, from `vijax.model.split`.
        target: the model's target.
        space: the sites the guide is for, where they are not all of them.

    Raises:
        GuideError: the guide's latent sites are not the model's, a shape differs, a site is
            discrete or not reparameterized, or this kind of guide is not supported.
    """
    space = target.space if space is None else space
    if inspect.isclass(guide) and issubclass(guide, AutoGuide):
        _check_supported(guide)
        guide = _instance(guide, model)
    if isinstance(guide, AutoGuide):
        return _adapt_auto(guide, model, arguments, target, space)
    return _adapt_function(guide, arguments, target, space)


def _adapt_function(
    function: Callable[..., Any], arguments: Arguments, target: Target, space: Space
) -> Guide:
    label = f"guide {getattr(function, '__name__', type(function).__name__)!r}"
    if space != target.space:
        raise GuideError(
            f"{label}: expected a guide function for all sites {list(target.space.names)}, got one "
            f"for {list(space.names)}. Moving its values to unconstrained space takes all of them; "
            "write one function for every site, or use vijax guides or autoguides for groups."
        )
    guide = NumPyroFunction(function, (fingerprint(function), arguments.lookup), arguments, target)

    def inspected(data: dict[str, Array], key: Array) -> Array:
        trace = guide.trace(None, key, Batch(data))
        check_sites(label, trace, space)
        return running.log_prob(trace)

    data, key = running.abstract_data(arguments), jax.random.key(0)
    with running.tracing_errors(label):
        jax.eval_shape(inspected, data, key)
        jax.eval_shape(functools.partial(_slopes, guide), data, key)
    _check_supports(label, guide)
    if not _has_density(guide):
        return guide
    return DensityFunction(guide.function, guide.identity, arguments, target)


def _has_density(guide: NumPyroFunction) -> bool:
    """Whether a guide function has a density anywhere: its latents given, no chance is left."""
    data, key = running.abstract_data(guide.arguments), jax.random.key(0)
    space, dtype = guide.target.space, jnp.result_type(float)
    values = {site.name: jax.ShapeDtypeStruct(site.shape, dtype) for site in space.sites}

    def start(data: dict[str, Array], key: Array) -> PyTree:
        return running.params(guide.trace(None, key, Batch(data)))

    params = jax.eval_shape(start, data, key)
    latents_only = False

    def density(values: Position, key: Array, params: PyTree, data: dict[str, Array]) -> Array:
        nonlocal latents_only
        trace = guide.trace(params, key, Batch(data), values)
        latents_only = draws_latents_only(trace, space)
        return running.log_prob(trace, anywhere=True)

    try:
        jaxpr = jax.make_jaxpr(jax.value_and_grad(density))(values, key, params, data).jaxpr
    except (RuntimeError, ValueError):  # a transform has no inverse, or that has no gradient
        return False
    by_chance = used_inputs(jaxpr, [True] * len(jaxpr.outvars))[len(values)]
    return latents_only and not by_chance


def _slopes(guide: NumPyroFunction, data: dict[str, Array], key: Array) -> PyTree:
    """Gradients of a draw in the parameters: not every implicit one is known to JAX."""
    start = running.params(guide.trace(None, key, Batch(data)))
    smooth = {
        name: value
        for name, value in start.items()
        if all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(value))
    }

    def drawn(smooth: dict[str, PyTree]) -> Array:
        return running.log_prob(guide.trace(start | smooth, key, Batch(data)))

    return jax.grad(drawn)(smooth)


def _check_supports(label: str, guide: NumPyroFunction) -> None:
    """A draw does not see the model's `param` sites, so no support may depend on them."""
    target, key = guide.target, jax.random.key(0)
    data = running.abstract_data(guide.arguments)
    params, _ = jax.eval_shape(target.initialize, key, Batch(data))
    if not params:
        return

    def constrained(params: PyTree, data: dict[str, Array], z: Position) -> dict[str, Array]:
        values = target.constrain(z, Batch(data), params, {})
        return {name: values[name] for name in z}

    depends = dependent(constrained, params, data, running.abstract_position(target.space))
    for name, flag in depends.items():
        if flag:
            raise GuideError(
                f"{label}, site {name!r}: its support depends on the model's param sites "
                f"({sorted(params)}), which a guide function does not see. Use a vijax guide, or "
                "write the site over a fixed support and transform it in the model."
            )


def _adapt_auto(
    guide: AutoGuide, model: Callable[..., Any], arguments: Arguments, target: Target, space: Space
) -> Guide:
    parts = tuple(_parts(guide, model, arguments, space))
    if space != target.space and any(isinstance(part.guide, AutoDelta) for part in parts):
        raise GuideError(
            f"sites {list(space.names)}: AutoDelta finds the mode in the sites' own units and must "
            "see all of them. Use 'map' for a group of sites: the mode in unconstrained space."
        )
    if any(isinstance(part.guide, AutoDAIS) and part.names != target.space.names for part in parts):
        raise GuideError(
            f"sites {list(space.names)}: AutoDAIS follows the gradient of the whole log density "
            "and must have all of the sites. Use another guide for a group of sites."
        )
    groups = assign([part.names for part in parts], space)
    assert len(groups) == len(parts)
    adapted = auto_class(parts)(parts, arguments, target)
    label = f"guide {type(guide).__name__}"
    z = running.abstract_position(space)
    with running.tracing_errors(label):
        values = jax.eval_shape(
            functools.partial(adapted.start, space=space), jax.random.key(0), location=z
        )
    _check_names(values)
    return adapted


def _parts(
    guide: AutoGuide, model: Callable[..., Any], arguments: Arguments, space: Space
) -> Iterator[AutoPart]:
    """The autoguides inside a guide, with their sites."""
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
    names = _own_sites(guide, model, arguments, space)
    blank = fresh(guide)
    blank.prototype_trace = None
    blank.create_plates = None
    yield AutoPart(names, blank, fingerprint(blank))


def _check_supported(kind: type[AutoGuide]) -> None:
    label = f"guide {kind.__name__}"
    if issubclass(kind, AutoLaplaceApproximation):
        raise GuideError(
            f"{label}: as a NumPyro guide it is a point until training is over, so its draws carry "
            "no uncertainty. Use guide='laplace'."
        )
    if issubclass(kind, (AutoSemiDAIS, AutoSurrogateLikelihoodDAIS)):
        raise GuideError(
            f"{label}: not supported, it works on parts of the model with data of their own. Use "
            "AutoDAIS, or a vijax guide."
        )


def _own_sites(
    guide: AutoGuide, model: Callable[..., Any], arguments: Arguments, space: Space
) -> tuple[str, ...]:
    """The sites of the autoguide's own model, which may be a blocked version of the model."""
    own = guide.model
    while isinstance(own, functools.partial):
        own = own.func
    if own is model or own is None:
        return space.names
    label = f"guide {type(guide).__name__}"
    found: list[str] = []

    def inspected(data: dict[str, Array], key: Array) -> None:
        args, kwargs = arguments.join(data)
        trace = running.run(guide.model, args, kwargs, key)
        found.extend(
            name
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        )

    with running.tracing_errors(f"the model of {label}"):
        jax.eval_shape(inspected, running.abstract_data(arguments), jax.random.key(0))
    extra = sorted(set(found) - set(space.names))
    if extra:
        raise GuideError(
            f"{label}, site {extra[0]!r}: expected a guide for {list(space.names)}, got one made "
            f"for a model that also has {extra}. Make it for this model, or block those sites."
        )
    return tuple(name for name in space.names if name in found)


def _check_names(values: list[dict[str, PyTree]]) -> None:
    seen: set[str] = set()
    for part in values:
        twice = sorted(seen & part.keys())
        if twice:
            raise GuideError(
                mismatch(
                    f"guide parameter {twice[0]!r}",
                    "one autoguide that has it",
                    "two",
                    "Give each autoguide its own prefix=.",
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
