"""How far points are from the posterior, by the scores there; nothing else is asked of a guide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vijax import _stein
from vijax._kernel import Kernel
from vijax._stein import IMQ
from vijax.diagnostics.verdict import Verdict

_FAR = 2.0  # times what exact draws would have, from which particles are said to be off


class Discrepancy(NamedTuple):
    """A kernelised Stein discrepancy.

    Attributes:
        value: of the points.
        exact: what as many independent draws from the posterior would have, root mean square;
            points that keep apart, as those of SVGD, have less.
    """

    value: float
    exact: float

    def __str__(self) -> str:
        return f"{self.value:.3g}, of as many exact draws {self.exact:.3g}"


def discrepancy(
    points: np.ndarray, scores: np.ndarray, kernel: _stein.Kernel | None = None
) -> Discrepancy:
    """The discrepancy of points, `sqrt(mean(k_p))` over all pairs, a point with itself included.

    Its square has the mean `E[k_p(x, x)] / num` for exact independent draws. Source: A kernelized
    Stein discrepancy for goodness-of-fit tests, Liu, Lee, Jordan, 2016.

    Args:
        points: `(num, dim)`, unconstrained.
        scores: gradients of the log density there, `(num, dim)`.
        kernel: `IMQ` by default.
    """
    found = _stein.stein(points, scores.astype(np.float64), kernel or IMQ(), np)
    square, own = float(found.pairs.mean()), float(np.diag(found.pairs).mean())
    return Discrepancy(math.sqrt(max(square, 0.0)), math.sqrt(own / len(points)))


def judge_particles(
    kernel: Kernel, points: np.ndarray, converged: bool, troubles: Sequence[object]
) -> Verdict:
    """What can be said of particles: that they look like draws, or that they do not."""
    found = discrepancy(points, kernel(points)[1])
    reasons = [f"non-finite {trouble}" for trouble in troubles]
    if not converged:
        reasons.append("the optimisation had not converged")
    reasons.append(f"Stein discrepancy of the {len(points)} particles: {found}")
    advice = "" if converged else "Give it more steps."
    if not math.isfinite(found.value):
        return Verdict("failed", tuple(reasons), "Check the model, or pass start values: init=.")
    if found.value > _FAR * found.exact:
        reasons.append("the particles do not look like draws from the posterior")
        advice = "Give it more steps or particles, or try guide='auto'."
    reasons.append(
        "particles have no density: no ELBO, no weights; modes that none of them is near, and "
        "spreads that come out too small in many dimensions, go unnoticed"
    )
    return Verdict("approximate", tuple(reasons), advice)
