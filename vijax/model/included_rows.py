"""A model whose likelihood has some rows of a plate only: the others are left out of a fit."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.primitives import Messenger

from vijax.model.tracing.sites import is_factor
from vijax.runtime.errors import ModelError, mismatch

INCLUDED = "included_rows"


@dataclasses.dataclass(frozen=True)
class IncludedRows:
    """`model(*args, **kwargs)` with the observed sites of a plate masked outside of some rows.

    Latents and their priors stay, also those of rows that are left out. All choices of rows are one
    program, since `included`, booleans `(rows,)`, is an argument, the first. The observed sites of
    other plates stay, too.

    Attributes:
        model: the model function.
        plate: name of the plate; `None` for observed sites with one dimension and without a plate.
    """

    model: Callable[..., Any]
    plate: str | None

    @property
    def __name__(self) -> str:
        return getattr(self.model, "__name__", type(self.model).__name__)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.model)
        included = inspect.Parameter(INCLUDED, inspect.Parameter.POSITIONAL_ONLY)
        return signature.replace(parameters=[included, *signature.parameters.values()])

    def __call__(self, included: Array, /, *args: Any, **kwargs: Any) -> Any:
        """Runs the model; see the class."""
        with _Masked(included, self.plate):
            return self.model(*args, **kwargs)


class _Masked(Messenger):
    """Masks the observed sites of a plate."""

    def __init__(self, included: Array, plate: str | None) -> None:
        super().__init__(None)
        self.included, self.plate = included, plate

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or not msg["is_observed"] or is_factor(msg):
            return
        dim = self._dim(msg)
        if dim is None:
            return
        shape = (len(self.included), *[1] * (-dim - 1))
        msg["fn"] = msg["fn"].mask(jnp.reshape(jnp.asarray(self.included), shape))

    def _dim(self, msg: dict[str, Any]) -> int | None:
        """The dimension of the rows among those of a batch, from the right; `None` for none."""
        if self.plate is None:
            return -1 if msg["fn"].batch_shape else None
        frames = msg["cond_indep_stack"]
        return next((frame.dim for frame in frames if frame.name == self.plate), None)


def plate_of_rows(
    dims: Mapping[str, Sequence[str | None]],
    factors: Mapping[str, Sequence[str | None]],
    plate: str | None,
) -> tuple[str | None, dict[str, int]]:
    """The plate whose rows are left out, and by observed site its axis, from the right.

    Args:
        dims: of every observed site, the plates along its batch dimensions, `None` for none.
        factors: likewise of every factor.
        plate: the name, if one is asked for.

    Raises:
        ModelError: there is no such plate, the choice is ambiguous, or a factor has a value for
            each row.
    """
    found = list(dict.fromkeys(name for names in dims.values() for name in names if name))
    if not dims:
        raise ModelError(mismatch("cross_validate", "observed sites", "none"))
    if plate is not None and plate not in found:
        expected = f"a plate around observed sites, of {found}"
        raise ModelError(mismatch("plate", expected, repr(plate)))
    if plate is None and found:
        if len(found) > 1 or any(set(names) - {None} != {*found} for names in dims.values()):
            expected = f"the name of the plate whose rows are left out, one of {found}"
            raise ModelError(mismatch("plate", expected, "None"))
        (plate,) = found
    for name, names in factors.items():
        if plate in names:
            expected = "observed sites, which can be left out of a fit row by row"
            remedy = "Write it as an observed site with a distribution."
            raise ModelError(mismatch(f"site {name!r}", expected, "a factor of the rows", remedy))
    if plate is not None:
        axes = {n: names.index(plate) - len(names) for n, names in dims.items() if plate in names}
        return plate, axes
    if any(len(names) != 1 for names in dims.values()):
        expected = "observed sites in a plate, or with one dimension"
        remedy = "Write them in `with numpyro.plate('rows', len(y)):`."
        raise ModelError(mismatch("plate", expected, "no plate", remedy))
    return None, dict.fromkeys(dims, -1)
