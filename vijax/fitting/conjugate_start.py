"""The start of stochastic variational inference: coordinate ascent on some of the rows."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from vijax.contracts import Batch, Variables
from vijax.engine.conjugate_rows import on_rows
from vijax.engine.problem import Problem
from vijax.engine.row_parameters import merge, shared, take, variable_axes
from vijax.guides.conjugate import BoundConjugate
from vijax.runtime.device_layout import on_host
from vijax.runtime.keys import fold_in
from vijax.solvers.coordinate_ascent import CoordinateAscent

_ROWS = 10_000  # enough to find the components of a mixture, in a fraction of an epoch
_SWEEPS = 100
_RESTARTS = 32  # of five overlapping components 8 find all in 5 of 8 fits, 24 in 7 of 8
_TOLERANCE = 0.1  # in nats of the ELBO scaled to all rows, far below the error of a subsample


def subsample_start(
    problem: Problem, variables: Variables, number: int, random: bool
) -> tuple[Variables, int]:
    """Variables whose global blocks maximize the ELBO of the first batches of rows.

    Args:
        problem: the problem, on minibatches.
        variables: initial ones.
        number: of the restart.
        random: whether other starts may be tried, see `vijax.solvers.perturbation`.

    Returns:
        The variables, and the number of batches.
    """
    guide = problem.guide
    assert isinstance(guide, BoundConjugate)
    count = _num_batches(problem)
    rows = {
        name: count * plate.subsample_size for name, plate in problem.schedule.subsampled.items()
    }
    target, batch = on_rows(problem.target, rows), _first_batches(problem, count)
    axes = variable_axes(guide, variables, problem.target.space, problem.target.subsampled)
    restarts = _RESTARTS if random and guide.plan.multimodal else 0
    solver = CoordinateAscent(_SWEEPS, _TOLERANCE, restarts, rotate=False)
    key = fold_in(fold_in(problem.key, 6), number)
    solution = solver.solve(key, target, guide, take(variables, axes, batch.index), batch)
    return on_host(merge(shared(solution.variables, axes), variables)), count


def _num_batches(problem: Problem) -> int:
    """Batches of the first epoch with about `_ROWS` rows, of several plates in all."""
    plates = problem.schedule.subsampled.values()
    rows = _ROWS ** (1 / len(plates))
    counts = (
        min(plate.size // plate.subsample_size, math.ceil(rows / plate.subsample_size))
        for plate in plates
    )
    return min(counts)


def _first_batches(problem: Problem, count: int) -> Batch:
    """The data with the rows of the first `count` steps."""
    parts = [problem.schedule.batch(problem.batch, step) for step in range(count)]
    index = jax.tree.map(lambda *rows: np.concatenate(rows), *(part.index for part in parts))
    fetched = {
        name: np.concatenate(
            [part.fetched[name] for part in parts], problem.target.subsampling.axes[name][0][1]
        )
        for name in parts[0].fetched
    }
    return problem.batch._replace(index=index, fetched=jax.tree.map(jnp.asarray, fetched))
