"""What is unusual about a model at its data, and is likely to be an oversight."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from numpyro.distributions import constraints

from vijax.contracts import Batch, Target
from vijax.model.data_dependence import density_arrays
from vijax.model.log_density import log_density_model
from vijax.runtime.encoding import column_name
from vijax.runtime.host_values import HostValues

_FEW_OUTCOMES = 10  # equal ones up to which there may be no others


class Remarks(NamedTuple):
    """What a fit says of its model, beside how accurate it is.

    Attributes:
        texts: remarks in words.
        warnings: those among them to warn of.
        failure_advice: what to try if the fit fails, empty for the usual.
    """

    texts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    failure_advice: str = ""


def model_remarks(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: Target,
    batch: Batch,
) -> Remarks:
    """Remarks on a model at its arguments.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        target: the model's target.
        batch: its data; some rows of those that are not in memory.
    """
    if model is log_density_model:
        return Remarks(failure_advice=_constraints_advice(args))
    found = (
        *_constant_factors(target),
        *_equal_outcomes(target, batch),
        *_unused_outcomes(target, batch),
    )
    unobserved = tuple(_nothing_observed(model, args, kwargs, target))
    warned = (*(text for text in unobserved if "None" in text), *found)
    return Remarks((*unobserved, *found), warned)


def _nothing_observed(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], target: Target
) -> Iterator[str]:
    structure = target.structure
    if structure.observed or set(structure.factors) - set(structure.constant_factors):
        return
    names = _missing_arguments(model, args, kwargs)
    listed = ", ".join(map(repr, names))
    why = f" (argument{'s' * (len(names) > 1)} {listed}: None)" if names else ""
    yield f"nothing is observed: this is the prior{why}"


def _missing_arguments(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[str]:
    """The arguments of a model that are `None`."""
    try:
        call = inspect.signature(model).bind(*args, **kwargs)
    except (TypeError, ValueError):  # a callable without a signature
        return []
    call.apply_defaults()
    return [name for name, value in call.arguments.items() if value is None]


def _constant_factors(target: Target) -> Iterator[str]:
    for name in target.structure.constant_factors:
        yield f"factor {name!r} depends on no latent site: it adds a constant to the log density"


def _equal_outcomes(target: Target, batch: Batch) -> Iterator[str]:
    values = HostValues(batch.data)
    for name, node in target.structure.outcomes.items():
        outcomes = values(node)
        if outcomes is None or outcomes.size <= _FEW_OUTCOMES:
            continue
        first = outcomes.ravel()[0]
        if (outcomes == first).all():
            yield f"all {outcomes.size} outcomes of site {name!r} are equal ({first})"


def _unused_outcomes(target: Target, batch: Batch) -> Iterator[str]:
    """Latent sites with the name of an argument that the model does not use."""
    names = {column_name(name): name for name in batch.data}
    alike = [site.name for site in target.space.sites if site.name in names]
    if not alike:
        return
    model, mutable = jax.eval_shape(lambda: target.initialize(jax.random.key(0), batch))
    used = density_arrays(target, batch, model, mutable)
    for site in alike:
        if names[site] not in used:
            yield (
                f"argument {names[site]!r} is not used, and site {site!r} is a latent one: was "
                f"obs={site} forgotten?"
            )


def _constraints_advice(args: tuple[Any, ...]) -> str:
    """The advice to constrain the values of `from_log_density` that have no constraint."""
    _, sites, *_ = args
    names = ", ".join(repr(name) for name, _, support in sites if support is constraints.real)
    if not names:
        return ""
    return (
        f"Is the density defined and integrable for all real values of {names}? If not, add "
        "constraints= to from_log_density, such as numpyro.distributions.constraints.positive."
    )
