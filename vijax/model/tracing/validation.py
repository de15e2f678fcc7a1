"""Validation of the arguments of distributions that adds nothing to the traced program.

NumPyro validates the arguments of every distribution that is constructed. For traced arrays the
result is unknown, yet the check is traced with them and, for matrices, partly compiled immediately:
half the compile time of a Gaussian process. Here only concrete arguments are validated.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import numpyro
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.distribution import COERCIONS


@contextlib.contextmanager
def validate_concrete_arguments(latents_traced: bool = True) -> Iterator[None]:
    """Validates only those arguments of distributions constructed inside that are not traced.

    `log_prob` still checks that a value is in the support.

    Args:
        latents_traced: whether the values of latent sites are traced. If they are numbers, a
            parameter that depends on them may be invalid at these, which the log density says;
            nothing is validated then.
    """
    construct = functools.partial(_construct, latents_traced)
    COERCIONS.append(construct)
    try:
        yield
    finally:
        COERCIONS.remove(construct)


def _construct(
    validates: bool, cls: type[Distribution], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Distribution | None:
    """A validated distribution; `None` for NumPyro's own construction."""
    if not cls._validate_args or "validate_args" in kwargs:
        return None
    with numpyro.validation_enabled(False):
        distribution = type.__call__(cls, *args, **kwargs)
    # some classes never validate
    validates = validates and distribution._validate_args
    arguments = distribution.get_args() if validates else {}
    for name, value in arguments.items():
        if not _valid(distribution.arg_constraints[name], value):
            raise ValueError(f"{cls.__name__} distribution got invalid {name} parameter.")
    return distribution


def _valid(constraint: constraints.Constraint, value: Any) -> bool:
    if isinstance(value, jax.core.Tracer) or constraints.is_dependent(constraint):
        return True
    with jax.ensure_compile_time_eval():
        return bool(np.all(constraint(np.asarray(value))))
