"""NumPyro's initialization strategies (`init_to_median`, ...) as initial values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array
from numpyro import handlers

from vijax.contracts import Batch
from vijax.model.tracing.arguments import Arguments
from vijax.runtime.handler_lock import handler_lock


def init_strategy(
    model: Callable[..., Any], arguments: Arguments, strategy: Callable[..., Any]
) -> Callable[[Array, Batch], dict[str, Array]]:
    """`(key, batch) -> initial values by site` of a strategy of `numpyro.infer.initialization`."""

    def run(key: Array, batch: Batch) -> dict[str, Array]:
        args, kwargs = arguments.join(batch.data)
        # seed inside: strategies draw with the keys of the sites
        seeded = handlers.seed(model, key)
        substituted = handlers.substitute(seeded, substitute_fn=strategy)
        with handler_lock:
            trace = handlers.trace(substituted).get_trace(*args, **kwargs)
        return {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }

    return run
