"""Models whose log density is a stochastic bound: what can be fitted to them, and how."""

from __future__ import annotations

from typing import Any

from vijax.algorithms import SWAG, Gradient
from vijax.contracts import (
    Algorithm,
    Guide,
    NonElboObjective,
    ParticleGuide,
    Solver,
    Target,
)
from vijax.guides import Delta
from vijax.guides.conjugate import BoundConjugate
from vijax.objectives import FreeBits
from vijax.runtime.errors import GuideError, ModelError, mismatch


def check_stochastic_bounds(target: Target, guide: Guide, algorithm: Any, objective: Any) -> None:
    """Checks that the options suit a model with stochastic bounds; other models always pass.

    Their log density is random. Solvers, curvature, and conjugate updates take it to be a function;
    other objectives than the ELBO take its exponential, whose expectation is not that of the
    density. Without latent sites there are only parameters: maximum likelihood.

    Raises:
        ModelError: the algorithm or the objective does not suit it.
        GuideError: the guide does not suit it.
    """
    if not target.structure.bounds:
        return
    what = f"whose site {next(iter(target.structure.bounds))!r} is a stochastic bound"
    if isinstance(algorithm, Solver):
        expected = f"stochastic gradients, algorithm='gradient', for a model {what}"
        raise ModelError(mismatch("algorithm", expected, repr(algorithm)))
    if (
        isinstance(guide, ParticleGuide | BoundConjugate)
        or guide.point_guide(target.space) != guide
    ):
        expected = f"a guide that maximizes the ELBO by gradients for a model {what}"
        remedy = "Use guide='meanfield' or guide='map'."
        raise GuideError(mismatch("guide", expected, repr(guide), remedy))
    used = algorithm.objective if isinstance(algorithm, Gradient) else objective
    if isinstance(used, NonElboObjective) and not isinstance(used, FreeBits):
        expected = f"an objective that is linear in the log density, ELBO(), for a model {what}"
        raise ModelError(mismatch("objective", expected, type(used).__name__))
    if target.space.sites:
        return
    if guide != Delta():
        expected = "guide='map' for a model without latent sites, whose parameters are fitted"
        raise GuideError(mismatch("guide", expected, repr(guide)))
    named = isinstance(algorithm, str) and algorithm not in ("auto", "gradient")
    if named or (isinstance(algorithm, Algorithm) and not isinstance(algorithm, Gradient | SWAG)):
        expected = "'gradient' or 'swag' for a model without latent sites"
        raise ModelError(mismatch("algorithm", expected, repr(algorithm)))
