"""The mean-field ELBO on fixed draws: a deterministic function of means and log sds."""

from __future__ import annotations

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.solvers.gaussians.dense import LOG_2PI


class SampleAverageObjective:
    """`E(mu, s) = mean_m log p(mu + exp(s) z_m) + sum(s) + const` on fixed noise `z_m`.

    Its gradient requires only the scores `g_m` of the draws: `dE/dmu = mean g_m` and
    `dE/ds = mean(exp(s) z_m g_m) + 1`; a Hessian-vector product requires one such product of
    `log p` at each draw. A point is `(a, b)` with `mu = mu0 + exp(s0) a` and `s = s0 + b`, which
    makes it independent of units. A `DifferentiableObjective`, like a `Kernel`. Source: Black box
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
        """Relative spacing of floating-point values on the device."""
        return self.kernel.eps

    def round(self, points: Floats) -> Floats:
        """A copy of the points, in float64: they are not rounded."""
        return np.array(points, np.float64)

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """ELBO `(num,)` and its gradient `(num, 2 d)` at points `(num, 2 d)`.

        If the log density is -inf at a draw, so is the ELBO.
        """
        mean, sd = self.moments(points)
        draws = mean[:, None] + sd[:, None] * self.noise
        flat = draws.reshape(-1, self.kernel.dim)
        log_density, score = self.kernel(flat)
        # the device rounds the draws: corrects the values for this, to first order
        correction = np.sum(score * (flat - self.kernel.round(flat)), axis=1)
        log_density = log_density + np.where(np.isfinite(correction), correction, 0.0)
        score = score.reshape(draws.shape)
        constant = np.log(sd).sum(axis=1) + 0.5 * sd.shape[1] * (1 + LOG_2PI)
        log_sd_gradient = 1 + np.mean(sd[:, None] * self.noise * score, axis=1)
        gradient = np.concatenate([self.sd * score.mean(axis=1), log_sd_gradient], axis=1)
        return log_density.reshape(draws.shape[:2]).mean(axis=1) + constant, gradient

    def gradient(self) -> Floats:
        """Gradient `(2 d,)` at `mean` and `sd`."""
        return self(np.zeros((1, self.dim)))[1][0]

    def products(self, point: Floats, vectors: Floats) -> Floats:
        """Hessian of the ELBO at `point` `(2 d,)` times each row of `vectors` `(num, 2 d)`.

        Compiles `Kernel.paired_products` on first use.
        """
        half = self.dim // 2
        mean, sd = (one[0] for one in self.moments(point))
        deviations = sd * self.noise
        d_mean, d_log_sd = self.sd * vectors[:, :half], vectors[:, half:]
        tangents = d_mean[:, None] + d_log_sd[:, None] * deviations
        draws = np.broadcast_to(mean + deviations, tangents.shape)
        products = self.kernel.paired_products(draws.reshape(-1, half), tangents.reshape(-1, half))
        products = products.reshape(tangents.shape)
        _, score = self.kernel(mean + deviations)
        lower = np.mean(deviations * products, axis=1)
        lower = lower + np.mean(deviations * score, axis=0) * d_log_sd
        return np.concatenate([self.sd * products.mean(axis=1), lower], axis=1)

    def moments(self, points: Floats) -> tuple[Floats, Floats]:
        """Means and sds `(num, d)` of the mean-field Gaussians at points `(num, 2 d)`."""
        half = self.dim // 2
        points = np.atleast_2d(points)
        return self.mean + self.sd * points[:, :half], self.sd * np.exp(points[:, half:])
