"""Tracing a NumPyro guide: its draw, log density, parameters, and dependence on inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to, constraints

from vijax.contracts import PyTree, Space
from vijax.guides.numpyro.implicit_reparameterization import ImplicitReparameterization
from vijax.runtime.errors import GuideError
from vijax.runtime.handler_lock import handler_lock

Trace = dict[str, dict[str, Any]]


class Arguments(Protocol):
    """The static part of the model's arguments, as returned by `vijax.model.split`."""

    @property
    def avals(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array, by name."""
        ...

    @property
    def lookup(self) -> Any:
        """A key that is equal for calls with the same trace."""
        ...

    def join(self, data: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` with the arrays of `data` filled in."""
        ...


def run(
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Array,
    params: Mapping[str, PyTree] | None = None,
    values: Mapping[str, Array] | None = None,
) -> Trace:
    """The trace of a guide function at given parameters.

    Args:
        guide: a NumPyro guide function.
        args: the model's positional arguments.
        kwargs: the model's keyword arguments.
        key: PRNG key of the draw, and of the initial values of parameters not given.
        params: `param` sites in unconstrained space.
        values: values of sites that are not sampled.
    """

    def substitute(site: dict[str, Any]) -> Any:
        if site["type"] == "param" and params and site["name"] in params:
            return constrain(params[site["name"]], site)
        if site["type"] == "sample" and values and site["name"] in values:
            return values[site["name"]]
        return None

    substituted = handlers.substitute(guide, substitute_fn=substitute)
    seeded = ImplicitReparameterization(handlers.seed(substituted, key))
    with handler_lock:
        return handlers.trace(seeded).get_trace(*args, **kwargs)


def params(trace: Trace) -> dict[str, PyTree]:
    """The values of the `param` sites in unconstrained space."""
    return {
        name: unconstrain(site["value"], site)
        for name, site in trace.items()
        if site["type"] == "param"
    }


def constrained_params(trace: Trace) -> dict[str, PyTree]:
    """The values of the `param` sites."""
    return {name: site["value"] for name, site in trace.items() if site["type"] == "param"}


def log_prob(
    trace: Trace, check_support: bool = False, scales: Mapping[str, float] | None = None
) -> Array:
    """Log density of all sample sites of a guide, including factors, a scalar.

    Includes auxiliary sites: it is the density of the draw on the augmented space. For draws from a
    transformed distribution it reuses the intermediates of the forward pass, without which an
    inverse autoregressive flow has no cheap density.

    Args:
        trace: the guide's trace.
        check_support: whether to return `-inf` where given values are outside the support.
        scales: factors by site, of sites whose plates the guide does not enter.
    """
    total = jnp.zeros(())
    for site in trace.values():
        if site["type"] != "sample":
            continue
        extra = (site["intermediates"],) if site["intermediates"] else ()
        value = site["fn"].log_prob(site["value"], *extra)
        if check_support:
            value = jnp.where(_in_support(site), value, -jnp.inf)
        scale = 1.0 if site["scale"] is None else site["scale"]
        if scales and site["name"] in scales:
            scale = scale * scales[site["name"]]
        total = total + jnp.sum(scale * value)
    return total


def _in_support(site: Mapping[str, Any]) -> Array | bool:
    """Whether values are inside a distribution's univariate support.

    NumPyro's log density is often finite outside. Multivariate supports, such as a simplex, equal
    those of the model's site and would be violated only by rounding; they are not checked.
    """
    base = support = site["fn"].support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    return True if base is constraints.real or base.event_dim else support(site["value"])


def constrain(value: PyTree, site: Mapping[str, Any]) -> PyTree:
    """The constrained value of a `param` site, given the unconstrained one."""
    constraint = _constraint(site)
    return value if constraint is None else biject_to(constraint)(value)


def unconstrain(value: PyTree, site: Mapping[str, Any]) -> PyTree:
    """The inverse of `constrain`."""
    constraint = _constraint(site)
    if constraint is None:
        return jax.tree.map(jnp.asarray, value)
    return biject_to(constraint).inv(jnp.asarray(value))


def _constraint(site: Mapping[str, Any]) -> constraints.Constraint | None:
    """A `param` site's constraint, `None` for the real line and for network parameters."""
    constraint = site["kwargs"].get("constraint", constraints.real)
    return None if constraint is constraints.real else constraint


def abstract_data(arguments: Arguments) -> dict[str, Any]:
    """The shapes and dtypes of the model's arrays."""
    return {
        name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in arguments.avals.items()
    }


def abstract_position(space: Space) -> dict[str, Any]:
    """The shapes and dtypes of a position."""
    dtype = jnp.result_type(float)
    return {site.name: jax.ShapeDtypeStruct(site.z_shape, dtype) for site in space.sites}


def dependent(function: Callable[..., PyTree], source: PyTree, *rest: Any) -> PyTree:
    """Whether each leaf of `function(source, *rest)` may depend on `source`: a tree of bools.

    Traverses the jaxpr once, without computing values. Outputs of an inner jaxpr count as depending
    on all of its inputs, so the result is conservative. Arguments may be abstract.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(source, *rest)
    jaxpr = closed.jaxpr
    reached = {id(var) for var in jaxpr.invars[: len(jax.tree.leaves(source))]}
    for equation in jaxpr.eqns:
        if any(id(var) in reached for var in equation.invars):
            reached.update(id(var) for var in equation.outvars)
    flags = [id(var) in reached for var in jaxpr.outvars]
    return jax.tree.unflatten(jax.tree.structure(shape), flags)


@contextlib.contextmanager
def tracing_errors(label: str) -> Iterator[None]:
    """Converts errors raised while a guide is traced to a `GuideError` that names the guide."""
    try:
        yield
    except GuideError:
        raise
    except (
        TypeError,
        ValueError,
        IndexError,
        KeyError,
        AttributeError,
        AssertionError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        text = str(error).strip().split("\n")[0] or "an assertion in NumPyro"
        raise GuideError(
            f"{label} failed while being traced with {type(error).__name__}: {text} A guide is "
            "called with the arguments of the model, with abstract arrays."
        ) from error
