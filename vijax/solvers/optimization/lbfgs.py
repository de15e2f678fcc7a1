"""Multi-path L-BFGS on the host: all paths evaluate one trial point each per kernel call.

Paths advance independently: one may shorten its step while another accepts a step and moves on. The
initial inverse Hessian is a diagonal, updated from every pair, so that badly scaled coordinates
cost few iterations. Sources: Nocedal and Wright, Numerical Optimization, 2006, algorithms 7.4 and
7.5; the diagonal, Gilbert and Lemarechal, Some numerical experiments with variable-storage
quasi-Newton algorithms, 1989; the approximate Wolfe condition for noisy function values, Hager and
Zhang, A new conjugate gradient method with guaranteed descent, 2005.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from vijax.contracts.kernel import DifferentiableObjective, Floats
from vijax.runtime.deadline import time_is_up
from vijax.solvers.optimization.paths import (
    CONVERGED,
    EVALUATION_LIMIT,
    LINE_SEARCH_FAILED,
    NO_START,
    SLOW_PATH,
    Path,
    out_of_time,
    positive_curvature,
    update_diagonal,
)

_RUNNING = ""
_ARMIJO = 1e-4  # Armijo constant
_WOLFE = 0.9  # weak Wolfe constant
_MAX_TRIALS = 12  # function evaluations per line search
_MAX_PROBES = 30  # coordinate searches per path
MIN_GAIN = 0.02  # nats by which a single-coordinate step has to improve
_NUM_SMALL_GAINS = 3  # consecutive negligible predicted gains before the convergence check


@dataclasses.dataclass(frozen=True)
class LBFGS:
    """Options of the L-BFGS optimizer.

    Args:
        history: number of stored pairs.
        max_evaluations: function evaluations per path; an iteration takes one or two.
        tolerance: predicted gain in nats, `g' H g / 2`, below which a step is negligible;
            independent of the scale of the parameters.
        patience: once half of the paths have ended, the others may use this many times the median
            number of evaluations of those.
        max_probe_dim: dimension up to which convergence is confirmed by a search along every
            coordinate.
    """

    history: int = 10
    max_evaluations: int = 1000
    tolerance: float = 1e-4
    patience: float = 3.0
    max_probe_dim: int = 256

    def maximize(
        self, kernel: DifferentiableObjective, starts: Floats, keep_iterates: bool = True
    ) -> list[Path]:
        """Maximizes the log density from each of `starts` `(num_paths, dim)`.

        Args:
            kernel: the log density and gradient, usually a `Kernel`.
            starts: starting points; a path from a non-finite one ends immediately, see
                `finite_starts`.
            keep_iterates: keep all iterates, otherwise the first and the last.
        """
        return MultiPathRun(self, kernel, starts, keep_iterates).run()


class MultiPathRun:
    """State of all paths; row `i` of every array belongs to path `i`. Minimizes `f = -log p`."""

    def __init__(
        self, options: LBFGS, kernel: DifferentiableObjective, starts: Floats, keep_iterates: bool
    ) -> None:
        self.options, self.kernel, self.keep_iterates = options, kernel, keep_iterates
        num, dim = starts.shape
        self.x = kernel.round(starts)
        log_density, gradient = self.evaluate(np.arange(num), self.x)
        self.f, self.g = -log_density, -gradient
        self.s = np.zeros((num, options.history, dim))
        self.y = np.zeros((num, options.history, dim))
        self.rho = np.zeros((num, options.history))  # 1 / s'y; zero disables a slot
        self.diagonal = np.ones((num, dim))
        self.direction = np.zeros((num, dim))
        self.slope = np.zeros(num)
        self.low, self.step, self.high = np.zeros(num), np.zeros(num), np.full(num, np.inf)
        self.trials = np.zeros(num, int)
        self.evaluations = np.zeros(num, int)  # function evaluations per path
        self.small_gain = np.zeros(num, int)
        self.num_probes = np.zeros(num, int)  # coordinate searches per path
        self.reasons = np.full(num, _RUNNING, dtype=object)
        self.trace: list[list[tuple[Floats, float, Floats]]] = [[] for _ in range(num)]
        self.record(np.arange(num))
        finite = np.isfinite(self.f) & np.isfinite(self.g).all(axis=1)
        self.reasons[~finite] = NO_START
        self._set_direction(np.flatnonzero(finite))

    def evaluate(self, paths: np.ndarray, points: Floats) -> tuple[Floats, Floats]:
        """Log density and gradient at a point of each of `paths`."""
        return self.kernel(points)

    def record(self, paths: np.ndarray) -> None:
        """Notes the iterates that `paths` have reached."""
        for i in paths:
            if not self.keep_iterates:
                del self.trace[i][1:]
            self.trace[i].append(self._snapshot(i))

    def ascend(self) -> None:
        """Advances all paths until they have ended."""
        while (running := np.flatnonzero(self.reasons == _RUNNING)).size:
            self._advance(running)
            self.enforce_limits()

    def run(self) -> list[Path]:
        self.ascend()
        return [
            Path(
                points=np.stack([point for point, _, _ in snapshots]),
                log_density=-np.array([f for _, f, _ in snapshots]),
                gradient=-np.stack([g for _, _, g in snapshots]),
                reason=reason,
            )
            for snapshots, reason in zip(self.trace, self.reasons, strict=True)
        ]

    def _snapshot(self, i: int) -> tuple[Floats, float, Floats]:
        return self.x[i].copy(), float(self.f[i]), self.g[i].copy()

    def _advance(self, paths: np.ndarray) -> None:
        """Evaluates one trial point for each of `paths`, and accepts it or adjusts the step."""
        step, slope, f0 = self.step[paths], self.slope[paths], self.f[paths]
        x = self.kernel.round(self.x[paths] + step[:, None] * self.direction[paths])
        log_density, gradient = self.evaluate(paths, x)
        f, g = -log_density, -gradient
        finite = np.isfinite(f) & np.isfinite(g).all(axis=1)
        g = np.where(finite[:, None], g, 0.0)
        new_slope = np.einsum("pd,pd->p", g, self.direction[paths])
        # within rounding error of the function values the slope decides
        noise = 8 * self.kernel.eps * np.abs(f0)
        armijo = f <= f0 + _ARMIJO * step * slope
        approximate_wolfe = (f <= f0 + noise) & (np.abs(new_slope) <= 0.8 * np.abs(slope))
        moved = (x != self.x[paths]).any(axis=1)
        decreased = finite & moved & (armijo | approximate_wolfe)
        curvature_met = new_slope >= _WOLFE * slope
        self.trials[paths] += 1
        self.evaluations[paths] += 1
        exhausted = self.trials[paths] >= _MAX_TRIALS

        accept = decreased & (curvature_met | exhausted)
        self._shrink(paths[~decreased], f[~decreased], finite[~decreased])
        extend = decreased & ~accept
        self._extend(paths[extend], new_slope[extend])
        self._handle_failure(paths[~decreased & (exhausted | ~moved)])
        if accept.any():
            self._accept(paths[accept], x[accept], f[accept], g[accept])

    def _shrink(self, paths: np.ndarray, f: Floats, finite: np.ndarray) -> None:
        """Shortens a step without sufficient decrease, within the bracket, by interpolation."""
        low, high = self.low[paths], self.step[paths]
        self.high[paths] = high
        slope = self.slope[paths]
        with np.errstate(all="ignore"):
            # minimum of the parabola through f(0), f'(0) and f(high)
            minimum = -0.5 * slope * high**2 / (f - self.f[paths] - slope * high)
        width = high - low
        interpolated = np.clip(minimum, low + 0.1 * width, low + 0.5 * width)
        guess = np.where(np.isfinite(minimum), interpolated, low + 0.5 * width)
        self.step[paths] = np.where(finite, guess, low + 0.2 * width)

    def _extend(self, paths: np.ndarray, new_slope: Floats) -> None:
        """Lengthens a step that decreased `f` but fails the curvature condition."""
        step, slope = self.step[paths], self.slope[paths]
        self.low[paths] = step
        with np.errstate(all="ignore"):
            secant = np.where(new_slope > slope, step * slope / (slope - new_slope), np.inf)
        extrapolated = np.clip(secant, 2 * step, 10 * step)
        middle = 0.5 * (step + self.high[paths])
        self.step[paths] = np.where(np.isfinite(self.high[paths]), middle, extrapolated)

    def _handle_failure(self, paths: np.ndarray) -> None:
        """After a failed line search: checks convergence, resets the history, or gives up."""
        for i in paths:
            noise = 8 * self.kernel.eps * abs(self.f[i])
            if -0.5 * self.slope[i] < max(self.options.tolerance, noise):
                self._check_convergence(i)
            elif self.rho[i].any():
                self._restart(i)
            else:
                self.reasons[i] = LINE_SEARCH_FAILED

    def _check_convergence(self, i: int) -> None:
        """Declares a path of negligible predicted gain converged unless a coordinate search helps.

        If curvature fell by orders of magnitude along the path, the history still assigns high
        curvature to directions not explored recently, and predicts no gain where some is possible.
        """
        self.reasons[i] = CONVERGED
        if self.x.shape[1] <= self.options.max_probe_dim and self.num_probes[i] < _MAX_PROBES:
            self.num_probes[i] += 1
            self.probe(int(i))

    def probe(self, i: int) -> None:
        """Continues from the best of single-coordinate steps, if one improves."""
        (length,), (points,) = self.probe_points(np.array([i]))
        self.use_probe(i, length, points, *self.evaluate(np.full(len(points), i), points))

    def probe_points(self, paths: np.ndarray) -> tuple[Floats, Floats]:
        """Lengths of single-coordinate steps `(paths, dim)`, and the points they lead to.

        At these lengths the slope alone would gain a fifth of a nat: a coordinate whose optimum is
        more than a third of its standard deviation away shows a gain.
        """
        x, g = self.x[paths], self.g[paths]
        slope = np.maximum(np.abs(g), 1e-30)
        length = np.minimum(0.2 / slope, 10 * (1 + np.abs(x)))
        steps = (np.sign(g) * length)[:, None] * np.eye(x.shape[1])
        return length, self.kernel.round(x[:, None] - steps)

    def use_probe(
        self, i: int, length: Floats, points: Floats, log_density: Floats, gradient: Floats
    ) -> None:
        """Continues from the best of the points if it improves, with a new diagonal."""
        f, g = self.f[i], self.g[i]
        slope = np.maximum(np.abs(g), 1e-30)
        gains = log_density + f
        best = int(np.argmax(gains))
        noise = 8 * self.kernel.eps * abs(f)
        if not gains[best] > max(MIN_GAIN, noise) or not np.isfinite(gradient[best]).all():
            return
        curvature = np.abs(np.diag(gradient) + g) / length
        # limits the first step to ten times the trial length in each coordinate
        curvature = np.maximum(
            np.where(np.isfinite(curvature), curvature, 1e30), slope / length / 10
        )
        self.x[i], self.f[i], self.g[i] = points[best], -log_density[best], -gradient[best]
        self.record(np.array([i]))
        self.rho[i], self.diagonal[i] = 0, 1 / curvature
        self.small_gain[i], self.reasons[i] = 0, _RUNNING
        self._set_direction(np.array([i]))
        self.step[i] = 1.0  # the scales are known, unlike at the start

    def _restart(self, i: int) -> None:
        self.rho[i], self.diagonal[i], self.small_gain[i] = 0, 1, 0
        self._set_direction(np.array([i]))

    def _accept(self, paths: np.ndarray, x: Floats, f: Floats, g: Floats) -> None:
        s, y = x - self.x[paths], g - self.g[paths]
        gain = self.f[paths] - f
        self.x[paths], self.f[paths], self.g[paths] = x, f, g
        self._update_history(paths, s, y)
        self.record(paths)
        self._set_direction(paths)
        noise = self.kernel.eps * np.abs(f)
        predicted = np.maximum(-0.5 * self.slope[paths], gain)
        small_gain = predicted < np.maximum(self.options.tolerance, 0.5 * noise)
        self.small_gain[paths] = np.where(small_gain, self.small_gain[paths] + 1, 0)
        for i in paths[self.small_gain[paths] >= _NUM_SMALL_GAINS]:
            self._check_convergence(i)

    def enforce_limits(self) -> None:
        """Stops paths at the evaluation limit, or far slower than the other paths."""
        running = self.reasons == _RUNNING
        self.reasons[running & (self.evaluations >= self.options.max_evaluations)] = (
            EVALUATION_LIMIT
        )
        if time_is_up():
            self.reasons[self.reasons == _RUNNING] = out_of_time()
        self.stop_slow(running)

    def stop_slow(self, running: np.ndarray) -> None:
        """Stops paths far slower than those that have ended."""
        done = self.evaluations[~running]
        if 2 * done.size > len(self.x):
            limit = self.options.patience * np.median(done) + 20
            slow = running & (self.evaluations > limit) & (self.reasons == _RUNNING)
            self.reasons[slow] = SLOW_PATH

    def _update_history(self, paths: np.ndarray, s: Floats, y: Floats) -> None:
        """Stores pairs of positive curvature, and updates the diagonal from them."""
        sy = np.einsum("pd,pd->p", s, y)
        valid = positive_curvature(s, y)
        paths, s, y, sy = paths[valid], s[valid], y[valid], sy[valid]
        for store, new in ((self.s, s), (self.y, y), (self.rho, 1 / sy)):
            store[paths, :-1] = store[paths, 1:]
            store[paths, -1] = new
        first = self.rho[paths, :-1].any(axis=1) == 0
        self.diagonal[paths[first]] = (sy[first] / np.sum(y[first] ** 2, axis=1))[:, None]
        self.diagonal[paths] = update_diagonal(self.diagonal[paths], s, y)

    def _set_direction(self, paths: np.ndarray) -> None:
        """Sets the direction `-H g` by the two-loop recursion, and the first trial step."""
        s, y, rho = self.s[paths], self.y[paths], self.rho[paths]
        q = self.g[paths].copy()
        weights = np.zeros_like(rho)
        for j in reversed(range(rho.shape[1])):
            weights[:, j] = rho[:, j] * np.einsum("pd,pd->p", s[:, j], q)
            q -= weights[:, j, None] * y[:, j]
        q *= self.diagonal[paths]
        for j in range(rho.shape[1]):
            correction = rho[:, j] * np.einsum("pd,pd->p", y[:, j], q)
            q += (weights[:, j] - correction)[:, None] * s[:, j]
        self.direction[paths] = -q
        self.slope[paths] = -np.einsum("pd,pd->p", q, self.g[paths])
        # without a history the gradient has no scale: limit the first step to length one
        length = np.sqrt(np.einsum("pd,pd->p", q, q))
        no_history = ~rho.any(axis=1)
        self.step[paths] = np.where(no_history, 1 / np.maximum(length, 1), 1.0)
        self.low[paths], self.high[paths], self.trials[paths] = 0.0, np.inf, 0
