"""Local blocks of a conjugate guide on minibatches: the optimum of every row, in blocks of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vijax.contracts import Batch, Target, Variables
from vijax.engine.problem import Problem
from vijax.engine.row_parameters import take, variable_axes
from vijax.guides.conjugate import BoundConjugate
from vijax.runtime.device_layout import on_host
from vijax.solvers.block_updates import local_blocks, solve_local

_ROWS = 4096  # rows solved at once


def on_rows(target: Target, rows: Mapping[str, int]) -> Target:
    """The target of batches with `rows` (number by plate) of some plates in use.

    The same target each time, so that its programs are compiled once.
    """
    plates = dict(target.subsampling.plates)
    for plate, number in rows.items():
        plates[plate] = dataclasses.replace(plates[plate], subsample_size=number)
    return target.copy(
        tuple(sorted(rows.items())),
        space=target.space.on_rows(rows),
        subsampling=target.subsampling._replace(plates=plates),
    )


def with_solved_rows(problem: Problem, variables: Variables) -> Variables:
    """The variables, local blocks of all rows at their optimum given the global ones.

    Steps leave the rows as they were when last visited. Rows of several plates, which depend on
    one another, stay as they are.
    """
    target, guide = problem.target, problem.guide
    assert isinstance(guide, BoundConjugate)
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    plates = {plate for along in jax.tree.leaves(axes) for plate, _ in along.pairs}
    if len(plates) != 1:
        return variables
    plate = target.subsampling.plates[plates.pop()]
    rows = {plate.name: min(_ROWS, plate.size)}
    program = on_rows(target, rows).program(_solved, guide, local_blocks(target, guide.plan))
    blocks = [
        on_host(program(take(variables, axes, batch.index), batch))
        for batch in problem.row_blocks(plate.name, rows[plate.name])
    ]

    def join(along: Any, *leaves: np.ndarray) -> np.ndarray:
        if not along.pairs:
            return leaves[0]
        ((_, axis),) = along.pairs
        return np.concatenate(leaves, axis).take(np.arange(plate.size), axis)

    return jax.tree.map(join, axes, *blocks)


def _solved(
    target: Target, guide: BoundConjugate, local: frozenset[str], variables: Variables, batch: Batch
) -> Variables:
    rows = solve_local(target, guide.plan, variables.guide, batch, local)
    return variables._replace(guide=rows)
