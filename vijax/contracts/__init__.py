"""Read this first: every central type of the library.

A model function and its arguments become a `Target` (`target.py`) over an unconstrained `Space`
(`space.py`). A `Guide` (`guide.py`) is a family of distributions on that space: frozen
configuration, its parameters a pytree apart. An `Objective` scores guide parameters against the
target, an `Algorithm` improves them step by step on the device, a `Solver` reaches them directly
from the host (`fitting.py`).

Conventions. `z` is unconstrained, a dict from site name to array; `key` is a typed JAX key;
`log_density` is unnormalized, `log_prob` normalized; losses are minimized (`loss` falls as
the ELBO rises). Functions treat one point; callers `vmap`. Data is always an argument.
"""

from vijax.contracts.algorithm import Algorithm, Info
from vijax.contracts.guide import (
    ConditionalGuide,
    DensityGuide,
    DiscreteGuide,
    Draw,
    EntropyGuide,
    GaussianGuide,
    Guide,
    HostDraws,
    ModelGuide,
    NormalsGuide,
    Part,
    ParticleGuide,
    RowGuide,
    SitewiseGuide,
    StratifiedGuide,
    TransportGuide,
)
from vijax.contracts.objective import Controlled, NotElboOptimum, Objective, Setting
from vijax.contracts.rows import Block, Blocks, Data, RowSource
from vijax.contracts.solver import Solution, Solver
from vijax.contracts.space import Array, Axes, Plate, Position, Site, Space
from vijax.contracts.target import (
    Batch,
    Evaluation,
    PyTree,
    Target,
    TermInfo,
    Terms,
    Variables,
)
from vijax.families.discrete import Family

__all__ = [
    "Algorithm",
    "Array",
    "Axes",
    "Batch",
    "Block",
    "Blocks",
    "ConditionalGuide",
    "Controlled",
    "Data",
    "DensityGuide",
    "DiscreteGuide",
    "Draw",
    "EntropyGuide",
    "Evaluation",
    "Family",
    "GaussianGuide",
    "Guide",
    "HostDraws",
    "Info",
    "ModelGuide",
    "NormalsGuide",
    "NotElboOptimum",
    "Objective",
    "Part",
    "ParticleGuide",
    "Plate",
    "Position",
    "PyTree",
    "RowGuide",
    "RowSource",
    "Setting",
    "Site",
    "SitewiseGuide",
    "Solution",
    "Solver",
    "Space",
    "StratifiedGuide",
    "Target",
    "TermInfo",
    "Terms",
    "TransportGuide",
    "Variables",
]
