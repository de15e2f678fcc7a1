"""`param` sites: the parameters of a model, constrained and unconstrained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import constraints

from vijax.contracts import PyTree
from vijax.model.tracing.handler import copy_containers
from vijax.model.tracing.supports import bijector
from vijax.runtime.errors import ModelError


def constrain_param(value: PyTree, site: Mapping[str, Any]) -> PyTree:
    """The constrained value of a `param` site from its unconstrained one."""
    constraint = param_constraint(site)
    return copy_containers(value) if constraint is None else bijector(constraint).forward(value)[0]


def param_value(site: Mapping[str, Any]) -> PyTree:
    """The value of a `param` site in a trace."""
    value = site["value"]
    for _ in range(site.get("_num_scans", 0)):  # a scan stacks one copy per step
        value = jax.tree.map(lambda leaf: leaf[0], value)
    return value


def initial_param(name: str, site: Mapping[str, Any]) -> PyTree:
    """The unconstrained initial value of a `param` site.

    Raises:
        ModelError: the model does not define one.
    """
    value = param_value(site)
    if value is None:
        raise ModelError(
            f"param site {name!r}: expected an initial value, got none. "
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
    """The constraint of a `param` site, `None` for the real line and for network parameters."""
    constraint = site["kwargs"].get("constraint", constraints.real)
    return None if constraint is constraints.real else constraint
