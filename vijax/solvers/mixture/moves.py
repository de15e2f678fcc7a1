"""Moves that change several components at once: merges, deletions and splits.

Coordinate ascent moves rows between components that overlap, and stops at a local optimum in which
two components share a cluster while another one covers two. A move only proposes statistics; the
sweeps that follow and the bound decide. Sources: SMEM Algorithm for Mixture Models, Ueda, Nakano,
Ghahramani and Hinton, 2000; Memoized Online Variational Inference for Dirichlet Process Mixture
Models, Hughes and Sudderth, 2013.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.solvers.mixture.components import Components
from vijax.solvers.mixture.start import sums_of_features

BATCH = 16  # proposals that are refined together
IN_USE = 0.5  # expected rows; a component with fewer is free for a split


class Sample(NamedTuple):
    """Rows on which moves are proposed.

    Attributes:
        data: `(n, d)`.
        responsibilities: of the components, `(n, K)`.
        offset: of the features, `(p,)`.
        scale: rows of the data for each of these.
    """

    data: np.ndarray
    responsibilities: np.ndarray
    offset: np.ndarray
    scale: float


def proposals(
    components: type[Components],
    statistics: np.ndarray,
    sample: Sample,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Statistics of `BATCH` mixtures, `(BATCH, K, p)`; the first is the present one.

    A quarter each are merges and deletions where there are enough components, the rest are splits.

    Args:
        components: of the mixture.
        statistics: present ones, `(K, p)`.
        sample: rows, with their responsibilities.
        rng: source of draws.
    """
    used = np.flatnonzero(statistics[:, 0] > IN_USE)
    pairs = overlapping(sample.responsibilities, used)
    found = [statistics]
    found += [merged(statistics, *pair) for pair in pairs[: BATCH // 4]]
    smallest = used[np.argsort(statistics[used, 0])]
    found += [deleted(statistics, k) for k in smallest[: BATCH // 4] if len(used) > 1]
    sizes = statistics[used, 0] / statistics[used, 0].sum()
    while len(found) < BATCH:
        k = rng.choice(used, p=(sizes + 1 / len(used)) / 2)  # small ones, too
        base = room_for_split(statistics, used, pairs, k)
        found.append(split(components, *base, k, sample, rng))
    return np.stack(found)


def overlapping(responsibilities: np.ndarray, used: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of components by how much the rows they are responsible for are the same."""
    r = responsibilities[:, used]
    products = r.T @ r
    norms = np.sqrt(np.diag(products)) + np.finfo(float).tiny
    alike = products / norms / norms[:, None]
    first, second = np.triu_indices(len(used), 1)
    order = np.argsort(-alike[first, second], kind="stable")
    return [(int(used[first[i]]), int(used[second[i]])) for i in order]


def merged(statistics: np.ndarray, a: int, b: int) -> np.ndarray:
    """One component from two; the other keeps its prior."""
    new = statistics.copy()
    new[a] += new[b]
    new[b] = 0
    return new


def deleted(statistics: np.ndarray, k: int) -> np.ndarray:
    """Without a component, whose rows the next sweep gives to others."""
    new = statistics.copy()
    new[k] = 0
    return new


def room_for_split(
    statistics: np.ndarray, used: np.ndarray, pairs: list[tuple[int, int]], k: int
) -> tuple[np.ndarray, int]:
    """Statistics with a free component other than `k`, and its number.

    If none is free, the two that overlap most are merged; with fewer than three, `k` itself is
    returned, which proposes new starts for one component.
    """
    free = np.setdiff1d(np.arange(len(statistics)), used)
    if len(free):
        return statistics, int(free[0])
    for a, b in pairs:
        if k not in (a, b):
            return merged(statistics, a, b), b
    return statistics, int(used[used != k][0]) if len(used) > 1 else k


def split(
    components: type[Components],
    statistics: np.ndarray,
    free: int,
    k: int,
    sample: Sample,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Two components from one, divided halfway between two of its rows drawn at random."""
    share = sample.responsibilities[:, k]
    new = statistics.copy()
    if np.count_nonzero(share) < 2 or free == k:
        return new
    one, other = sample.data[rng.choice(len(share), 2, p=share / share.sum())]
    side = (sample.data - 0.5 * (one + other)) @ (one - other) > 0
    for target, weights in ((k, share * side), (free, share * ~side)):
        sums = sums_of_features(components, sample.data, weights, sample.offset)
        new[target] = sample.scale * sums
    return new
