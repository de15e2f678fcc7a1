"""Checks during tracing that a model can be fitted, and errors that name the site."""

from __future__ import annotations

import contextlib
import os
import re
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.primitives import apply_stack, plate

from vijax.model.tracing.supports import atomic_part, site_bijector
from vijax.runtime.errors import ModelError

_ABSTRACT = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
_NUMPY_CALL = re.compile(r"\b(np|numpy|math)\.(\w+)\(")
_PATHS = sysconfig.get_paths()
_LIBRARIES = (
    *(_PATHS[kind] for kind in ("purelib", "platlib", "stdlib")),
    str(Path(__file__).parents[2]),  # this library
)


def check_discrete(name: str, site: Mapping[str, Any]) -> None:
    """Refuses a discrete latent that cannot be enumerated.

    Raises:
        ModelError: site_errors the site.
    """
    fn = site["fn"]
    if not fn.has_enumerate_support:
        remedy = "Truncate it to a Categorical over the relevant values"
        if fn.event_shape:
            remedy = (
                "Sample the categories that it counts, k = sample(..., Categorical(probs)) in a "
                "plate of their number, and use jax.nn.one_hot(k, len(probs)).sum(0)"
            )
        raise ModelError(
            f"site {name!r}: expected a discrete latent with finitely many values, to be "
            f"marginalized exactly, got {_label(fn)} over {fn.support}. {remedy}, marginalize it "
            "in the model, or observe it."
        )
    if fn.event_shape:
        raise ModelError(
            f"site {name!r}: expected a discrete latent with one value in each row, got "
            f"{_label(fn)} with event shape {tuple(fn.event_shape)}. Use a plate for its entries "
            "instead of to_event."
        )


def check_latent(name: str, site: Mapping[str, Any]) -> None:
    """Refuses a continuous latent with atoms, or whose support has no registered bijection.

    Raises:
        ModelError: site_errors the site.
    """
    fn = site["fn"]
    atom = atomic_part(fn)
    if atom is not None:
        raise ModelError(
            f"site {name!r}: expected a latent with a density, got {_label(atom)}, which gives "
            "single values a probability of their own. Write it as a mixture: a discrete site "
            "decides whether the value is that one, another site has the continuous part."
        )
    try:
        site_bijector(fn)
    except NotImplementedError:
        raise ModelError(
            f"site {name!r}: no bijection is known from unconstrained space onto the support "
            f"{fn.support} of {_label(fn)}. Use a distribution with another support or "
            "register one with numpyro.distributions.biject_to."
        ) from None


def check_subsampled(name: str, site: Mapping[str, Any], trace: Mapping[str, Any]) -> None:
    """Refuses a latent in a subsampled plate whose rows are not all in the data.

    Raises:
        ModelError: site_errors the site and the plate.
    """
    for frame in site["cond_indep_stack"]:
        size, used = trace[frame.name]["args"] if frame.name in trace else (frame.size, None)
        if (used or size) != size:
            raise ModelError(
                f"site {name!r}: expected data for all {size} rows of plate {frame.name!r}, "
                f"since every row has a local latent variable, got {used}. Pass the full arrays, "
                "and batch_size or subsample_size= for the rows of a step."
            )


def check_observed(trace: Mapping[str, Any]) -> None:
    """Refuses observations that broadcast, since they would be counted several times.

    A scalar may be observed at every entry, and data may have more rows than its distribution.

    Raises:
        ModelError: site_errors the site, its plates and both shapes.
    """
    for name, site in trace.items():
        if site["type"] != "sample" or not site["is_observed"]:
            continue
        if isinstance(site["value"], (list, tuple)):
            raise ModelError(
                f"site {name!r}: expected obs= to be an array, got a {_label(site['value'])}. "
                "Pass numpy.asarray(...) to the model."
            )
        value, expected = tuple(jnp.shape(site["value"])), tuple(site["fn"].shape())
        try:
            broadcast_shape = jnp.broadcast_shapes(value, expected)
        except ValueError:
            broadcast_shape = None
        if value != () and broadcast_shape != value:
            raise ModelError(_observed_message(name, site, value, expected, broadcast_shape))


def _observed_message(
    name: str,
    site: Mapping[str, Any],
    value: tuple[int, ...],
    expected: tuple[int, ...],
    broadcast_shape: tuple[int, ...] | None,
) -> str:
    plates = ", ".join(
        f"plate {frame.name!r} of size {frame.size} at dim {frame.dim}"
        for frame in site["cond_indep_stack"]
    )
    return (
        f"site {name!r}: expected observations of shape {expected}"
        + (f" (inside {plates})" if plates else "")
        + f", got {value}"
        + (
            f"; broadcast to {broadcast_shape}, some would be counted several times. "
            if broadcast_shape
            else ". "
        )
        + "Give the data the shape of its distribution, or correct the plate."
    )


@contextlib.contextmanager
def tracing_errors(model: Callable[..., Any]) -> Iterator[None]:
    """Converts exceptions from tracing a model into a `ModelError` that names site and line."""
    label = f"model {getattr(model, '__name__', type(model).__name__)!r}"
    try:
        yield
    except ModelError:
        raise
    except _ABSTRACT as error:
        raise ModelError(
            f"{label} needs the value of an array while it is being traced{_where(error)}: "
            f"{_first_line(error)} Arrays are abstract inside the model. {_for_values(error)}"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{label} failed with {type(error).__name__}{_where(error)}: {_first_line(error)}"
            f"{_hint(error)}"
        ) from error


def needs_values(error: ModelError) -> bool:
    """Whether an error of `tracing_errors` is that values of arrays are needed."""
    return isinstance(error.__cause__, _ABSTRACT)


@contextlib.contextmanager
def site_errors(site: Mapping[str, Any]) -> Iterator[None]:
    """Converts an exception from a site's log density into a `ModelError` that names the site."""
    try:
        yield
    except Exception as error:
        fn, value = site["fn"], site["value"]
        raise ModelError(
            f"site {site['name']!r}: {_label(fn)} with batch shape {tuple(fn.batch_shape)} and "
            f"event shape {tuple(fn.event_shape)} has no log density at a value of shape "
            f"{tuple(jnp.shape(value))}: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    text = text or "no message; is a plate nested in itself, or a dim used twice?"
    return text if text.endswith((".", "?", ":")) else f"{text}."


def _where(error: BaseException) -> str:
    """The site and the line of the model that an error comes from."""
    at_site = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is apply_stack.__code__:
            name = frame.f_locals["msg"].get("name")
            at_site = f" at site {name!r}" if name else at_site
    return f"{at_site}{location_in_model(error.__traceback__)}"


def location_in_model(trace: Any) -> str:
    """The file and line of the model in a traceback, empty if there is none.

    Args:
        trace: of an exception, or of an operation of a traced program.
    """
    if trace is not None and not isinstance(trace, types.TracebackType):
        trace = trace.as_python_traceback()
    frames = traceback.extract_tb(trace)
    lines = [line for line in frames if not line.filename.startswith(_LIBRARIES)]
    return f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""


def _for_values(error: BaseException) -> str:
    """Remedies for a function that needs the values of arrays: the one that it is, first."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.line or "" for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    called = _NUMPY_CALL.search(lines[-1]) if lines else None
    first = ""
    if any(f"{os.sep}scipy{os.sep}" in frame.filename for frame in frames):
        first = (
            "SciPy computes with numbers only: use jax.scipy (jax.scipy.stats.norm.logpdf), or "
            "call it through jax.pure_callback. "
        )
    elif called and hasattr(jnp, called[2]):
        first = f"Use jax.numpy, jnp.{called[2]} instead of {called[1]}.{called[2]}. "
    elif isinstance(error, jax.errors.TracerArrayConversionError):
        first = "Use jax.numpy instead of NumPy, such as jnp.exp instead of np.exp. "
    return (
        f"{first}Pass sizes and flags as Python numbers (J=int(J)), compute them from .shape, or "
        "use jnp.where instead of if."
    )


def _hint(error: BaseException) -> str:
    """Remedies for errors that NumPyro and JAX report in their terms."""
    if "unique names" in str(error):
        return " Rename one of them, or run this part of the model under numpyro.handlers.scope."
    if "cond branch outputs" in str(error):
        return " Both branches of cond need the same sites, with distributions of the same class."
    if "None is not a valid value" in str(error) or "got <class 'NoneType'>" in str(error):
        return (
            " Is it a param site without an initial value? Parameters of a guide are not shared "
            "with the model: write numpyro.param(name, value), or make it a latent site."
        )
    for frame, _ in traceback.walk_tb(error.__traceback__):
        handler, msg = frame.f_locals.get("self"), frame.f_locals.get("msg", {})
        if not isinstance(handler, plate) or msg.get("type") != "sample":
            continue
        return (
            f" Plate {handler.name!r} has size {handler.subsample_size} at dim {handler.dim}, the "
            f"{_label(msg['fn'])} inside it has batch shape {tuple(msg['fn'].batch_shape)}. Give "
            "both the same size, or the plate another dim."
        )
    return ""


def _label(value: Any) -> str:
    return type(value).__name__
