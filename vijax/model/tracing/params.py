"""`param` sites: the model's own parameters, in their constraints and out of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import constraints

from vijax.contracts import PyTree
from vijax.model.tracing.handler import copied
from vijax.model.tracing.supports import bijector
from vijax.runtime.errors import ModelError


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
