"""Coordinates in which sums of products of columns lose no digits."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

_FLOOR = 1e-14  # of the smallest variance, relative to the largest


class Coordinates(NamedTuple):
    """`z = forward (x - shift)`, in which the data have mean zero and covariance one.

    Sums of products of columns that are nearly collinear, or far from the origin, would cancel.

    Attributes:
        shift: mean of the columns, `(d,)`.
        forward: `(d, d)`.
        backward: its inverse, `(d, d)`.
    """

    shift: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    @classmethod
    def of(cls, data: np.ndarray, whiten: bool) -> Self:
        """Of data `(N, d)`; without `whiten` they are only centered."""
        shift, identity = data.mean(axis=0), np.eye(data.shape[1])
        if not whiten:
            return cls(shift, identity, identity)
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(data.T)))
        largest = values[-1] if values[-1] > 0 else 1.0
        scales = np.sqrt(np.maximum(values, _FLOOR * largest))
        return cls(shift, vectors.T / scales[:, None], vectors * scales)

    @property
    def log_det(self) -> float:
        """Of the change of coordinates: what a log density in `z` lacks to one in `x`."""
        return float(np.linalg.slogdet(self.forward)[1])

    def points(self, x: np.ndarray) -> np.ndarray:
        """Rows in these coordinates, `(N, d)`."""
        return (x - self.shift) @ self.forward.T

    def original_points(self, z: np.ndarray) -> np.ndarray:
        """The inverse of `points`."""
        return z @ self.backward.T + self.shift

    def covariance(self, x: np.ndarray) -> np.ndarray:
        """Covariance matrices in these coordinates, `(*B, d, d)`."""
        return self.forward @ x @ self.forward.T

    def original_covariance(self, z: np.ndarray) -> np.ndarray:
        """The inverse of `covariance`."""
        return self.backward @ z @ self.backward.T
