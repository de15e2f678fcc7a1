"""Flows by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from vijax.guides.flow.autoregressive import Autoregressive
from vijax.guides.flow.bijection import Bijection
from vijax.guides.flow.bnaf import BlockNeural
from vijax.guides.flow.chain import Chain, Invert, Repeat
from vijax.guides.flow.coupling import Coupling
from vijax.guides.flow.permutation import Flip
from vijax.guides.flow.planar import Planar
from vijax.guides.flow.radial import Radial
from vijax.guides.flow.spline import Spline
from vijax.guides.flow.sylvester import Sylvester
from vijax.guides.flow.tails import LOFT, HeavyTails
from vijax.runtime.errors import GuideError


def _alternate(part: Bijection, count: int) -> Bijection:
    """`part` `count` times, an even number, the order of coordinates reversed after each."""
    return Chain((Repeat(Chain((part, Flip())), count), LOFT()))


# Every count of a recipe that flips is even, so that it is the identity at the start.
RECIPES: dict[str, Callable[[], Bijection]] = {
    "realnvp": lambda: _alternate(Coupling(), 8),
    "heavy": lambda: Chain((_alternate(Coupling(), 8), HeavyTails())),
    "nsf": lambda: _alternate(Coupling(Spline()), 4),
    "iaf": lambda: _alternate(Autoregressive(), 4),
    "maf": lambda: _alternate(Invert(Autoregressive()), 4),
    "planar": lambda: Repeat(Planar(), 16),
    "radial": lambda: Repeat(Radial(), 16),
    "sylvester": lambda: Repeat(Sylvester(), 8),
    "bnaf": lambda: _alternate(BlockNeural(), 2),
}


def recipe(name: str) -> Bijection:
    """The layers of a named flow.

    Raises:
        GuideError: there is none of this name.

    >>> recipe("radial")
    Repeat(part=Radial(), count=16)
    """
    try:
        return RECIPES[name]()
    except KeyError:
        close = difflib.get_close_matches(name.lower(), RECIPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise GuideError(
            f"layers: expected a Bijection or one of {list(RECIPES)}, got {name!r}.{hint}"
        ) from None
