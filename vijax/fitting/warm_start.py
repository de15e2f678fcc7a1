"""Warm start of a fit from an earlier posterior, possibly with another guide or other data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.contracts import AmortizedGuide, Batch, Guide, Part, Position, PyTree, Space, Target
from vijax.engine.initialization import origin
from vijax.engine.problem import Problem
from vijax.model.data_dependence import abstract_position
from vijax.posterior.result import FitResult
from vijax.runtime.keys import as_key

_ROWS = 4096  # rows per evaluation of an amortized guide
_MAX_ELEMENTS = 2**24  # limit for draws times coordinates
_DRAWS = 500  # maximum number of draws to estimate a location


class WarmStart(NamedTuple):
    """The parts of an earlier posterior that apply to a new problem.

    Attributes:
        earlier: the earlier posterior.
        parts: the independent parts of its guide with the same sites and coordinates in the
            problem. Amortized parts have per-row parameters for the problem's data, unless the
            problem's guide contains the same amortized part.
    """

    earlier: FitResult
    parts: tuple[Part, ...]

    def location(self, target: Target) -> Position:
        """The median of every part in unconstrained space; the origin for amortized parts."""
        found: dict[str, Any] = {}
        for part in self.parts:
            if isinstance(part.guide, AmortizedGuide):
                found |= origin(part.space)
                continue
            num = max(1, min(_DRAWS, _MAX_ELEMENTS // part.space.dim))
            program = target.program(_draws, part.guide, part.space, num)
            z = jax.device_get(program(part.params, as_key(0), self.earlier.batch))
            found |= {name: np.median(x, axis=0).astype(x.dtype) for name, x in z.items()}
        return found

    def params(self, guide: Guide, fresh: PyTree, space: Space) -> PyTree:
        """The parameters `fresh` of a guide, those of parts in common taken from `earlier`."""
        return guide.map_parts(
            fresh, space, lambda part: part.guide.transfer(part.params, part.space, self.parts)
        )


def warm_start(earlier: FitResult, problem: Problem) -> WarmStart:
    """The parts of an earlier posterior's guide that apply to a problem."""
    target, found = problem.target, []
    shapes = jax.eval_shape(
        lambda *at: problem.guide.init(at[0], target.space, *at[1:]),
        problem.key,
        abstract_position(target.space),
        problem.first_batch,
    )
    ours = [
        (part.guide, part.space.names)
        for part in problem.guide.independent_parts(shapes, target.space)
    ]
    for part in earlier.guide.independent_parts(earlier.params, earlier.target.space):
        space = target.space.subset(part.space.names)
        amortized = isinstance(part.guide, AmortizedGuide)
        same_sites = amortized and space.names == part.space.names
        if (same_sites or space.same_coordinates(part.space)) and _same_coordinates(
            earlier, problem, space, amortized
        ):
            part = part._replace(space=space)
            expand = amortized and (part.guide, space.names) not in ours
            found.append(_with_row_params(part, problem) if expand else part)
    return WarmStart(earlier, tuple(found))


def warm_state(
    earlier: FitResult, parameters: dict[str, PyTree], mutable: dict[str, PyTree]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Earlier values of `param` sites and mutable state if structures agree, else those given."""
    theirs, ours = (earlier.variables.model, earlier.mutable), (parameters, mutable)
    one, other = (
        jax.tree.map(lambda leaf: (np.shape(leaf), np.result_type(leaf)), tree)
        for tree in (theirs, ours)
    )
    return theirs if one == other else ours


def _same_coordinates(earlier: FitResult, problem: Problem, space: Space, amortized: bool) -> bool:
    """Whether centering weights and count bounds of the sites are the same."""
    ours, theirs = (jax.device_get(b.centering) for b in (problem.batch, earlier.batch))
    return all(
        # amortized guides over counts are relative to the lower bounds of each row
        (amortized and site.cardinality is not None) or _same_centering(site.name, ours, theirs)
        for site in space.sites
    )


def _same_centering(
    name: str, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> bool:
    if name not in ours or name not in theirs:
        return (name in ours) == (name in theirs)
    one, other = ours[name], theirs[name]
    return np.array_equal(one, other) or np.ptp(np.concatenate([one, other], axis=None)) == 0


def _with_row_params(part: Part, problem: Problem) -> Part:
    """An amortized part evaluated on all rows: the guide with per-row parameters."""
    guide, params, space = part
    assert isinstance(guide, AmortizedGuide)
    (plate,) = space.sites[0].plates
    size = min(_ROWS, plate.size)
    rows = space.on_rows({plate.name: size})
    program = problem.target.program(_row_params, guide, rows)
    blocks = [jax.device_get(program(params, one)) for one in problem.row_blocks(plate.name, size)]
    axes = guide.row_guide.row_axes(blocks[0], rows, [plate.name])

    def concatenate(along: Any, *leaves: np.ndarray) -> np.ndarray:
        ((_, axis),) = along.pairs
        return np.concatenate(leaves, axis).take(np.arange(plate.size), axis)

    return Part(guide.row_guide, jax.tree.map(concatenate, axes, *blocks), space)


def _row_params(
    target: Target, guide: AmortizedGuide, rows: Space, params: PyTree, batch: Batch
) -> PyTree:
    return guide.row_params(params, rows, batch)


def _draws(
    target: Target, guide: Guide, space: Space, num: int, params: PyTree, key: Array, batch: Batch
) -> Position:
    keys = jax.random.split(key, num)
    return jax.vmap(lambda one: guide.draw(params, space, one, batch).z)(keys)
