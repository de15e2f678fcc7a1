"""The arguments of distributions, validated without a trace of it in the program.

NumPyro validates the arguments of every distribution that is made. Of traced arrays nothing can be
known, yet the question is traced with them and, for matrices, partly compiled on the spot: half the
compile time of a Gaussian process. Only what is known is asked about here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import numpyro
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.distribution import COERCIONS


@contextlib.contextmanager
def known_arguments() -> Iterator[None]:
    """Distributions made inside are validated as far as their arguments are no traced arrays.

    Whether a value lies in a distribution's support is still asked whenever its density is.
    """
    COERCIONS.append(_make)
    try:
        yield
    finally:
        COERCIONS.remove(_make)


def _make(
    cls: type[Distribution], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Distribution | None:
    """A distribution; `None` leaves it to NumPyro."""
    if not cls._validate_args or "validate_args" in kwargs:
        return None
    with numpyro.validation_enabled(False):
        made = type.__call__(cls, *args, **kwargs)
    arguments = made.get_args() if made._validate_args else {}  # some are made to ask nothing
    for name, value in arguments.items():
        if not _valid(made.arg_constraints[name], value):
            raise ValueError(f"{cls.__name__} distribution got invalid {name} parameter.")
    return made


def _valid(constraint: constraints.Constraint, value: Any) -> bool:
    if isinstance(value, jax.core.Tracer) or constraints.is_dependent(constraint):
        return True
    with jax.ensure_compile_time_eval():
        return bool(np.all(constraint(np.asarray(value))))
