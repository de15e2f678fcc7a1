"""Running statistics of batches in encoders, which steps update beside the parameters."""

from __future__ import annotations

from vijax.contracts import AmortizedGuide, Batch, Guide, Part, PyTree, Space, Target


def has_statistics(guide: Guide, params: PyTree, space: Space) -> bool:
    """Whether an encoder has running statistics of batches (`nnx.BatchNorm`)."""
    parts = guide.independent_parts(params, space) if guide.amortized else []
    return any(isinstance(one.guide, AmortizedGuide) and one.guide.has_statistics for one in parts)


def with_statistics(
    guide: Guide, params: PyTree, before: PyTree, target: Target, batch: Batch
) -> PyTree:
    """The parameters after a step, with the running statistics of encoders updated."""
    if not guide.amortized or not has_statistics(guide, before, target.space):
        return params
    space = target.space
    old = iter(guide.independent_parts(before, space))

    def updated(part: Part) -> PyTree:
        own = next(old)
        if not isinstance(part.guide, AmortizedGuide):
            return part.params
        return part.guide.updated_statistics(part.params, own.params, part.space, batch)

    return guide.map_parts(params, space, updated)
