"""NumPyro's initialization strategies (`init_to_median`, ...), and draws from the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array
from numpyro import handlers

from vijax.contracts import Batch
from vijax.model.tracing.arguments import Arguments
from vijax.runtime.handler_lock import handler_lock


def init_strategy(
    model: Callable[..., Any], arguments: Arguments, strategy: Callable[..., Any] | None
) -> Callable[[Array, Batch], dict[str, Array]]:
    """`(key, batch) -> values by latent site` of a strategy of `numpyro.infer.initialization`.

    Without a strategy they are a draw from the prior.
    """

    def run(key: Array, batch: Batch) -> dict[str, Array]:
        args, kwargs = arguments.join(batch.data)
        # seed inside: strategies draw with the keys of the sites
        seeded = handlers.seed(model, key)
        started = handlers.substitute(seeded, substitute_fn=strategy) if strategy else seeded
        with handler_lock:
            trace = handlers.trace(started).get_trace(*args, **kwargs)
        return {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }

    return run
