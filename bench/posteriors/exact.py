"""Exact draws, in NumPy and double precision, of posteriors that have a closed form or two axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_DRAWS = 100_000


def rng() -> np.random.Generator:
    return np.random.default_rng(20_240_601)


def flat_regression(x: np.ndarray, y: np.ndarray, num_draws: int = _DRAWS) -> dict[str, np.ndarray]:
    """`y ~ N(x beta, sigma)` with flat `beta` and flat `sigma > 0`.

    The residual sum of squares over `sigma^2` is chi-squared with `n - p - 1` degrees of freedom
    (one less than under the prior `1 / sigma`), and `beta` is normal given `sigma`.
    """
    x, y, random = np.asarray(x, float), np.asarray(y, float), rng()
    (rows, columns), (q, r) = x.shape, np.linalg.qr(x)
    center = np.linalg.solve(r, q.T @ y)
    squares = float(np.sum((y - x @ center) ** 2))
    sigma = np.sqrt(squares / random.chisquare(rows - columns - 1, num_draws))
    noise = np.linalg.solve(r, random.normal(size=(columns, num_draws))).T
    return {"beta": center + sigma[:, None] * noise, "sigma": sigma}


def on_grid(
    log_density: Callable[[np.ndarray, np.ndarray], np.ndarray],
    first: np.ndarray,
    second: np.ndarray,
    num_draws: int = _DRAWS,
) -> np.ndarray:
    """Draws `(num_draws, 2)` of a density of two variables, from its values on a fine grid."""
    values = log_density(first[:, None], second[None, :])
    mass = np.exp(values - values.max())
    random = rng()
    cells = random.choice(mass.size, size=num_draws, p=mass.ravel() / mass.sum())
    i, j = np.unravel_index(cells, mass.shape)
    jitter = random.uniform(-0.5, 0.5, size=(2, num_draws))
    a = first[i] + jitter[0] * (first[1] - first[0])
    b = second[j] + jitter[1] * (second[1] - second[0])
    return np.stack([a, b], axis=1)
