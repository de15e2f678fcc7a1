"""The posterior predictive distribution of a fitted model, at the same or at new inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, PyTree, Target
from vijax.model.analysis import trace_with_default_rows, values_and_distributions
from vijax.model.log_density import log_density_model
from vijax.model.traced_model import TracedModel
from vijax.model.tracing import substitution
from vijax.model.tracing.arguments import ModelCall, split, unwrap
from vijax.model.tracing.handler import Message, Step, SubstituteFn
from vijax.model.tracing.sites import Trace, at_step, fixed_value, is_data, site_shape
from vijax.runtime.errors import ModelError
from vijax.runtime.fingerprint import fingerprint
from vijax.runtime.jaxpr_digest import jaxpr_digest

Draws = dict[str, Array]


def predictor(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: Target,
    by_content: frozenset[str] = frozenset(),
) -> tuple[Callable[..., Draws], Batch]:
    """A compiled program for the posterior predictive at new arguments, and its batch.

    Latent sites take their posterior draws, `param` sites their fitted values. An observed site
    whose data are missing (`y=None`) is sampled given the data of the others; if no data are
    missing, all observed sites are sampled, each given the sampled values of earlier ones. Sites
    that were not in the fit are sampled from their conditional distribution, and so are
    marginalized discrete sites in plates of another size than in the fit, whose rows are new. A
    scan may have more steps than in the fit.

    Args:
        model: the model function.
        args: its new positional arguments.
        kwargs: its new keyword arguments.
        target: the target of the fit.
        by_content: its arrays that are static, see `Arguments.by_content`.

    Returns:
        `(keys, values, batch, model, mutable) -> draws`, where `keys` and the constrained latent
        `values` have a leading axis of draws, and `model` and `mutable` are those of the fit; and
        `batch`. `draws` has every sampled site and deterministic by name.

    Raises:
        ArgumentError: the arguments do not match the model.
        ModelError: when the program runs: a latent has another shape than in the fit.
    """
    model, args, kwargs = unwrap(model, args, kwargs)
    if model is log_density_model:
        raise ModelError(
            "predict: expected a model with observations, got a log density. Simulate data from "
            "posterior.sample() instead."
        )
    arguments, data = split(model, args, kwargs, by_content=by_content)
    traced = TracedModel(model, arguments)
    code = fingerprint(model, opaque_by_identity=True)
    lookup = (code, arguments.lookup, _digest(traced))
    return target.program(_predict, ModelCall(lookup, model, arguments)), Batch(data)


def _digest(traced: TracedModel) -> str:
    """The digest of the model's program, with all that the model read while it was traced."""

    def run(data: dict[str, Array]) -> list[Array]:
        trace = traced.trace(Batch(data), _origin_or_draw, with_log_density=False)
        return values_and_distributions(trace)

    return jaxpr_digest(jax.make_jaxpr(run)(traced.arguments.abstract()))


def _predict(
    target: Target,
    call: ModelCall,
    keys: Array,
    values: Draws,
    batch: Batch,
    model: dict[str, PyTree],
    mutable: dict[str, PyTree],
) -> Draws:
    traced = TracedModel(call.model, call.arguments)
    trace = trace_with_default_rows(traced, _origin_or_draw, with_log_density=False)
    resampled = _resampled(trace, target.structure.observed)

    def draw(key: Array, values: Draws) -> Draws:
        substitute_fn = _from_posterior(
            key, values, resampled, frozenset(target.marginalized.sizes)
        )
        run_key = batch._replace(key=jax.random.fold_in(key, 0))
        trace = traced.trace(run_key, substitute_fn, model, mutable, with_log_density=False)
        return {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "deterministic"
            or (site["type"] == "sample" and not site["is_observed"] and name not in values)
        }

    return jax.vmap(draw)(keys, values)


def _origin_or_draw(name: str, site: Message, steps: tuple[Step, ...]) -> Any:
    """The origin of unconstrained space if it is defined, else a draw: only shapes are needed."""
    try:
        return substitution.at_origin(name, site, steps)
    except (ModelError, jax.errors.ConcretizationTypeError):  # a binomial with counts from data
        return None


def _resampled(trace: Trace, fitted: tuple[str, ...]) -> frozenset[str]:
    """The observed sites that are sampled although their data are given."""
    given = {_base_name(name): name for name, site in trace.items() if is_data(site)}
    observed = {_base_name(name) for name in fitted}
    if not observed <= given.keys():
        return frozenset()  # only sites with missing data are sampled
    return frozenset(given[name] for name in observed)


def _base_name(name: str) -> str:
    return name.removesuffix("_observed")  # `obs_mask` splits a site in two


def _from_posterior(
    key: Array, values: Draws, resampled: frozenset[str], discrete: frozenset[str]
) -> SubstituteFn:
    """Latent values from the posterior, and draws of other sites from their distributions.

    `discrete` sites of another shape than in the fit are sampled, since their rows are new.
    """
    counter = itertools.count(1)  # 0 is for the key of the model

    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Any:
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
        if name not in values:
            return _draw(name, site, steps, key, next(counter))
        number = next(counter)

        def draw() -> Array:
            return _draw(name, site, steps, key, number)

        return _posterior_value(name, site, steps, values[name], draw, name in discrete)

    return substitute


def _posterior_value(
    name: str,
    site: Message,
    steps: tuple[Step, ...],
    series: Array,
    draw: Callable[[], Array],
    may_resize: bool,
) -> Array:
    expected = (*(step.length for step in steps), *site_shape(site))
    if series.shape == expected:
        return at_step(series, steps)
    if len(steps) == 1 and series.shape[1:] == expected[1:] and len(series) < expected[0]:
        index = steps[0].index  # a longer series, with new steps at the end
        past = series[jnp.minimum(index, len(series) - 1)]
        return jnp.where(index < len(series), past, draw())
    if may_resize:
        return draw()
    raise ModelError(
        f"site {name!r}: expected the shape {series.shape} that it had in the fit, got {expected} "
        "at these inputs. The posterior is that of the fitted groups: predict with the same plate "
        f"sizes, or sample the values of new groups from their prior with from_prior=[{name!r}]."
    )


def _draw(
    name: str,
    site: Message,
    steps: tuple[Step, ...],
    key: Array,
    number: int,
    rows: tuple[int, ...] = (),
) -> Array:
    """A draw with a key for this site and step, even if the model has a fixed seed."""
    key = jax.random.fold_in(key, number)
    for step in steps:
        key = jax.random.fold_in(key, step.index)
    fn = site["fn"]
    try:
        return fn(rng_key=key, sample_shape=(*rows, *site["kwargs"].get("sample_shape", ())))
    except NotImplementedError as error:
        raise ModelError(
            f"site {name!r}: expected a distribution that can be sampled, got "
            f"{type(fn).__name__} over {fn.support}. It was not a latent site of the fit; pass its "
            "value to the model, or use a proper distribution."
        ) from error
