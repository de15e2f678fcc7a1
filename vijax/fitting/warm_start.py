"""What a fit takes over from an earlier posterior that had another guide, or other rows of data."""

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

_ROWS = 4096  # that a guide infers at a time
_NUMBERS = 2**24  # of draws that say where a part is
_DRAWS = 500  # most of them


class Carried(NamedTuple):
    """An earlier posterior, seen from a new problem.

    Attributes:
        earlier: the earlier one.
        parts: the independent parts of its guide whose sites and coordinates are the problem's.
            What was inferred from data has parameters for every row of the problem's data, unless
            the problem's guide infers it likewise.
    """

    earlier: FitResult
    parts: tuple[Part, ...]

    def location(self, target: Target) -> Position:
        """The middle of every part, in unconstrained space; the origin, if it infers from data."""
        found: dict[str, Any] = {}
        for part in self.parts:
            if isinstance(part.guide, AmortizedGuide):
                found |= origin(part.space)
                continue
            num = max(1, min(_DRAWS, _NUMBERS // part.space.dim))
            program = target.program(_draws, part.guide, part.space, num)
            z = jax.device_get(program(part.params, as_key(0), self.earlier.batch))
            found |= {name: np.median(x, axis=0).astype(x.dtype) for name, x in z.items()}
        return found

    def params(self, guide: Guide, fresh: PyTree, space: Space) -> PyTree:
        """Parameters of a guide as `fresh`, but for what it has in common with the earlier one."""
        return guide.map_parts(
            fresh, space, lambda own: own.guide.transfer(own.params, own.space, self.parts)
        )


def carried(earlier: FitResult, problem: Problem) -> Carried:
    """What of an earlier posterior a problem can start from."""
    target, found = problem.target, []
    shapes = jax.eval_shape(
        lambda *at: problem.guide.init(at[0], target.space, *at[1:]),
        problem.key,
        abstract_position(target.space),
        problem.first_batch,
    )
    ours = [
        (own.guide, own.space.names)
        for own in problem.guide.independent_parts(shapes, target.space)
    ]
    for part in earlier.guide.independent_parts(earlier.params, earlier.target.space):
        space = target.space.subset(part.space.names)
        inferred = isinstance(part.guide, AmortizedGuide)
        known = inferred and space.names == part.space.names
        if (known or space.same_coordinates(part.space)) and _alike(
            earlier, problem, space, inferred
        ):
            part = part._replace(space=space)
            apart = inferred and (part.guide, space.names) not in ours
            found.append(_by_row(part, problem) if apart else part)
    return Carried(earlier, tuple(found))


def state(
    earlier: FitResult, parameters: dict[str, PyTree], mutable: dict[str, PyTree]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """The earlier values of `param` sites and mutable state, where the model has the same ones."""
    theirs, ours = (earlier.variables.model, earlier.mutable), (parameters, mutable)
    one, other = (
        jax.tree.map(lambda leaf: (np.shape(leaf), np.result_type(leaf)), tree)
        for tree in (theirs, ours)
    )
    return theirs if one == other else ours


def _alike(earlier: FitResult, problem: Problem, space: Space, inferred: bool) -> bool:
    """Whether the coordinates of the sites are the same."""
    ours, theirs = (jax.device_get(b.centering) for b in (problem.batch, earlier.batch))
    return all(
        # counts are inferred from the least that the data of their rows allow
        (inferred and site.cardinality is not None) or _same(site.name, ours, theirs)
        for site in space.sites
    )


def _same(name: str, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> bool:
    if name not in ours or name not in theirs:
        return (name in ours) == (name in theirs)
    one, other = ours[name], theirs[name]
    return np.array_equal(one, other) or np.ptp(np.concatenate([one, other], axis=None)) == 0


def _by_row(part: Part, problem: Problem) -> Part:
    """What a guide infers from all rows, some rows at a time."""
    guide, params, space = part
    assert isinstance(guide, AmortizedGuide)
    (plate,) = space.sites[0].plates
    size = min(_ROWS, plate.size)
    rows = space.on_rows({plate.name: size})
    program = problem.target.program(_row_params, guide, rows)
    some = [jax.device_get(program(params, one)) for one in problem.by_rows(plate.name, size)]
    axes = guide.row_guide.row_axes(some[0], rows, [plate.name])

    def together(along: Any, *leaves: np.ndarray) -> np.ndarray:
        ((_, axis),) = along.pairs
        return np.concatenate(leaves, axis).take(np.arange(plate.size), axis)

    return Part(guide.row_guide, jax.tree.map(together, axes, *some), space)


def _row_params(
    target: Target, guide: AmortizedGuide, rows: Space, params: PyTree, batch: Batch
) -> PyTree:
    return guide.row_params(params, rows, batch)


def _draws(
    target: Target, guide: Guide, space: Space, num: int, params: PyTree, key: Array, batch: Batch
) -> Position:
    keys = jax.random.split(key, num)
    return jax.vmap(lambda one: guide.draw(params, space, one, batch).z)(keys)
