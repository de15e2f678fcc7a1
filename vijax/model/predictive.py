"""The posterior predictive of a fitted model, at its own and at new inputs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, PyTree, Target
from vijax.model.log_density import log_density_model
from vijax.model.survey import inspect
from vijax.model.traced_model import TracedModel
from vijax.model.tracing import run as running
from vijax.model.tracing import substitution as samplers
from vijax.model.tracing.arguments import Arguments, split, unwrap
from vijax.model.tracing.handler import Step
from vijax.model.tracing.sites import is_data
from vijax.runtime.errors import ModelError
from vijax.runtime.fingerprint import fingerprint

Draws = dict[str, Array]


def predictor(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], target: Target
) -> tuple[Callable[..., Draws], Batch]:
    """A compiled program for the posterior predictive at new arguments, and the batch it takes.

    Latent sites take their posterior draws, `param` sites their fitted values. An observed site
    whose data is left out (`y=None`) is sampled, given the data of the others; if the data of
    all of them is there, all are sampled anew, each given the new values of those before. Sites
    that the fit did not have come from their distribution given the rest, and so do discrete
    sites in plates of another size than in the fit: their rows are new ones. A scan may go on for
    more steps than in the fit.

    Args:
        model: the model function.
        args: its new positional arguments.
        kwargs: its new keyword arguments.
        target: the fit's target.

    Returns:
        `(keys, values, batch, model, mutable) -> draws`, where `keys` and the latents `values`
        (constrained) have a leading axis of draws, `model` and `mutable` are those of the fit;
        and `batch`. `draws` holds every sampled site and deterministic by name.

    Raises:
        ArgumentError: the arguments do not fit the model.
        ModelError: when the program runs: a latent has another shape than in the fit.
    """
    model, args, kwargs = unwrap(model, args, kwargs)
    if model is log_density_model:
        raise ModelError(
            "predict: expected a model with observations, got a log density. Draw from it by hand, "
            "given posterior.sample()."
        )
    arguments, data = split(model, args, kwargs)
    lookup = (fingerprint(model), arguments.lookup)
    return target.program(_predict, _Prediction(lookup, model, arguments)), Batch(data)


@dataclasses.dataclass(frozen=True)
class _Prediction:
    """A model at new arguments; equal if its lookup is."""

    lookup: Hashable
    model: Callable[..., Any] = dataclasses.field(compare=False)
    arguments: Arguments = dataclasses.field(compare=False)


def _predict(
    target: Target,
    prediction: _Prediction,
    keys: Array,
    values: Draws,
    batch: Batch,
    model: dict[str, PyTree],
    mutable: dict[str, PyTree],
) -> Draws:
    traced = TracedModel(prediction.model, prediction.arguments)
    trace = inspect(traced, _at_any_value, scored=False)
    anew = _sampled_anew(trace, target.structure.observed)

    def draw(key: Array, values: Draws) -> Draws:
        sampler = _from_posterior(key, values, anew, frozenset(target.marginalized.sizes))
        run_key = batch._replace(key=jax.random.fold_in(key, 0))
        trace = traced.trace(run_key, sampler, model, mutable, scored=False)
        return {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "deterministic"
            or (site["type"] == "sample" and not site["is_observed"] and name not in values)
        }

    return jax.vmap(draw)(keys, values)


def _at_any_value(name: str, site: running.Site, steps: tuple[Step, ...]) -> Any:
    """The origin of unconstrained space where there is one, else a draw: shapes are all we need."""
    try:
        return samplers.at_origin(name, site, steps)
    except (ModelError, jax.errors.ConcretizationTypeError):  # a binomial of trials that are data
        return None


def _sampled_anew(trace: running.Trace, fitted: tuple[str, ...]) -> frozenset[str]:
    """Sites that are sampled although their data is given."""
    given = {_plain(name): name for name, site in trace.items() if is_data(site)}
    wanted = {_plain(name) for name in fitted}
    if not wanted <= given.keys():
        return frozenset()  # what was left out is predicted from what is given
    return frozenset(given[name] for name in wanted)


def _plain(name: str) -> str:
    return name.removesuffix("_observed")  # `obs_mask` splits a site in two


def _from_posterior(
    key: Array, values: Draws, anew: frozenset[str], discrete: frozenset[str]
) -> running.Sampler:
    """Latents from the posterior, everything else drawn from its distribution.

    So are `discrete` ones of another shape than in the fit: their rows are new ones.
    """
    counter = itertools.count(1)  # 0 is the model's own randomness

    def sampler(name: str, site: running.Site, steps: tuple[Step, ...]) -> Any:
        if site["value"] is not None:
            if not (site["is_observed"] and name in anew):
                return None
            site["is_observed"] = False
            extra = jnp.ndim(site["value"]) - len(running.site_shape(site))
            rows = jnp.shape(site["value"])[: max(extra, 0)]  # data outside any plate
            return _draw(name, site, steps, key, next(counter), rows)
        fixed = running.fixed_value(site)
        if fixed is not None:
            return fixed
        if name not in values:
            return _draw(name, site, steps, key, next(counter))
        number = next(counter)

        def draw() -> Array:
            return _draw(name, site, steps, key, number)

        return _posterior_value(name, site, steps, values[name], draw, name in discrete)

    return sampler


def _posterior_value(
    name: str,
    site: running.Site,
    steps: tuple[Step, ...],
    series: Array,
    draw: Callable[[], Array],
    free: bool,
) -> Array:
    expected = (*(step.length for step in steps), *running.site_shape(site))
    if series.shape == expected:
        return running.at_step(series, steps)
    if len(steps) == 1 and series.shape[1:] == expected[1:] and len(series) < expected[0]:
        index = steps[0].index  # a longer series: its further steps are new
        past = series[jnp.minimum(index, len(series) - 1)]
        return jnp.where(index < len(series), past, draw())
    if free:
        return draw()
    raise ModelError(
        f"site {name!r}: expected the shape {series.shape} that it had in the fit, got {expected} "
        "at these inputs. The posterior knows the fitted groups only: predict with the same plate "
        f"sizes, or have those of new groups drawn from their prior, redraw=[{name!r}]."
    )


def _draw(
    name: str,
    site: running.Site,
    steps: tuple[Step, ...],
    key: Array,
    number: int,
    rows: tuple[int, ...] = (),
) -> Array:
    """A draw with a key of its own, even where the model has been given a fixed seed."""
    key = jax.random.fold_in(key, number)
    for step in steps:
        key = jax.random.fold_in(key, step.index)
    fn = site["fn"]
    try:
        return fn(rng_key=key, sample_shape=(*rows, *site["kwargs"].get("sample_shape", ())))
    except NotImplementedError as error:
        raise ModelError(
            f"site {name!r}: expected a distribution that can be sampled, got "
            f"{type(fn).__name__} over {fn.support}. It was no latent of the fit; give its value "
            "to the model, or a proper distribution."
        ) from error
