"""Which optimization paths ended at the same mode."""

from __future__ import annotations

import itertools

import numpy as np

from vijax.contracts.kernel import Kernel
from vijax.solvers.optimization.paths import Path

_BARRIER = 3.0  # nats by which the log density dips between two modes


def separate_basins(kernel: Kernel, paths: list[Path]) -> np.ndarray:
    """The basin each path ended in, from 0 for the highest mode; -1 where it did not converge.

    Two ends of about the same height share a basin when the log density on the straight line
    between them does not dip more than a few nats below the lower one, directly or by way of
    others. An end far below joins the highest end that a line leads up to.

    Args:
        kernel: the compiled log density and gradient.
        paths: the paths.

    Returns:
        Basin numbers `(num_paths,)`.
    """
    ends = [i for i, path in enumerate(paths) if path.converged]
    height = {i: paths[i].log_density[-1] for i in ends}
    group = {i: i for i in ends}
    pairs = list(itertools.combinations(sorted(ends, key=lambda i: -height[i]), 2))
    if pairs:
        between = [
            paths[i].points[-1] + t * (paths[j].points[-1] - paths[i].points[-1])
            for i, j in pairs
            for t in (0.25, 0.5, 0.75)
        ]
        lowest = kernel(np.stack(between))[0].reshape(-1, 3).min(axis=1)
        linked = [
            (i, j)
            for (i, j), low in zip(pairs, lowest, strict=True)
            if low > height[j] - _BARRIER  # j is the lower of the two
        ]
        for i, j in linked:
            if height[i] - height[j] < _BARRIER:
                joined = group[j]
                group = {k: group[i] if label == joined else label for k, label in group.items()}
        # an end far below, a saddle say, belongs to the highest it leads up to, and joins no two
        for j in ends:
            above = [i for i, k in linked if k == j and height[i] - height[j] >= _BARRIER]
            if above:
                joined = group[j]
                members = [k for k in ends if group[k] == joined]
                if all(height[k] - height[j] < _BARRIER for k in members):
                    group |= {k: group[above[0]] for k in members}
    top = {label: max(height[i] for i in ends if group[i] == label) for label in group.values()}
    rank = {label: n for n, label in enumerate(sorted(top, key=lambda label: -top[label]))}
    return np.array([rank[group[i]] if i in group else -1 for i in range(len(paths))])
