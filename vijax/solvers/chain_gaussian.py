"""Gaussians with a block-tridiagonal precision, on the host: everything linear in their length."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax._kernel import Floats


class Tridiagonal(NamedTuple):
    """A symmetric block-tridiagonal matrix.

    Attributes:
        diagonal: blocks `(length, width, width)`.
        below: block `t` is the one of row `t + 1` and column `t`, `(length - 1, width, width)`.
    """

    diagonal: Floats
    below: Floats


class Conditionals(NamedTuple):
    """The chain `x_t = gain_t x_(t-1) + noise` of a precision, for a mean of zero.

    Attributes:
        covariance: of the noise, `(length, width, width)`.
        gain: `(length, width, width)`, the first zero.
    """

    covariance: Floats
    gain: Floats


def conditionals(precision: Tridiagonal) -> Conditionals:
    """Later blocks eliminated one by one: `S_t = D_t - B_t' S_(t+1)^-1 B_t`.

    Raises:
        LinAlgError: the precision is not positive definite.
    """
    diagonal, below = precision
    covariance, gain = np.zeros_like(diagonal), np.zeros_like(diagonal)
    schur = diagonal[-1]
    for t in range(len(diagonal) - 1, -1, -1):
        root = np.linalg.inv(np.linalg.cholesky(schur))
        covariance[t] = root.T @ root
        if t:
            gain[t] = -covariance[t] @ below[t - 1]
            schur = diagonal[t - 1] + below[t - 1].T @ gain[t]
    return Conditionals(covariance, gain)


def solve(chain: Conditionals, right: Floats) -> Floats:
    """`precision^-1 right` for `right` `(length, width)`."""
    covariance, gain = chain
    reduced = right.copy()
    for t in range(len(right) - 1, 0, -1):
        reduced[t - 1] += gain[t].T @ reduced[t]
    out = np.einsum("tij,tj->ti", covariance, reduced)
    for t in range(1, len(right)):
        out[t] += gain[t] @ out[t - 1]
    return out


def marginal_sds(chain: Conditionals) -> Floats:
    """Standard deviations `(length, width)`."""
    covariance, gain = chain
    out, now = np.zeros(covariance.shape[:2]), np.zeros_like(covariance[0])
    for t in range(len(covariance)):
        now = gain[t] @ now @ gain[t].T + covariance[t]
        out[t] = np.sqrt(np.diag(now))
    return out


def draws(chain: Conditionals, noise: Floats) -> Floats:
    """Draws `(num, length, width)` made of as many normals."""
    covariance, gain = chain
    out = np.einsum("tij,ntj->nti", np.linalg.cholesky(covariance), noise)
    for t in range(1, len(covariance)):
        out[:, t] += out[:, t - 1] @ gain[t].T
    return out
