"""The prior of a model: its sites and plates, without a density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vijax.contracts import Batch, Position, Space, Target
from vijax.contracts.target import Structure, Subsampling
from vijax.model.analysis import trace_with_default_rows
from vijax.model.build import functions_of
from vijax.model.minibatch.subsampling import BatchRequest
from vijax.model.traced_model import TracedModel
from vijax.model.tracing import substitution
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.run import SampledSites
from vijax.model.tracing.sites import Trace, all_plates, dims, factors, is_data


class PriorModel(TracedModel):
    """A model that need not have a density: latents that have no bijection are drawn."""

    def __init__(self, model: Callable[..., Any], arguments: Arguments) -> None:
        super().__init__(model, arguments, sampled="all")
        self.start = substitution.at_origin_or_draw

    def _trace_at(
        self,
        z: Position,
        batch: Batch,
        model: Mapping,
        mutable: Mapping,
        with_log_density: bool = True,
    ) -> Trace:
        return self.trace(batch, self.start, model, mutable, with_log_density=False)


def build_prior(
    model: Callable[..., Any],
    arguments: Arguments,
    request: BatchRequest | None = None,
    sampled: SampledSites = frozenset(),
) -> Target:
    """The target of a model at arguments of these shapes, with all but a density and a space.

    Args:
        model: the model function.
        arguments: its static arguments.
        request: not used.
        sampled: not used.

    Raises:
        ModelError: the model fails to run.
    """
    traced = PriorModel(model, arguments)
    trace = trace_with_default_rows(traced, traced.start, with_log_density=False)
    space = Space(())
    return Target(
        space=space,
        functions=functions_of(traced, space, trace),
        structure=Structure(
            observed=tuple(name for name, site in trace.items() if is_data(site)),
            factors=factors(trace),
            dims=dims(trace),
        ),
        subsampling=Subsampling(all_plates(trace)),
    )
