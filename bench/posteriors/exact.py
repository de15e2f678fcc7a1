"""Exact draws, in NumPy and double precision.

For posteriors in closed form, in closed form given two parameters, or nearly normal.
"""

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
    mean = np.linalg.solve(r, q.T @ y)
    squares = float(np.sum((y - x @ mean) ** 2))
    sigma = np.sqrt(squares / random.chisquare(rows - columns - 1, num_draws))
    noise = np.linalg.solve(r, random.normal(size=(columns, num_draws))).T
    return {"beta": mean + sigma[:, None] * noise, "sigma": sigma}


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


def varying_intercepts(
    group: np.ndarray, x: np.ndarray, y: np.ndarray, num_draws: int = _DRAWS
) -> dict[str, np.ndarray]:
    """Draws for `bench._problems.varying_intercepts`: a grid over both scales, the rest normal.

    With `k = tau^2 / (sigma^2 + n tau^2)` the covariance of the `n` rows of a group, with the
    intercept marginalized, has the inverse `(I - k 11') / sigma^2`. The grid covers the scales of
    the radon data: `tau` from 0.03 to 1.6, `sigma` from 0.55 to 1.1.
    """
    x, y, random = np.asarray(x, float), np.asarray(y, float), rng()
    design = np.stack([np.ones(len(y)), x], axis=1)
    size = np.bincount(group).astype(float)
    sums = np.stack([np.bincount(group, column) for column in design.T], axis=1)  # (groups, 2)
    total = np.bincount(group, y)

    def conditional(tau, sigma):
        """Precision and mean of `(mu, slope)`, and the log density of the scales."""
        k = tau**2 / (sigma**2 + size * tau**2)  # the last axis is groups
        squared = sigma[..., 0] ** 2
        outer = np.einsum("...g,gi,gj->...ij", k, sums, sums)
        precision = (design.T @ design - outer) / squared[..., None, None] + np.eye(2) / 25
        linear = (design.T @ y - np.einsum("...g,gi,g->...i", k, sums, total)) / squared[..., None]
        mean = np.linalg.solve(precision, linear[..., None])[..., 0]
        found = np.sum(linear * mean, -1) - (y @ y - k @ total**2) / squared
        found -= np.linalg.slogdet(precision)[1] + len(y) * np.log(squared)
        found -= np.log1p(size * (tau / sigma) ** 2).sum(-1)
        return precision, mean, 0.5 * found

    def log_density(log_tau, log_sigma):
        tau, sigma = np.broadcast_arrays(np.exp(log_tau), np.exp(log_sigma))
        prior = -(tau**2 + sigma**2) / 2 + log_tau + log_sigma
        return conditional(tau[..., None], sigma[..., None])[-1] + prior

    axes = np.linspace(-3.5, 0.5, 161), np.linspace(-0.6, 0.1, 141)
    tau, sigma = np.exp(on_grid(log_density, *axes, num_draws)).T
    precision, mean, _ = conditional(tau[:, None], sigma[:, None])
    noise = random.normal(size=(num_draws, 2, 1))
    upper = np.linalg.cholesky(precision).swapaxes(-1, -2)
    mu, slope = (mean + np.linalg.solve(upper, noise)[..., 0]).T
    precise = size / sigma[:, None] ** 2 + 1 / tau[:, None] ** 2
    linear = (total - slope[:, None] * sums[:, 1]) / sigma[:, None] ** 2
    mean = (linear + (mu / tau**2)[:, None]) / precise
    intercept = mean + random.normal(size=mean.shape) / np.sqrt(precise)
    return {"mu": mu, "tau": tau, "slope": slope, "sigma": sigma, "intercept": intercept}


def logistic(x: np.ndarray, y: np.ndarray, num_draws: int = _DRAWS) -> dict[str, np.ndarray]:
    """Logistic regression with standard normal priors: importance resampling of a Laplace proposal.

    Proposals are Student's t with ten degrees of freedom and the curvature at the mode, twice as
    many as the draws requested.
    """
    x, y, random = np.asarray(x, float), np.asarray(y, float), rng()
    degrees, dim = 10, x.shape[1]
    mode = np.zeros(dim)
    for _ in range(30):  # Newton
        chance = 1 / (1 + np.exp(-x @ mode))
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + np.eye(dim)
        mode = mode + np.linalg.solve(curvature, x.T @ (y - chance) - mode)
    normal = random.normal(size=(2 * num_draws, dim))
    scale = np.sqrt(degrees / random.chisquare(degrees, 2 * num_draws))
    offset = np.linalg.solve(np.linalg.cholesky(curvature).T, normal.T).T * scale[:, None]
    beta = mode + offset
    log_q = -0.5 * (degrees + dim) * np.log1p(((normal * scale[:, None]) ** 2).sum(1) / degrees)
    logits = (block @ x.T for block in np.array_split(beta, 1 + len(beta) // 1000))
    log_p = np.concatenate([each @ y - np.logaddexp(0, each).sum(1) for each in logits])
    weight = log_p - 0.5 * (beta**2).sum(1) - log_q
    share = np.exp(weight - weight.max())
    kept = random.choice(len(beta), num_draws, p=share / share.sum())
    return {"beta": beta[kept]}
