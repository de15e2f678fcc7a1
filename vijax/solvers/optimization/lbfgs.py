"""Multi-path L-BFGS on the host: every path puts one trial point into each call of the kernel.

Paths do not wait for one another: while one shrinks its step, another has accepted its own and
goes on. The initial inverse Hessian is a diagonal, updated from every pair, so that coordinates
of very different scale cost little. Sources: Nocedal and Wright, Numerical Optimization, 2006,
algorithms 7.4 and 7.5; the diagonal, Gilbert and Lemarechal, Some numerical experiments with
variable-storage quasi-Newton algorithms, 1989; the approximate Wolfe condition for noisy function
values, Hager and Zhang, A new conjugate gradient method with guaranteed descent, 2005.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vijax.contracts.kernel import Climbable, Floats
from vijax.solvers.optimization.paths import (
    CONVERGED,
    EXHAUSTED,
    NO_START,
    STRAGGLER,
    STUCK,
    Path,
    positive_curvature,
    update_diagonal,
)

_RUNNING = ""
_SUFFICIENT = 1e-4  # Armijo constant
_CURVATURE = 0.9  # weak Wolfe constant
_MAX_TRIALS = 12  # trial points in one line search
_MAX_SETTLED = 30
_QUIET = 3  # iterations in a row whose predicted gain is negligible


@dataclasses.dataclass(frozen=True)
class LBFGS:
    """Options of the optimizer.

    Args:
        history: pairs kept.
        max_trials: trial points per path; a step takes one or two.
        tolerance: predicted gain in nats, `g' H g / 2`, below which a step is negligible. The
            unit makes it independent of the scale of the parameters.
        patience: once half the paths have ended, the others get this many times what those took.
        probed: dimension up to which every coordinate is tried before a path counts as converged.
    """

    history: int = 10
    max_trials: int = 1000
    tolerance: float = 1e-4
    patience: float = 3.0
    probed: int = 256

    def climb(self, kernel: Climbable, starts: Floats, keep: bool = True) -> list[Path]:
        """Maximizes the log density from each of `starts` `(num_paths, dim)`.

        Args:
            kernel: the log density and gradient, a `Kernel` as a rule.
            starts: starting points; one that is not finite ends its path at once, see
                `finite_starts`.
            keep: keep all iterates, else the first and the last.
        """
        return _Climb(self, kernel, starts, keep).run()


class _Climb:
    """All paths of one run; row `i` of every array belongs to path `i`. Minimizes `f = -log p`."""

    def __init__(self, options: LBFGS, kernel: Climbable, starts: Floats, keep: bool) -> None:
        self.options, self.kernel, self.keep = options, kernel, keep
        num, dim = starts.shape
        self.x = kernel.round(starts)
        log_density, gradient = kernel(self.x)
        self.f, self.g = -log_density, -gradient
        self.s = np.zeros((num, options.history, dim))
        self.y = np.zeros((num, options.history, dim))
        self.rho = np.zeros((num, options.history))  # 1 / s'y; zero makes a slot inert
        self.diagonal = np.ones((num, dim))
        self.direction = np.zeros((num, dim))
        self.slope = np.zeros(num)
        self.low, self.step, self.high = np.zeros(num), np.zeros(num), np.full(num, np.inf)
        self.trials = np.zeros(num, int)
        self.spent = np.zeros(num, int)  # trial points in all
        self.quiet = np.zeros(num, int)
        self.settled = np.zeros(num, int)  # times it seemed to be at the top
        self.reasons = np.full(num, _RUNNING, dtype=object)
        self.trace: list[list[tuple[Floats, float, Floats]]] = [[self._snap(i)] for i in range(num)]
        finite = np.isfinite(self.f) & np.isfinite(self.g).all(axis=1)
        self.reasons[~finite] = NO_START
        self._aim(np.flatnonzero(finite))

    def run(self) -> list[Path]:
        while (running := np.flatnonzero(self.reasons == _RUNNING)).size:
            self._advance(running)
            self._limit()
        return [
            Path(
                points=np.stack([point for point, _, _ in snaps]),
                log_density=-np.array([f for _, f, _ in snaps]),
                gradient=-np.stack([g for _, _, g in snaps]),
                reason=reason,
            )
            for snaps, reason in zip(self.trace, self.reasons, strict=True)
        ]

    def _snap(self, i: int) -> tuple[Floats, float, Floats]:
        return self.x[i].copy(), float(self.f[i]), self.g[i].copy()

    def _advance(self, paths: np.ndarray) -> None:
        """One trial point for each of `paths`, then judges it."""
        step, slope, f0 = self.step[paths], self.slope[paths], self.f[paths]
        x = self.kernel.round(self.x[paths] + step[:, None] * self.direction[paths])
        log_density, gradient = self.kernel(x)
        f, g = -log_density, -gradient
        finite = np.isfinite(f) & np.isfinite(g).all(axis=1)
        g = np.where(finite[:, None], g, 0.0)
        new_slope = np.einsum("pd,pd->p", g, self.direction[paths])
        # Function values are only good to rounding; within it the slope decides.
        noise = 8 * self.kernel.resolution * np.abs(f0)
        lower = f <= f0 + _SUFFICIENT * step * slope
        level = (f <= f0 + noise) & (np.abs(new_slope) <= 0.8 * np.abs(slope))
        moved = (x != self.x[paths]).any(axis=1)
        down = finite & moved & (lower | level)
        flat = new_slope >= _CURVATURE * slope
        self.trials[paths] += 1
        self.spent[paths] += 1
        over = self.trials[paths] >= _MAX_TRIALS

        accept = down & (flat | over)
        self._shrink(paths[~down], f[~down], finite[~down])
        longer = down & ~accept
        self._lengthen(paths[longer], new_slope[longer])
        self._fail(paths[~down & (over | ~moved)])
        if accept.any():
            self._accept(paths[accept], x[accept], f[accept], g[accept])

    def _shrink(self, paths: np.ndarray, f: Floats, finite: np.ndarray) -> None:
        """The trial went up, or nowhere: look between the last good step and this one."""
        low, high = self.low[paths], self.step[paths]
        self.high[paths] = high
        slope = self.slope[paths]
        with np.errstate(all="ignore"):
            # minimum of the parabola through f(0), f'(0) and f(high)
            minimum = -0.5 * slope * high**2 / (f - self.f[paths] - slope * high)
        width = high - low
        inside = np.clip(minimum, low + 0.1 * width, low + 0.5 * width)
        guess = np.where(np.isfinite(minimum), inside, low + 0.5 * width)
        self.step[paths] = np.where(finite, guess, low + 0.2 * width)

    def _lengthen(self, paths: np.ndarray, new_slope: Floats) -> None:
        """The trial went down and the slope is still steep: go further."""
        step, slope = self.step[paths], self.slope[paths]
        self.low[paths] = step
        with np.errstate(all="ignore"):
            secant = np.where(new_slope > slope, step * slope / (slope - new_slope), np.inf)
        beyond = np.clip(secant, 2 * step, 10 * step)
        middle = 0.5 * (step + self.high[paths])
        self.step[paths] = np.where(np.isfinite(self.high[paths]), middle, beyond)

    def _fail(self, paths: np.ndarray) -> None:
        """No trial went down: the top to working precision, or forget the history, or give up."""
        for i in paths:
            noise = 8 * self.kernel.resolution * abs(self.f[i])
            if -0.5 * self.slope[i] < max(self.options.tolerance, noise):
                self._settle(i)
            elif self.rho[i].any():
                self._restart(i)
            else:
                self.reasons[i] = STUCK

    def _settle(self, i: int) -> None:
        """The predicted gain is negligible: believes it if steps along the coordinates agree.

        Where curvature fell by orders of magnitude on the way, the history still takes directions
        it has not explored lately for steep ones, and predicts no gain in a place that has some.
        """
        self.reasons[i] = CONVERGED
        if self.x.shape[1] <= self.options.probed and self.settled[i] < _MAX_SETTLED:
            self.settled[i] += 1
            self._probe(i)

    def _probe(self, i: int) -> None:
        """Goes on from the best step along a coordinate, if any goes up, with new scales.

        The lengths are those at which the slope alone would gain a fifth of a nat: a coordinate
        whose optimum is more than a third of its standard deviation away shows a gain.
        """
        x, f, g = self.x[i], self.f[i], self.g[i]
        slope = np.maximum(np.abs(g), 1e-30)
        length = np.minimum(0.2 / slope, 10 * (1 + np.abs(x)))
        points = self.kernel.round(x - np.diag(np.sign(g) * length))
        log_density, gradient = self.kernel(points)
        gains = log_density + f
        best = int(np.argmax(gains))
        noise = 8 * self.kernel.resolution * abs(f)
        if not gains[best] > max(0.02, noise) or not np.isfinite(gradient[best]).all():
            return
        curvature = np.abs(np.diag(gradient) + g) / length
        # no coordinate is to move more than ten times as far as it was tried
        curvature = np.maximum(
            np.where(np.isfinite(curvature), curvature, 1e30), slope / length / 10
        )
        self.x[i], self.f[i], self.g[i] = points[best], -log_density[best], -gradient[best]
        self.trace[i].append(self._snap(i))
        self.rho[i], self.diagonal[i] = 0, 1 / curvature
        self.quiet[i], self.reasons[i] = 0, _RUNNING
        self._aim(np.array([i]))
        self.step[i] = 1.0  # the scales are known, unlike at the start

    def _restart(self, i: int) -> None:
        self.rho[i], self.diagonal[i], self.quiet[i] = 0, 1, 0
        self._aim(np.array([i]))

    def _accept(self, paths: np.ndarray, x: Floats, f: Floats, g: Floats) -> None:
        s, y = x - self.x[paths], g - self.g[paths]
        gain = self.f[paths] - f
        self.x[paths], self.f[paths], self.g[paths] = x, f, g
        self._remember(paths, s, y)
        for i in paths:
            if not self.keep:
                del self.trace[i][1:]
            self.trace[i].append(self._snap(i))
        self._aim(paths)
        noise = self.kernel.resolution * np.abs(f)
        predicted = np.maximum(-0.5 * self.slope[paths], gain)
        quiet = predicted < np.maximum(self.options.tolerance, 0.5 * noise)
        self.quiet[paths] = np.where(quiet, self.quiet[paths] + 1, 0)
        for i in paths[self.quiet[paths] >= _QUIET]:
            self._settle(i)

    def _limit(self) -> None:
        """Ends paths that use more trial points than they may, or far more than the others."""
        running = self.reasons == _RUNNING
        self.reasons[running & (self.spent >= self.options.max_trials)] = EXHAUSTED
        done = self.spent[~running]
        if 2 * done.size > len(self.x):
            limit = self.options.patience * np.median(done) + 20
            self.reasons[running & (self.spent > limit)] = STRAGGLER

    def _remember(self, paths: np.ndarray, s: Floats, y: Floats) -> None:
        """Stores pairs of positive curvature, and fits the diagonal to them."""
        sy = np.einsum("pd,pd->p", s, y)
        good = positive_curvature(s, y)
        paths, s, y, sy = paths[good], s[good], y[good], sy[good]
        for store, new in ((self.s, s), (self.y, y), (self.rho, 1 / sy)):
            store[paths, :-1] = store[paths, 1:]
            store[paths, -1] = new
        first = self.rho[paths, :-1].any(axis=1) == 0
        self.diagonal[paths[first]] = (sy[first] / np.sum(y[first] ** 2, axis=1))[:, None]
        self.diagonal[paths] = update_diagonal(self.diagonal[paths], s, y)

    def _aim(self, paths: np.ndarray) -> None:
        """A new direction `-H g` from the two-loop recursion, and a first step along it."""
        s, y, rho = self.s[paths], self.y[paths], self.rho[paths]
        q = self.g[paths].copy()
        weights = np.zeros_like(rho)
        for j in reversed(range(rho.shape[1])):
            weights[:, j] = rho[:, j] * np.einsum("pd,pd->p", s[:, j], q)
            q -= weights[:, j, None] * y[:, j]
        q *= self.diagonal[paths]
        for j in range(rho.shape[1]):
            back = rho[:, j] * np.einsum("pd,pd->p", y[:, j], q)
            q += (weights[:, j] - back)[:, None] * s[:, j]
        self.direction[paths] = -q
        self.slope[paths] = -np.einsum("pd,pd->p", q, self.g[paths])
        # Without a history the gradient has no scale: start with a step of length one at most.
        length = np.sqrt(np.einsum("pd,pd->p", q, q))
        fresh = ~rho.any(axis=1)
        self.step[paths] = np.where(fresh, 1 / np.maximum(length, 1), 1.0)
        self.low[paths], self.high[paths], self.trials[paths] = 0.0, np.inf, 0
