"""The Laplace approximation: a Gaussian centered at the posterior mode."""

from __future__ import annotations

import dataclasses

from vijax.guides.location_scale.full_rank import DenseGaussian


@dataclasses.dataclass(frozen=True)
class Laplace(DenseGaussian):
    """Laplace approximation: `q(z) = N(z; m, H^-1)`.

    `m` is the mode in unconstrained space and `H` the Hessian of the negative log density there.
    Family and parameters are those of `FullRank`, fitted at the mode instead of by maximizing the
    ELBO. Exact for Gaussian targets; misleading where the mode is not typical (funnels, skewed or
    bounded posteriors). Source: Accurate Approximations for Posterior Moments and Marginal
    Densities, Tierney and Kadane, 1986.

    Args:
        init_scale: standard deviation of every coordinate before the solver has run.

    >>> Laplace()
    Laplace(init_scale=0.1)
    """
