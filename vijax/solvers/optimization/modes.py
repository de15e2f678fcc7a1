"""Which mode each optimization path reached."""

from __future__ import annotations

import itertools

import numpy as np

from vijax.contracts.kernel import Kernel
from vijax.solvers.optimization.paths import Path

_MIN_DIP = 3.0  # nats: smallest dip of the log density between two distinct modes


def assign_modes(kernel: Kernel, paths: list[Path]) -> np.ndarray:
    """Index of the mode that each path reached, from 0 for the highest; -1 if it did not converge.

    Two endpoints of similar log density belong to the same mode if the log density on the line
    segment between them does not dip more than 3 nats below the lower one, directly or through a
    sequence of such pairs. A much lower endpoint is assigned to the highest endpoint that it is
    connected to.

    Args:
        kernel: the compiled log density and gradient.
        paths: the paths.

    Returns:
        Mode indices `(num_paths,)`.
    """
    ends = [i for i, path in enumerate(paths) if path.converged]
    log_density = {i: paths[i].log_density[-1] for i in ends}
    groups = {i: i for i in ends}
    pairs = list(itertools.combinations(sorted(ends, key=lambda i: -log_density[i]), 2))
    if pairs:
        between = [
            paths[i].points[-1] + t * (paths[j].points[-1] - paths[i].points[-1])
            for i, j in pairs
            for t in (0.25, 0.5, 0.75)
        ]
        minima = kernel(np.stack(between))[0].reshape(-1, 3).min(axis=1)
        connected = [
            (i, j)
            for (i, j), minimum in zip(pairs, minima, strict=True)
            if minimum > log_density[j] - _MIN_DIP  # j is the lower of the two
        ]
        for i, j in connected:
            if log_density[i] - log_density[j] < _MIN_DIP:
                label = groups[j]
                groups = {k: groups[i] if old == label else old for k, old in groups.items()}
        # a much lower endpoint, such as a saddle point, joins the highest endpoint connected to it
        # but does not merge two modes
        for j in ends:
            above = [
                i for i, k in connected if k == j and log_density[i] - log_density[j] >= _MIN_DIP
            ]
            if above:
                label = groups[j]
                group_members = [k for k in ends if groups[k] == label]
                if all(log_density[k] - log_density[j] < _MIN_DIP for k in group_members):
                    groups |= {k: groups[above[0]] for k in group_members}
    group_max = {
        label: max(log_density[i] for i in ends if groups[i] == label) for label in groups.values()
    }
    rank = {
        label: n for n, label in enumerate(sorted(group_max, key=lambda label: -group_max[label]))
    }
    return np.array([rank[groups[i]] if i in groups else -1 for i in range(len(paths))])
