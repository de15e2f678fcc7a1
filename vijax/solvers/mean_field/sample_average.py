"""The mean-field ELBO on draws that stay fixed: a deterministic function of means and log sds."""

from __future__ import annotations

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.solvers.gaussians.dense import LOG_2PI


class FixedObjective:
    """`E(mu, s) = mean_m log p(mu + exp(s) z_m) + sum(s) + const` on fixed noise `z_m`.

    Its derivatives need the scores `g_m` of the draws alone: `dE/dmu = mean g_m` and
    `dE/ds = mean(exp(s) z_m g_m) + 1`; a Hessian-vector product needs one such product of `log p`
    at each draw. A point is `(a, b)` with `mu = mu0 + exp(s0) a` and `s = s0 + b`, which takes
    the units out. It can be called like a `Kernel`, and be climbed like one. Source: Black box
    variational inference with a deterministic objective, Giordano, Ingram, Broderick, 2024.

    Args:
        kernel: the compiled log density and gradient.
        noise: standard normal `(num_draws, d)`.
        mean: `mu0` `(d,)`.
        sd: `exp(s0)` `(d,)`.

    Attributes:
        dim: length of a point, `2 d`.
    """

    def __init__(self, kernel: Kernel, noise: Floats, mean: Floats, sd: Floats) -> None:
        self.kernel, self.noise, self.mean, self.sd = kernel, noise, mean, sd
        self.dim = 2 * noise.shape[1]

    @property
    def eps(self) -> float:
        """Spacing of the values relative to their size, as the device computes them."""
        return self.kernel.eps

    def round(self, points: Floats) -> Floats:
        """A copy of the points: they stay on the host, in float64."""
        return np.array(points, np.float64)

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """ELBO `(num,)` and its gradient `(num, 2 d)` at points `(num, 2 d)`.

        A log density of -inf at one draw makes the ELBO -inf.
        """
        mean, sd = self.moments(points)
        draws = mean[:, None] + sd[:, None] * self.noise
        flat = draws.reshape(-1, self.kernel.dim)
        log_density, score = self.kernel(flat)
        # the device moved the draws to its own grid: move the values back, to first order
        shift = np.sum(score * (flat - self.kernel.round(flat)), axis=1)
        log_density = log_density + np.where(np.isfinite(shift), shift, 0.0)
        score = score.reshape(draws.shape)
        constant = np.log(sd).sum(axis=1) + 0.5 * sd.shape[1] * (1 + LOG_2PI)
        widening = 1 + np.mean(sd[:, None] * self.noise * score, axis=1)
        gradient = np.concatenate([self.sd * score.mean(axis=1), widening], axis=1)
        return log_density.reshape(draws.shape[:2]).mean(axis=1) + constant, gradient

    def slope(self) -> Floats:
        """Gradient `(2 d,)` at `mean` and `sd` themselves."""
        return self(np.zeros((1, self.dim)))[1][0]

    def products(self, point: Floats, vectors: Floats) -> Floats:
        """Hessian of the ELBO at `point` `(2 d,)` times each row of `vectors` `(num, 2 d)`.

        Compiles `Kernel.paired_products` when it is first asked for.
        """
        half = self.dim // 2
        mean, sd = (one[0] for one in self.moments(point))
        spread = sd * self.noise
        along, stretch = self.sd * vectors[:, :half], vectors[:, half:]
        moves = along[:, None] + stretch[:, None] * spread
        where = np.broadcast_to(mean + spread, moves.shape)
        bent = self.kernel.paired_products(where.reshape(-1, half), moves.reshape(-1, half))
        bent = bent.reshape(moves.shape)
        _, score = self.kernel(mean + spread)
        lower = np.mean(spread * bent, axis=1) + np.mean(spread * score, axis=0) * stretch
        return np.concatenate([self.sd * bent.mean(axis=1), lower], axis=1)

    def moments(self, points: Floats) -> tuple[Floats, Floats]:
        """Means and sds `(num, d)` of the mean-field Gaussians at points `(num, 2 d)`."""
        half = self.dim // 2
        points = np.atleast_2d(points)
        return self.mean + self.sd * points[:, :half], self.sd * np.exp(points[:, half:])
