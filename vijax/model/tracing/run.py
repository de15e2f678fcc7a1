"""Runs a model function once, with the values of its sample sites substituted.

The value of a site is determined when the site is reached, given its distribution at that point.
The support of a distribution that depends on other latents, also in `ImproperUniform` or in a
`scan`, is therefore always current.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from jax import Array
from numpyro import handlers
from numpyro.distributions import Distribution

from vijax.contracts import PyTree
from vijax.model.tracing.checks import check_observed
from vijax.model.tracing.handler import Message, Step, SubstituteFn, ValueHandler, ValueSources
from vijax.model.tracing.params import constrain_param
from vijax.model.tracing.sites import Trace, is_latent
from vijax.model.tracing.validation import validate_concrete_arguments
from vijax.runtime.handler_lock import handler_lock

SampledSites = frozenset[str] | Literal["all"]


def run_model(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    key: Array,
    substitute_fn: SubstituteFn,
    params: Mapping[str, PyTree] | None = None,
    mutable: Mapping[str, PyTree] | None = None,
    index: Mapping[str, Array] | None = None,
    full_sizes: Mapping[str, int] | None = None,
    with_log_density: bool = True,
    vectorized_loops: frozenset[int] = frozenset(),
    first_step: bool = False,
    num_steps: int | None = None,
    sampled: SampledSites = frozenset(),
    latents_traced: bool = True,
    deterministic: SubstituteFn | None = None,
    arguments: Callable[[Distribution], PyTree] | None = None,
) -> Trace:
    """The model's trace, with the values of sample sites from `substitute_fn`.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        key: key for sites without a substituted value and for `numpyro.prng_key`.
        substitute_fn: the value of a sample site, see `SubstituteFn`.
        params: `param` sites in unconstrained space; others take the model's initial value.
        mutable: mutable state by name.
        index: rows in use of subsampled plates.
        full_sizes: their full sizes, where the model is given only the rows in use.
        with_log_density: whether the log density of the trace is needed.
        vectorized_loops: scans whose steps are vectorized, of which the trace has some steps only.
        first_step: whether that is the first step, or all others.
        num_steps: how many others at most, see `vectorized_scan`.
        sampled: discrete latent sites that are sampled by the guide, not marginalized.
        latents_traced: see `validate_concrete_arguments`.
        deterministic: the value of a deterministic, see `ValueSources`.
        arguments: likewise.
    """

    def sample(name: str, site: Message, steps: tuple[Step, ...]) -> Any:
        if is_latent(site) and site["fn"].is_discrete and (sampled == "all" or name in sampled):
            site["_sampled"] = True
        return substitute_fn(name, site, steps)

    def param(name: str, site: Message) -> PyTree | None:
        return constrain_param(params[name], site) if params and name in params else None

    sources = ValueSources(
        sample,
        param,
        mutable or {},
        index or {},
        full_sizes or {},
        with_log_density,
        deterministic,
        arguments,
        vectorized_loops=vectorized_loops,
        first_step=first_step,
        num_steps=num_steps,
    )
    # seed outside: sites that have a value need no key, and no split is traced
    seeded = handlers.seed(ValueHandler(model, sources), key)
    with handler_lock, validate_concrete_arguments(latents_traced):
        trace: Trace = handlers.trace(seeded).get_trace(*args, **kwargs)
    for name, (size, used) in sources.plates.items():
        if name not in trace:  # NumPyro omits the plates of control flow bodies
            trace[name] = {"type": "plate", "name": name, "args": (size, used)}
    check_observed(trace)
    return trace
