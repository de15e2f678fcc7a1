"""The central types of the library; read this package first.

Variational inference chooses, from a family of distributions `q(z; params)`, the member closest to
the posterior `p(z | x)`, whose density is known up to the evidence `p(x)`:

    log_density(z) = log p(x, z) + log |dx/dz|          target.py, over a space (space.py)
    q(z; params)                                        guide.py
    loss(params) = -E_q[log_density(z) - log q(z)]      objective.py, the negative ELBO and others
    params <- params - step_size * gradient             algorithm.py, steps compiled on the device
    params = argmin loss                                solver.py, direct methods run from the host
    log_density = sum of blocks of rows                 rows.py, data that do not fit into memory

A `Target` is built from a model function and its arguments. A `Guide` is a family of distributions
(frozen configuration; its parameters are a separate pytree), an `Objective` a loss in these
parameters, which an `Algorithm` or a `Solver` minimizes.

Conventions. `z` is unconstrained, a dict from site name to array; `params` are variational
parameters; `key` is a typed JAX key; `log_density` is unnormalized, `log_prob` normalized; a `loss`
falls as the ELBO rises. Functions treat one point and callers `vmap`. Data are always an argument.
"""

from vijax.contracts.algorithm import Algorithm, Info
from vijax.contracts.family import Family
from vijax.contracts.functions import Evaluation, TermInfo, Terms
from vijax.contracts.guide import (
    AmortizedGuide,
    CurvatureGuide,
    DensityGuide,
    DiscreteGuide,
    Draw,
    EnsembleGuide,
    EntropyGuide,
    GaussianGuide,
    Guide,
    HostDraws,
    MeanFieldGuide,
    MixtureGuide,
    ModelGuide,
    NormalNoiseGuide,
    Part,
    ParticleGuide,
    RowGuide,
    TransportGuide,
)
from vijax.contracts.objective import (
    ControlVariateObjective,
    LossContext,
    NonElboObjective,
    Objective,
    ScheduledObjective,
)
from vijax.contracts.rows import Block, Blocks, Data, RowSource
from vijax.contracts.solver import SiteSummary, Solution, Solver
from vijax.contracts.space import Array, Axes, Plate, Position, Site, Space
from vijax.contracts.target import (
    Batch,
    PyTree,
    Target,
    Variables,
)

__all__ = [
    "Algorithm",
    "AmortizedGuide",
    "Array",
    "Axes",
    "Batch",
    "Block",
    "Blocks",
    "ControlVariateObjective",
    "CurvatureGuide",
    "Data",
    "DensityGuide",
    "DiscreteGuide",
    "Draw",
    "EnsembleGuide",
    "EntropyGuide",
    "Evaluation",
    "Family",
    "GaussianGuide",
    "Guide",
    "HostDraws",
    "Info",
    "LossContext",
    "MeanFieldGuide",
    "MixtureGuide",
    "ModelGuide",
    "NonElboObjective",
    "NormalNoiseGuide",
    "Objective",
    "Part",
    "ParticleGuide",
    "Plate",
    "Position",
    "PyTree",
    "RowGuide",
    "RowSource",
    "ScheduledObjective",
    "Site",
    "SiteSummary",
    "Solution",
    "Solver",
    "Space",
    "Target",
    "TermInfo",
    "Terms",
    "TransportGuide",
    "Variables",
]
