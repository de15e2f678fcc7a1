"""The type of a test case."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.conjugacy.oracle import Family

__all__ = ["Case", "Exact", "Family"]


class Exact(NamedTuple):
    """A posterior in closed form.

    Attributes:
        parameters: of the block's family, by name: arrays.
        log_evidence: the log marginal likelihood.
    """

    parameters: dict[str, Any]
    log_evidence: float


class Case(NamedTuple):
    """A model, its data and its blocks.

    Attributes:
        model: a NumPyro model function.
        args: its arguments.
        families: the family of each block by site; the key of a joint block is a tuple of sites.
        discrete: the number of values of each discrete latent site.
        exact: the posterior of the only block.
        bound: for augmented models, a function from the expectations of the blocks to the
            expected log joint density, maximized over the distribution of the further latents.
    """

    model: Callable[..., None]
    args: tuple
    families: dict[Any, Family]
    discrete: dict[str, int] = {}
    exact: Exact | None = None
    bound: Callable[[dict], float] | None = None
