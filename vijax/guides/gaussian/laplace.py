"""The Laplace approximation: a Gaussian at the mode, its covariance from the curvature there."""

from __future__ import annotations

import dataclasses

from vijax.guides.gaussian.normal import DenseGaussian


@dataclasses.dataclass(frozen=True)
class Laplace(DenseGaussian):
    """The dense Gaussian of `FullRank`, to be placed at the mode instead of at the best ELBO.

    `q(z) = N(z; m, H^-1)` with `m` the mode in unconstrained space and `H` the Hessian of the
    negative log density there. Family and parameters are those of `FullRank`; the type says how
    they are found. Exact for Gaussian targets; misleading where the mode is not typical (funnels,
    skewed or bounded posteriors). Source: Accurate Approximations for Posterior Moments and
    Marginal Densities, Tierney and Kadane, 1986.

    Args:
        init_scale: standard deviation of every coordinate before the solver has run.

    >>> Laplace()
    Laplace(init_scale=0.1)
    """
