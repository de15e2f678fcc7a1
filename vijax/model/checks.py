"""What a model must be for it to be fitted, said while its abstract trace runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vijax._contracts import Plate, Site
from vijax._errors import ModelError
from vijax.model.supports import bijector

_ABSTRACT = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def check_site(name: str, site: Mapping[str, Any], plates: Mapping[str, Plate]) -> None:
    """Refuses what cannot be fitted: a discrete latent, a support without a bijection, ...

    Raises:
        ModelError: naming the site.
    """
    fn = site["fn"]
    if site["is_observed"]:
        _check_observed(name, site)
        return
    if fn.is_discrete:
        raise ModelError(
            f"site {name!r}: a discrete latent ({type(fn).__name__}) has no gradient and is not "
            "supported yet. Sum it out in the model (numpyro.distributions.MixtureSameFamily for "
            "a mixture, a forward recursion for a hidden Markov chain) or observe it. Planned: "
            "exact enumeration beside any guide, and score-function gradients."
        )
    try:
        bijector(fn.support)
    except NotImplementedError:
        raise ModelError(
            f"site {name!r}: no bijection is known from unconstrained space onto the support "
            f"{fn.support} of {type(fn).__name__}. Use a distribution with another support or "
            "register one with numpyro.distributions.biject_to."
        ) from None
    subsampled = [
        frame.name
        for frame in site["cond_indep_stack"]
        if frame.name in plates and plates[frame.name].size != plates[frame.name].subsample_size
    ]
    if subsampled:
        raise ModelError(
            f"site {name!r}: a latent inside the subsampled plate {subsampled[0]!r} is not "
            "supported yet. Use the full plate, or move the latent out of it."
        )


def _check_observed(name: str, site: Mapping[str, Any]) -> None:
    """An observation that broadcasts would be counted many times over, silently."""
    value, expected = tuple(jnp.shape(site["value"])), tuple(site["fn"].shape())
    try:
        together = jnp.broadcast_shapes(value, expected)
    except ValueError:
        together = ()
    if together != value:
        raise ModelError(
            f"site {name!r}: observed value of shape {value} does not match the distribution's "
            f"shape {expected}"
            + (f" (together they broadcast to {together})." if together else ".")
            + " Give the data the distribution's shape, or check its plates."
        )


@contextlib.contextmanager
def tracing_errors(model: Callable[..., Any]) -> Iterator[Callable[[Sequence[Site]], None]]:
    """Turns whatever goes wrong while a model is traced into a `ModelError` that says where."""

    def check(sites: Sequence[Site]) -> None:
        if not sites:
            raise ModelError(
                f"{label}: expected at least one continuous latent `numpyro.sample` site, got "
                "none. Sites with obs= are data; remove it from what is to be inferred."
            )

    label = f"model {getattr(model, '__name__', type(model).__name__)!r}"
    try:
        yield check
    except ModelError:
        raise
    except _ABSTRACT as error:
        raise ModelError(
            f"{label} needs the value of an array while it is being traced: {_first_line(error)} "
            "Arrays are abstract inside the model. Pass sizes and flags as Python numbers "
            "(J=int(J)), compute them from .shape, or use jnp.where instead of if."
        ) from error
    except AssertionError as error:
        raise ModelError(f"{label} failed while being traced: {_first_line(error)}") from error
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{label} failed while being traced with {type(error).__name__}: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    return text or "an assertion in NumPyro; are two sites named alike, or is a plate nested twice?"
