"""Sites with a value set by the user, as by the do-operator, and the sites that depend on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import Distribution

from vijax.contracts import Batch
from vijax.model.data_use import distribution_arrays
from vijax.model.traced_model import TracedModel
from vijax.model.tracing.handler import Message, Step, SubstituteFn
from vijax.model.tracing.sites import Trace, at_step, is_factor, site_shape
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.jaxpr import dependencies
from vijax.runtime.keywords import did_you_mean

_STEP = 1e-6  # from the boundary of a support, relative


def set_value(name: str, site: Message, steps: tuple[Step, ...], value: Array) -> Array:
    """The value set for a sample site or deterministic, at the current step.

    Args:
        name: of the site.
        site: its message.
        steps: of the scans it is in.
        value: broadcasts to the shape of the site over all steps.
    """
    if site["type"] == "deterministic":
        shape, dtype = jnp.shape(site["value"]), jnp.result_type(site["value"])
    else:
        shape = jnp.shape(site["value"]) if site["value"] is not None else site_shape(site)
        kind = int if site["fn"].is_discrete else float
        dtype = jnp.result_type(value, kind) if kind is float else jnp.result_type(kind)
    shape = (*(step.length for step in steps), *shape)
    return at_step(jnp.broadcast_to(value, shape).astype(dtype), steps)


def check_values(trace: Trace, do: Mapping[str, Any]) -> None:
    """Checks that a model has these sites, and that the values are some of theirs.

    Args:
        trace: an abstract trace.
        do: values by site.

    Raises:
        ModelError: a site is unknown, or a value is no number, has the wrong shape or is outside
            the support.
    """
    known = [
        name
        for name, site in trace.items()
        if site["type"] == "deterministic" or (site["type"] == "sample" and not is_factor(site))
    ]
    for name in sorted(do):
        if name not in known:
            hint = did_you_mean(name, known).strip()
            raise ModelError(mismatch("do", f"some of the sites {known}", repr(name), hint))
        if np.asarray(do[name]).dtype.kind in "OSTUMm":
            raise ModelError(mismatch(f"do[{name!r}]", "numbers", repr(do[name])))
        shape = jnp.shape(trace[name]["value"])
        try:
            value = np.broadcast_to(do[name], shape)
        except ValueError:
            expected = f"a value that broadcasts to the site's shape {shape}"
            found = f"shape {np.shape(do[name])}"
            raise ModelError(mismatch(f"do[{name!r}]", expected, found)) from None
        fn = trace[name].get("fn")
        if fn is not None and not _is_possible(fn, value):
            expected = f"a value in the site's support, {fn.support}"
            raise ModelError(mismatch(f"do[{name!r}]", expected, np.asarray(do[name])))


def _is_possible(fn: Distribution, value: np.ndarray) -> bool:
    """Whether a value is in the support or at its boundary; `True` if the support is not known.

    A scale of zero is a natural counterfactual, no effect. The support may depend on data or on
    other sites.
    """
    step = _STEP * np.maximum(1.0, np.abs(value))
    try:
        near = (fn.support(one) for one in (value, value + step, value - step))
        return bool(np.all(functools.reduce(np.logical_or, near)))
    except (jax.errors.JAXTypeError, jax.errors.UnexpectedTracerError, NotImplementedError):
        return True


def descendants(
    traced: TracedModel, trace: Trace, do: Collection[str], drawn: Callable[[str], bool]
) -> frozenset[str]:
    """The sample sites whose distribution depends on a site in `do`, directly or through others.

    Args:
        traced: the model.
        trace: an abstract trace of it.
        do: sites whose values are set.
        drawn: whether an observed site is drawn, so that others can depend on `do` through it.
    """
    nodes = {
        name: jax.ShapeDtypeStruct(jnp.shape(site["value"]), jnp.result_type(site["value"]))
        for name, site in trace.items()
        if name in do or _is_drawn(name, site, drawn)
    }
    names = sorted(nodes)  # the leaf order of a dict

    def distributions(values: dict[str, Array], data: dict[str, Array]) -> dict[str, list[Any]]:
        found = traced.trace(
            Batch(data),
            _given(values),
            with_log_density=False,
            deterministic=_given(values),
        )
        return {name: distribution_arrays(found[name]) for name in names if name not in do}

    closed, shapes = jax.make_jaxpr(distributions, return_shape=True)(
        nodes, traced.arguments.abstract()
    )
    labels = [frozenset({(name, 0)}) for name in names]
    labels += [frozenset()] * (len(closed.jaxpr.invars) - len(labels))
    leaves = dependencies(closed.jaxpr, labels)
    parents: dict[str, set[str]] = {}
    tree = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    for name, found in tree.items():
        every = jax.tree.leaves(found, is_leaf=lambda leaf: isinstance(leaf, frozenset))
        parents[name] = {label for one in every for label, _ in one}
    return _closure(parents, do)


def _is_drawn(name: str, site: Message, drawn: Callable[[str], bool]) -> bool:
    if site["type"] != "sample" or is_factor(site):
        return False
    return not site["is_observed"] or drawn(name)


def _given(values: Mapping[str, Array]) -> SubstituteFn:
    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Any:
        if name not in values:
            return None
        site["is_observed"] = False
        return at_step(values[name], steps)

    return substitute


def _closure(parents: Mapping[str, set[str]], start: Collection[str]) -> frozenset[str]:
    found, new = set[str](), set(start)
    while new:
        found |= new
        new = {name for name, above in parents.items() if above & new} - found
    return frozenset(found - set(start))
