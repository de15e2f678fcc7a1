"""The posterior predictive distribution of a fitted model, at the same or at new inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, PyTree, Target
from vijax.contracts.target import Structure
from vijax.model.analysis import trace_with_default_rows
from vijax.model.data_use import accesses, values_and_distributions
from vijax.model.fitted_values import NO_GROWTH, Growing, fitted_value, other_size
from vijax.model.index_checks import check_gathers
from vijax.model.interventions import check_values, descendants, set_value
from vijax.model.log_density import log_density_model
from vijax.model.observed_moments import observed_moments
from vijax.model.traced_model import TracedModel
from vijax.model.tracing import substitution
from vijax.model.tracing.arguments import Arguments, ModelCall, split, unwrap
from vijax.model.tracing.handler import Message, Step, SubstituteFn
from vijax.model.tracing.sites import Trace, dims, fixed_value, is_data, site_shape
from vijax.runtime.errors import ModelError
from vijax.runtime.fingerprint import fingerprint
from vijax.runtime.jaxpr_digest import jaxpr_digest
from vijax.runtime.keys import OffsetKey, numbered_key

Draws = dict[str, Array]

_WITH_VALUES = ("sample", "deterministic")
_FEW_ELEMENTS = 2000  # of one draw, up to which a program takes longer to compile well than to run
_NEW_GROUPS = "For groups that were not in the fit, make their plate larger and pass new_groups=."


class Scenario(NamedTuple):
    """How a model is run; the static part of a program.

    Attributes:
        observed: the observed sites: they are drawn if the data of all of them are given.
        resizable: sites whose rows are all new if their number differs from that in the fit.
        growing: the plates that may be larger than in the fit.
        do: sites whose values are set.
        moments: whether the distributions of observed sites are wanted, see `observed_moments`,
            not draws.
    """

    observed: tuple[str, ...] = ()
    resizable: frozenset[str] = frozenset()
    growing: Growing = NO_GROWTH
    do: frozenset[str] = frozenset()
    moments: bool = False


class PredictiveProgram(NamedTuple):
    """A compiled program for draws of a model's sites, at arguments of one shape.

    Attributes:
        program: `(keys, values, batch, model, mutable) -> draws`, where `keys` and the constrained
            `values` of latents and of sites in `do` have a leading axis of draws, and `model` and
            `mutable` are those of the fit. `draws` has every sampled site, site in `do` and
            deterministic by name.
        batch: the data.
        num_elements: number of array elements of one draw: of the data and of all values.
        redrawn: the sites that depend on those in `do`: they are not to be in `values`.
    """

    program: Callable[..., Draws]
    batch: Batch
    num_elements: int
    redrawn: frozenset[str]


def predictive_program(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: Target,
    fitted: Arguments | None = None,
    growing: Growing = NO_GROWTH,
    do: Mapping[str, Any] | None = None,
    moments: bool = False,
) -> PredictiveProgram:
    """A compiled program for the posterior predictive at new arguments.

    Latent sites take their posterior draws, `param` sites their fitted values. An observed site
    whose data are missing (`y=None`) is sampled given the data of the others; if no data are
    missing, all observed sites are sampled, each given the sampled values of earlier ones. Sites
    that were not in the fit are sampled from their conditional distribution, and so are
    marginalized discrete sites in plates of another size than in the fit, whose rows are new. A
    scan or a random walk may have more steps than in the fit.

    Args:
        model: the model function.
        args: its new positional arguments.
        kwargs: its new keyword arguments.
        target: the target of the fit.
        fitted: its arguments in the fit, whose labels keep their codes; `None` before a fit.
        growing: the plates that may be larger than in the fit; those of columns with new labels
            are added.
        do: values of sites; latents that depend on them are sampled.
        moments: see `Scenario`.

    Raises:
        ArgumentError: the arguments do not match the model.
        ModelError: a site in `do` is unknown, or has other values; or, when the program runs, a
            latent has another shape than in the fit.
    """
    call, data, num_elements = model_call(model, args, kwargs, fitted)
    growing = growing._replace(sizes=growing.sizes | call.arguments.grown)
    scenario = Scenario(
        target.structure.observed,
        frozenset(target.marginalized.sizes),
        growing,
        frozenset(do or ()),
        moments,
    )
    redrawn = redrawn_sites(call, scenario, do) if do else frozenset[str]()
    program = target.program(_predict, call, scenario, quick=num_elements <= _FEW_ELEMENTS)
    return PredictiveProgram(program, Batch(data), num_elements, redrawn)


def model_call(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    fitted: Arguments | None = None,
    may_grow: bool = True,
) -> tuple[ModelCall, dict[str, Array], int]:
    """A call of a model as configuration of a program, its arrays, and the elements of one draw.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        fitted: the arguments of the fit, whose labels have the same codes.
        may_grow: whether there may be labels that the fit did not have.

    Raises:
        ArgumentError: the arguments do not match the model.
        ModelError: the model is a log density.
    """
    model, args, kwargs = unwrap(model, args, kwargs)
    if model is log_density_model:
        raise ModelError(
            "predict: expected a model with observations, got a log density. Simulate data from "
            "posterior.sample() instead."
        )
    static = frozenset[str]() if fitted is None else fitted.by_content
    known = {} if fitted is None else fitted.known(may_grow)
    arguments, data = split(model, args, kwargs, False, static, known)
    call, num_values = as_call(model, arguments, data)
    return call, data, num_values + sum(jnp.size(array) for array in data.values())


def as_call(
    model: Callable[..., Any], arguments: Arguments, data: dict[str, Array]
) -> tuple[ModelCall, int]:
    """A model with static arguments as configuration of a program; number of its values.

    Raises:
        ModelError: the data have indices out of range.
    """
    code = fingerprint(model, opaque_by_identity=True)
    digest, num_values = _digest(TracedModel(model, arguments), data)
    return ModelCall((code, arguments.lookup, digest), model, arguments), num_values


def _digest(traced: TracedModel, data: dict[str, Array]) -> tuple[str, int]:
    """A digest of the model's program, with all that it read while traced; number of its values.

    Raises:
        ModelError: the data have indices out of range.
    """
    trace: Trace = {}

    def run(data: dict[str, Array]) -> list[Array]:
        trace.update(
            traced.trace(Batch(data), substitution.at_origin_or_draw, with_log_density=False)
        )
        return values_and_distributions(trace)

    closed = jax.make_jaxpr(run)(traced.arguments.abstract())
    gathers, _ = accesses(closed, trace, 0, sorted(traced.arguments.avals))
    found = Structure(dims=dims(trace))
    check_gathers(
        found, gathers, traced.arguments, Batch(data), lambda data, _: run(data), _NEW_GROUPS
    )
    types = [(name, site["type"]) for name, site in trace.items()]
    values = [site["value"] for site in trace.values() if site["type"] in _WITH_VALUES]
    return jaxpr_digest(closed, types), sum(map(jnp.size, jax.tree.leaves(values)))


def abstract_call(call: ModelCall) -> tuple[TracedModel, Trace]:
    """The model of a call, and an abstract trace of it."""
    traced = TracedModel(call.model, call.arguments)
    return traced, trace_with_default_rows(
        traced, substitution.at_origin_or_draw, with_log_density=False
    )


def redrawn_sites(call: ModelCall, scenario: Scenario, do: Mapping[str, Any]) -> frozenset[str]:
    """The sites that depend on those whose values are set.

    Raises:
        ModelError: a site in `do` is unknown, or has other values.
    """
    traced, trace = abstract_call(call)
    check_values(trace, do)
    resampled = resampled_sites(trace, scenario.observed)
    return descendants(traced, trace, scenario.do, lambda name: name in resampled)


def _predict(target: Target, call: ModelCall, scenario: Scenario, *arrays: Any) -> Draws:
    return run_scenario(call, scenario, *arrays)


def run_scenario(
    call: ModelCall,
    scenario: Scenario,
    keys: Array,
    values: Draws,
    batch: Batch,
    model: dict[str, PyTree],
    mutable: dict[str, PyTree],
) -> Draws:
    """Draws of a model's sites, see `PredictiveProgram.program`."""
    traced, trace = abstract_call(call)
    resampled = resampled_sites(trace, scenario.observed)

    def draw(key: Array, values: Draws) -> dict[str, Any]:
        trace = traced.trace(
            batch._replace(key=jax.random.fold_in(key, 0)),
            from_posterior(
                key, values, resampled, scenario.resizable, scenario.growing, scenario.do
            ),
            model,
            mutable,
            with_log_density=False,
            deterministic=_deterministic(values, scenario),
        )
        if scenario.moments:
            return observed_moments(trace, {_base_name(name) for name in scenario.observed})
        return predicted_values(trace, values.keys() - scenario.do)

    return jax.vmap(draw)(keys, values)


def predicted_values(trace: Trace, values: Collection[str]) -> Draws:
    """The values of the deterministics and of all sample sites but those in `values` and data."""
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "deterministic"
        or (site["type"] == "sample" and not site["is_observed"] and name not in values)
    }


def resampled_sites(trace: Trace, fitted: tuple[str, ...]) -> frozenset[str]:
    """The observed sites that are sampled although their data are given."""
    given = {_base_name(name): name for name, site in trace.items() if is_data(site)}
    observed = {_base_name(name) for name in fitted}
    if not observed <= given.keys():
        return frozenset()  # only sites with missing data are sampled
    return frozenset(given[name] for name in observed)


def _base_name(name: str) -> str:
    return name.removesuffix("_observed")  # `obs_mask` splits a site in two


def _deterministic(values: Draws, scenario: Scenario) -> SubstituteFn:
    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Any:
        return set_value(name, site, steps, values[name]) if name in scenario.do else None

    return substitute


def from_posterior(
    key: Array | OffsetKey,
    values: Draws,
    resampled: frozenset[str],
    resizable: frozenset[str],
    growing: Growing = NO_GROWTH,
    do: frozenset[str] = frozenset(),
) -> SubstituteFn:
    """Latent values from the posterior, set values, and draws of other sites, see `Scenario`."""
    counter = itertools.count(1)  # 0 is for the key of the model

    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Any:
        if name in do:
            site["is_observed"] = False
            return set_value(name, site, steps, values[name])
        if site["value"] is not None:
            if not (site["is_observed"] and name in resampled):
                return None
            site["is_observed"] = False
            extra = jnp.ndim(site["value"]) - len(site_shape(site))
            rows = jnp.shape(site["value"])[: max(extra, 0)]  # data outside any plate
            return _draw(name, site, steps, key, next(counter), rows)
        fixed = fixed_value(site)
        if fixed is not None:
            return fixed
        number = next(counter)
        if name not in values:
            return _draw(name, site, steps, key, number)

        def draw() -> Array:
            return _draw(name, site, steps, key, number)

        found = fitted_value(name, site, steps, values[name], draw, growing)
        if found is not None:
            return found
        if name not in resizable:
            raise other_size(name, site, steps, values[name].shape)
        return draw()

    return substitute


def _draw(
    name: str,
    site: Message,
    steps: tuple[Step, ...],
    key: Array | OffsetKey,
    number: int,
    rows: tuple[int, ...] = (),
) -> Array:
    """A draw with a key for this site and step, even if the model has a fixed seed."""
    key = numbered_key(key, number)
    for step in steps:
        key = jax.random.fold_in(key, step.index)
    fn = site["fn"]
    try:
        return fn(rng_key=key, sample_shape=(*rows, *site["kwargs"].get("sample_shape", ())))
    except NotImplementedError as error:
        raise ModelError(
            f"site {name!r}: expected a distribution that can be sampled, got "
            f"{type(fn).__name__} over {fn.support}. Pass its value to the model, or use a proper "
            "distribution."
        ) from error
