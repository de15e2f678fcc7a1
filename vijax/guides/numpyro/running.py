"""Runs a NumPyro guide once, and reads its draw, density and parameters off the trace."""

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
from vijax.guides.numpyro.implicit import ImplicitDraws
from vijax.runtime.errors import GuideError

Trace = dict[str, dict[str, Any]]


class Arguments(Protocol):
    """The static part of the model's arguments, as `vijax.model.split` makes it."""

    @property
    def avals(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of every array, by name."""
        ...

    @property
    def lookup(self) -> Any:
        """Equal for calls that trace alike."""
        ...

    def join(self, data: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` with the arrays of `data` in their places."""
        ...


def run(
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Array,
    params: Mapping[str, PyTree] | None = None,
    index: Mapping[str, Array] | None = None,
    values: Mapping[str, Array] | None = None,
) -> Trace:
    """The guide's trace at given parameters.

    Args:
        guide: a NumPyro guide function.
        args: the model's positional arguments.
        kwargs: the model's keyword arguments.
        key: randomness of the draw, and of the start values of parameters not given.
        params: `param` sites in unconstrained space.
        index: rows in use of subsampled plates.
        values: of sites that are not to be drawn.
    """

    def substitute(site: dict[str, Any]) -> Any:
        if site["type"] == "param" and params and site["name"] in params:
            return constrain(params[site["name"]], site)
        if site["type"] == "plate" and index and site["name"] in index:
            return index[site["name"]]
        if site["type"] == "sample" and values and site["name"] in values:
            return values[site["name"]]
        return None

    substituted = handlers.substitute(guide, substitute_fn=substitute)
    drawn = ImplicitDraws(handlers.seed(substituted, key))
    return handlers.trace(drawn).get_trace(*args, **kwargs)


def params(trace: Trace) -> dict[str, PyTree]:
    """The values of the `param` sites in unconstrained space."""
    return {
        name: unconstrain(site["value"], site)
        for name, site in trace.items()
        if site["type"] == "param"
    }


def log_prob(trace: Trace, anywhere: bool = False) -> Array:
    """Log density of everything a guide sampled, factors included, a scalar.

    Auxiliary sites count: the sum is the density of the draw on the extended space. Where a
    transformed distribution has just been sampled its log density uses the same pass, which is
    the only way for an inverse autoregressive flow. Values that were not drawn may be `anywhere`,
    also where the density is zero.
    """
    total = jnp.zeros(())
    for site in trace.values():
        if site["type"] != "sample":
            continue
        extra = (site["intermediates"],) if site["intermediates"] else ()
        value = site["fn"].log_prob(site["value"], *extra)
        if anywhere:
            value = jnp.where(_inside(site), value, -jnp.inf)
        scale = 1.0 if site["scale"] is None else site["scale"]
        total = total + jnp.sum(scale * value)
    return total


def _inside(site: Mapping[str, Any]) -> Array | bool:
    """Whether values lie in an interval that a distribution is confined to.

    Its log density is often finite beyond. A simplex and its like are those of the model's site,
    and missed by rounding alone.
    """
    base = support = site["fn"].support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    return True if base is constraints.real or base.event_dim else support(site["value"])


def constrain(value: PyTree, site: Mapping[str, Any]) -> PyTree:
    """A `param` site's unconstrained value, moved into its constraint."""
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
    """The model's arrays without their values."""
    return {
        name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in arguments.avals.items()
    }


def abstract_position(space: Space) -> dict[str, Any]:
    """A position without its values."""
    dtype = jnp.result_type(float)
    return {site.name: jax.ShapeDtypeStruct(site.z_shape, dtype) for site in space.sites}


@contextlib.contextmanager
def tracing_errors(label: str) -> Iterator[None]:
    """Turns whatever goes wrong while a guide is traced into a `GuideError` that says where."""
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
            f"{label} failed while being traced with {type(error).__name__}: {text} A guide gets "
            "the same arguments as the model, with abstract arrays."
        ) from error
