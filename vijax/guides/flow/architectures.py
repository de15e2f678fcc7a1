"""Flow architectures by name: RealNVP, neural splines, IAF, MAF, and others."""

from __future__ import annotations

from collections.abc import Callable

from vijax.guides.flow.autoregressive import Autoregressive
from vijax.guides.flow.bijection import Bijection
from vijax.guides.flow.bnaf import BlockNeural
from vijax.guides.flow.chain import Chain, Invert, Repeat
from vijax.guides.flow.coupling import Coupling
from vijax.guides.flow.elementwise import Affine, Composed
from vijax.guides.flow.permutation import Flip
from vijax.guides.flow.planar import Planar, Radial, Sylvester
from vijax.guides.flow.spline import Spline
from vijax.guides.flow.tail_transforms import LOFT, HeavyTails
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keywords import did_you_mean


def _alternate(part: Bijection, count: int) -> Bijection:
    """`part` and a reversal of the coordinates, `count` times, followed by LOFT."""
    return Chain((Repeat(Chain((part, Flip())), count), LOFT()))


# Counts with `Flip` are even, so that the flow is the identity at the start.
ARCHITECTURES: dict[str, Callable[[], Bijection]] = {
    "realnvp": lambda: _alternate(Coupling(), 8),
    "heavy": lambda: Chain((_alternate(Coupling(), 8), HeavyTails())),
    "nsf": lambda: _alternate(Coupling(Composed((Spline(), Affine()))), 4),
    "iaf": lambda: _alternate(Autoregressive(), 4),
    "maf": lambda: _alternate(Invert(Autoregressive()), 4),
    "planar": lambda: Repeat(Planar(), 16),
    "radial": lambda: Repeat(Radial(), 16),
    "sylvester": lambda: Repeat(Sylvester(), 8),
    "bnaf": lambda: _alternate(BlockNeural(), 2),
}


def architecture(name: str) -> Bijection:
    """The layers of the architecture with a given name.

    Raises:
        GuideError: no architecture has this name.

    >>> architecture("radial")
    Repeat(part=Radial(), count=16)
    """
    try:
        return ARCHITECTURES[name]()
    except KeyError:
        hint = did_you_mean(name.lower(), ARCHITECTURES)
        raise GuideError(
            f"layers: expected a Bijection or one of {list(ARCHITECTURES)}, got {name!r}.{hint}"
        ) from None


def as_layers(layers: Bijection | str) -> Bijection:
    """The layers that a guide's option `layers` names, or is.

    Raises:
        GuideError: it is neither a bijection nor the name of an architecture.
    """
    found = architecture(layers) if isinstance(layers, str) else layers
    if not isinstance(found, Bijection):
        raise GuideError(
            mismatch("layers", "a Bijection or the name of an architecture", repr(found))
        )
    return found
