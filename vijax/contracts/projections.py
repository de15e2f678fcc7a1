"""Models in which every observed term depends on normal latents through one linear combination."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from vijax.contracts.space import Array


@dataclasses.dataclass(frozen=True)
class ProjectionPlan:
    """What is normal in a model, and its terms that are not.

    Attributes:
        normal: latent sites that are jointly normal given the hyper-parameters.
        hyperparameters: the other latent sites.
        dim: number of elements of the normal sites.
        terms: observed sites and factors, each with its number of elements.
    """

    normal: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    dim: int
    terms: tuple[tuple[str, int], ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The plan in words."""
        plural = "s" * (self.dim != 1)
        block = f"{', '.join(self.normal)}: jointly normal, {self.dim:,} dimension{plural}"
        terms = [
            f"{name}: {count:,} site{'s' * (count != 1)} of one projection each"
            for name, count in self.terms
        ]
        rest = ", ".join(self.hyperparameters)
        given = (f"{rest}: by the evidence, with its curvature",) if rest else ()
        return (block, *terms, *given)


class Projections(NamedTuple):
    """A model `p(x, e) = N(e; 0, I) exp(constant + sum_n log_likelihood(rows e)_n)`.

    The positions of the normal sites are `loc + factor e`.

    Attributes:
        rows: `(num, dim)`.
        log_likelihood: `(num,) -> (num,)`, elementwise: the terms at `rows e`.
        constant: the sum of all terms that depend on hyper-parameters only, a scalar; with
            `log p` of these in unconstrained space.
        loc: `(dim,)`.
        factor: `(dim, dim)`.
        misfit: by term, the largest distance of an element from depending on one linear
            combination, relative; zero up to rounding for a model of this kind.
    """

    rows: Array
    log_likelihood: Callable[[Array], Array]
    constant: Array
    loc: Array
    factor: Array
    misfit: dict[str, Array]
