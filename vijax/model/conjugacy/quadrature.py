"""`E log p` of observed rows given any smooth function of a normal variable, by quadrature.

`E log p(y | h(eta))` with `eta` normal of known mean and variance. Its gradient in these is the
step of conjugate-computation variational inference. It is not convex in the expectations, so that
steps may have to be damped. Source: Khan and Lin, 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.model.conjugacy.densities.arguments import data
from vijax.model.conjugacy.densities.table import row_of
from vijax.model.conjugacy.expectation import Expectation
from vijax.model.conjugacy.values import Known, Opaque, Polynomial, Value

_POINTS = 20


def by_quadrature(
    expectation: Expectation, fn: dist.Distribution, arguments: Mapping[str, Value], value: Value
) -> Array | None:
    """`E log p` of observed values, `None` where their argument is no function of one normal.

    Args:
        expectation: takes values to expectations.
        fn: the distribution, of scalars, for its class and constants.
        arguments: its arguments.
        value: its value.
    """
    latent = [name for name, one in arguments.items() if not isinstance(one, Known)]
    same = len({id(arguments[name]) for name in latent}) == 1
    if not isinstance(value, Known) or not same or fn.event_shape:
        return None
    name, argument = latent[0], arguments[latent[0]]
    eta = argument.argument if isinstance(argument, Opaque) else argument
    if not isinstance(eta, Polynomial) or not is_linear(expectation, eta):
        return None
    if eta is argument and fn.arg_constraints.get(name) is not dist.constraints.real:
        return None
    apply = argument.apply if isinstance(argument, Opaque) else None
    rest = {one: data(arguments[one], one) for one in arguments if one not in latent}
    y = data(value, "value")
    shape = tuple(axis.size for axis in argument.dims)

    def log_prob(eta: Array) -> Array:
        full = jnp.broadcast_to(eta if apply is None else apply(eta), shape)
        found: Array = _with_arguments(
            fn, {**rest, **dict.fromkeys(latent, full)}, list(arguments)
        ).log_prob(y)
        return found

    with expectation.about(name):
        return expectation.normal(eta, log_prob, _POINTS)


def is_linear(expectation: Expectation, value: Polynomial) -> bool:
    """Whether a polynomial is a sum of normal sites times data."""
    return value.terms is not None and all(
        not term.atoms
        or (
            len(term.atoms) == 1
            and term.atoms[0].kind == "power"
            and term.atoms[0].power == 1
            and expectation.is_real(term.atoms[0].site)
        )
        for term in value.terms
    )


def _with_arguments(fn: dist.Distribution, arguments: dict[str, Any], order: list[str]) -> Any:
    """A distribution of the same class with other arguments."""
    if row_of(fn) is not None:
        return type(fn)(**arguments, validate_args=False)
    return jax.tree.unflatten(jax.tree.structure(fn), [arguments[name] for name in order])
