"""Starts of a mixture: hard assignments of rows to centers drawn far from one another."""

from __future__ import annotations

import numpy as np

from vijax.solvers.mixture.components import Components


def sums_of_features(
    components: type[Components], data: np.ndarray, weights: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Statistics of weighted rows, `(p,)`, without an array of their features.

    Args:
        components: of the mixture.
        data: `(N, d)`.
        weights: of the rows, `(N,)`.
        offset: added to the features of every row, `(p,)`.
    """
    augmented = np.concatenate([np.ones((len(data), 1)), data], axis=1)
    products = (weights[:, None] * augmented).T @ augmented
    first, second = components.pairs(data.shape[1])
    return products[first, second] + products[0, 0] * offset


def assigned(
    components: type[Components],
    data: np.ndarray,
    labels: np.ndarray,
    count: int,
    offset: np.ndarray,
) -> np.ndarray:
    """Statistics `(K, p)` of components to which rows belong by their labels `0, ..., K - 1`."""
    found = [
        sums_of_features(components, data[rows], np.ones(rows.sum()), offset)
        for rows in (labels == k for k in range(count))
    ]
    return np.stack(found)


def plus_plus(data: np.ndarray, count: int, rng: np.random.RandomState) -> np.ndarray:
    """Labels of rows by the nearest of `K` centers, `(N,)`.

    The centers are rows drawn with probabilities proportional to the squared distance to the
    nearest center so far. Source: k-means++: The Advantages of Careful Seeding, Arthur and
    Vassilvitskii, 2007.

    Args:
        data: `(N, d)`, in units in which columns are comparable.
        count: `K`.
        rng: source of the draws.
    """
    labels = np.zeros(len(data), int)
    nearest = np.full(len(data), np.inf)
    center = rng.randint(len(data))
    for k in range(count):
        distances = np.sum((data - data[center]) ** 2, axis=1)
        labels = np.where(distances < nearest, k, labels)
        nearest = np.minimum(nearest, distances)
        total = np.cumsum(nearest)
        if total[-1] == 0:  # fewer different rows than components
            break
        center = int(np.searchsorted(total, rng.uniform() * total[-1], side="right"))
        center = min(center, len(data) - 1)
    return labels
