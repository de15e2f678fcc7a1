"""Which normal sites are a Markov chain: steps that enter squares with their neighbors alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from vijax.contracts import Site
from vijax.model.conjugacy.recorder import Pair

MAX_STEP = 64  # dimensions of a step
_MIN_STEPS = 3


@dataclasses.dataclass
class Group:
    """Normal sites that may become one block.

    Attributes:
        axes: the batch axes of each.
        steps: of a chain, the axis of the steps of each, `None` for one that is the first step.
    """

    axes: dict[str, tuple[int, ...]]
    steps: dict[str, int | None] = dataclasses.field(default_factory=dict)


def event_size(site: Site, excluded: Sequence[int | None]) -> int:
    """Number of elements of a site along all but some axes."""
    return math.prod(length for i, length in enumerate(site.shape) if i not in excluded)


def step_axis(site: Site, batch: tuple[int, ...], pairs: Sequence[Pair]) -> int | None:
    """The axis of a site along which it is a chain, `None` if it is not one.

    Args:
        site: the site.
        batch: its batch axes.
        pairs: of elements of the site.
    """
    found = [
        i
        for i, length in enumerate(site.shape)
        if i not in batch
        and length >= _MIN_STEPS
        and all(pair.lags[i][i] in (0, 1) for pair in pairs)
        and event_size(site, (*batch, i)) <= MAX_STEP
    ]
    return max(found, key=lambda i: site.shape[i], default=None)


def aligned(pair: Pair, axes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether two elements are in the same member of the batch."""
    one, two = pair.sites
    return all(pair.lags[i][j] == 0 for i, j in zip(axes[one], axes[two], strict=True))


def chained(
    one: Group, two: Group, pairs: Sequence[Pair], sites: Mapping[str, Site]
) -> Group | None:
    """Two groups as one chain, `None` if they are not.

    Args:
        one: a group.
        two: another one, a chain with as many steps, or what the first step depends on.
        pairs: of elements of different sites of them.
        sites: by name.
    """
    if not (one.steps or two.steps) or len({len(b) for b in (one.axes | two.axes).values()}) > 1:
        return None
    steps = {name: None for group in (one, two) for name in group.axes} | one.steps | two.steps
    lengths = {sites[name].shape[axis] for name, axis in steps.items() if axis is not None}
    size = sum(
        event_size(sites[n], (*(one.axes | two.axes)[n], a))
        for n, a in steps.items()
        if a is not None
    )
    if len(lengths) > 1 or size > MAX_STEP:
        return None
    joint = Group(one.axes | two.axes, steps)
    return joint if all(_neighbors(pair, joint) for pair in pairs) else None


def _neighbors(pair: Pair, group: Group) -> bool:
    """Whether two elements are in the same or in neighboring steps of one member of the batch."""
    if not aligned(pair, group.axes):
        return False
    first, second = (group.steps[name] for name in pair.sites)
    if first is not None and second is not None:
        return pair.lags[first][second] in (0, 1)
    return all(
        axis is None or last[axis] == 0
        for axis, last in zip((first, second), pair.last, strict=True)
    )


def complete(group: Group, sites: Mapping[str, Site]) -> list[Group]:
    """A chain; if its first step has other dimensions than the rest, that as a group of its own."""
    first = {n: b for n, b in group.axes.items() if n in group.steps and group.steps[n] is None}
    rest = {name: batch for name, batch in group.axes.items() if name not in first}
    sizes = [
        sum(event_size(sites[n], (*b, group.steps.get(n))) for n, b in part.items())
        for part in (first, rest)
    ]
    if not first or sizes[0] == sizes[1]:
        return [group]
    return [Group(first), Group(rest, {name: group.steps[name] for name in rest})]
