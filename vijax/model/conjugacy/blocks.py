"""From what a model multiplies with what to blocks, families and the order of updates."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vijax.contracts import Site
from vijax.contracts.conjugate import BlockSite, ConjugateBlock, ConjugatePlan
from vijax.model.conjugacy.chains import Group, aligned, chained, complete, event_size, step_axis
from vijax.model.conjugacy.reader import Refusal, Refused
from vijax.model.conjugacy.recorder import Pair, Place, Recorder, Statistic

MAX_JOINT = 512  # elements of several sites in one normal distribution
MAX_DENSE = 2048  # of one site


def plan_blocks(
    recorder: Recorder,
    discrete: Mapping[str, float],
    subsampled: frozenset[str],
    joint: bool = True,
) -> ConjugatePlan:
    """The blocks of a model.

    Args:
        recorder: of a whole model.
        discrete: its discrete sites, with the number of their elements over that of their values.
        subsampled: plates that are subsampled, whose rows stay separate.
        joint: whether sites may have a joint distribution; if not, each is a block.

    Raises:
        Refused: the statistics of some sites belong to no family.
    """
    refusals = []
    single: dict[str, ConjugateBlock] = {}
    for name, site in recorder.sites.items():
        if recorder.is_real(name):
            continue
        found = _family(name, site, recorder)
        if isinstance(found, Refusal):
            refusals.append(found)
        else:
            single[name] = found
    if refusals:
        raise Refused(refusals)
    normal = {name: site for name, site in recorder.sites.items() if recorder.is_real(name)}
    groups = [_group(name, site, recorder.pairs) for name, site in normal.items()]
    blocks: list[ConjugateBlock] = []
    for name, batch in [item for group in groups for item in group.axes.items() if joint]:
        found_joint = _with_precision(name, normal[name], batch, recorder, single)
        if found_joint is not None:
            blocks.append(found_joint)
            single.pop(found_joint.sites[-1].name)
            groups = [group for group in groups if name not in group.axes]
    if joint:
        groups = _merged(groups, recorder, normal, subsampled)
    for group in itertools.chain.from_iterable(complete(one, normal) for one in groups):
        sites = tuple(
            BlockSite(n, normal[n].shape, a, group.steps.get(n)) for n, a in group.axes.items()
        )
        blocks.append(ConjugateBlock("normal_chain" if group.steps else "normal", sites))
    blocks += single.values()
    products = [pair for pair in recorder.products if all(map(recorder.is_real, pair))]
    return ConjugatePlan(
        _colored(_ordered(blocks, recorder.sites), recorder.neighbors),
        tuple(discrete),
        _rotatable(blocks, products),
        max(1.0, *discrete.values()) if discrete else 1.0,
        multimodal=bool(discrete or products or recorder.sums),
        augmented=tuple(recorder.bounds),
        quadrature=tuple(recorder.by_quadrature),
    )


def _family(name: str, site: Site, recorder: Recorder) -> ConjugateBlock | Refusal:
    """The family of a site by the statistics that the model needs of it."""
    uses, kind = recorder.uses[name], recorder.supports[name]
    powers = {power for use, power in uses if use == "power"}
    every = tuple(range(len(site.shape)))
    whole = BlockSite(name, site.shape, every)
    if kind == "positive":
        if ("log squared", 1) in uses and not powers:
            return ConjugateBlock("log_normal", (whole,))
        if len(powers) <= 1 and ("log squared", 1) not in uses:
            return ConjugateBlock("gamma", (whole,), next(iter(powers), 1))
    elif kind == "unit" and not powers:
        return ConjugateBlock("beta", (whole,))
    elif kind == "simplex" and not powers:
        return ConjugateBlock("dirichlet", (BlockSite(name, site.shape, every[:-1]),))
    elif kind == "matrix" and len(powers) == 1 and powers <= {1, -1}:
        return ConjugateBlock("wishart", (BlockSite(name, site.shape, every[:-2]),), powers.pop())
    return Refusal(
        name,
        "",
        f"enters the model as {_statistics(name, uses)}: no family has all of these statistics",
        (name,),
    )


def _statistics(name: str, uses: Mapping[Statistic, Place]) -> str:
    """The statistics of a site and where the model needs them, in words."""
    by_place: dict[Place, list[str]] = {}
    for statistic, place in uses.items():
        by_place.setdefault(place, []).append(_statistic(name, *statistic))
    found = []
    for (site, argument), words in sorted(by_place.items(), key=lambda item: item[0][0] != name):
        of = "its own density" if site == name else f"{argument!r} of site {site!r}"
        found.append(f"{', '.join(sorted(words))} in {of}")
    return " and as ".join(found)


def _statistic(name: str, kind: str, power: float) -> str:
    if kind == "power":
        return name if power == 1 else f"{name}**{power:g}"
    words = {"log1m": f"log(1 - {name})", "logdet": f"log det({name})"}
    return words.get(kind, f"log({name})" if kind == "log" else f"log({name})**2")


def _group(name: str, site: Site, pairs: set[Pair]) -> Group:
    """A site with its batch axes: those along which all squares pair elements of the same index."""
    own = [pair for pair in pairs if pair.sites == (name, name)]
    axes = tuple(i for i in range(len(site.shape)) if all(pair.lags[i][i] == 0 for pair in own))
    steps = step_axis(site, axes, own)
    if steps is not None:
        return Group({name: axes}, {name: steps})
    for i in sorted(range(len(site.shape)), key=lambda i: -site.shape[i]):
        if event_size(site, axes) > MAX_DENSE and i not in axes:
            axes = (*axes, i)  # too many: independent along this one
    return Group({name: tuple(sorted(axes))})


def _with_precision(
    name: str,
    site: Site,
    batch: tuple[int, ...],
    recorder: Recorder,
    single: Mapping[str, ConjugateBlock],
) -> ConjugateBlock | None:
    """The joint block of a normal site and its precision, if all squares of the site have it."""
    weights = [weight for weight in recorder.weights if weight.site == name]
    found = {(weight.precision, weight.axes) for weight in weights}
    many = event_size(site, batch) > MAX_DENSE
    if many or len(found) != 1 or any(name in pair for pair in recorder.products):
        return None
    ((precision, axes),) = found
    if precision is None or precision[0] not in single:
        return None
    block = single[precision[0]]
    if block.power != precision[1] or any(
        name in pair.sites and pair.sites != (name, name) for pair in recorder.pairs
    ):
        return None
    own = block.sites[0]
    matched = axes[: len(own.batch_axes)]
    if None in matched or not set(matched) <= set(batch) or len(set(matched)) < len(matched):
        return None
    ordered = tuple(int(axis) for axis in matched if axis is not None)
    normal_site = BlockSite(name, site.shape, ordered)
    if block.kind == "gamma":
        return ConjugateBlock("normal_gamma", (normal_site, own), block.power)
    last = len(site.shape) - 1
    plain = all(weight.plain for weight in weights) and normal_site.event_axes == (last,)
    if block.kind == "wishart" and block.power == 1 and plain:
        return ConjugateBlock("normal_wishart", (normal_site, own), block.power)
    return None


def _merged(
    groups: list[Group],
    recorder: Recorder,
    sites: Mapping[str, Site],
    subsampled: frozenset[str],
) -> list[Group]:
    """Normal sites that enter common squares, jointly where that is affordable."""
    names = {name for group in groups for name in group.axes}
    edges = [pair for pair in recorder.pairs if len(set(pair.sites)) == 2]
    for one, two in sorted({tuple(sorted(pair.sites)) for pair in edges}):
        if not {one, two} <= names:
            continue
        first, second = (next(g for g in groups if n in g.axes) for n in (one, two))
        if first is second:
            continue
        joint = _joined(first, second, edges, recorder, sites, subsampled)
        if joint is not None:
            groups = [g for g in groups if g not in (first, second)] + [joint]
    return groups


def _joined(
    one: Group,
    two: Group,
    edges: Sequence[Pair],
    recorder: Recorder,
    sites: Mapping[str, Site],
    subsampled: frozenset[str],
) -> Group | None:
    """Two groups as one: with their common batch axes, or with none."""
    names = {*one.axes, *two.axes}
    if any(pair <= names for pair in recorder.products):
        return None
    axes = one.axes | two.axes
    inside = [pair for pair in edges if set(pair.sites) <= names]
    chain = chained(one, two, inside, sites)
    if chain is not None:
        return chain
    same = len({len(batch) for batch in axes.values()}) == 1
    same = same and all(aligned(pair, axes) for pair in inside)
    if same and sum(event_size(sites[n], axes[n]) for n in names) <= MAX_JOINT:
        return Group(axes)
    local = any(sites[n].axes(subsampled).pairs for n in names)
    if local or sum(event_size(sites[n], ()) for n in names) > MAX_JOINT:
        return None
    return Group(dict.fromkeys(axes, ()))


def _rotatable(
    blocks: Sequence[ConjugateBlock], products: Sequence[frozenset[str]]
) -> tuple[tuple[str, str], ...]:
    """Pairs of normal blocks of one site each that are multiplied as vectors."""
    single = {b.name: b for b in blocks if b.kind == "normal" and len(b.sites) == 1}
    found: list[tuple[str, str]] = []
    for one, two in sorted(tuple(sorted(pair)) for pair in products if len(pair) == 2):
        used = {name for pair in found for name in pair}
        if not {one, two} <= single.keys() - used:
            continue
        vectors = all(len(single[name].sites[0].event_axes) == 1 for name in (one, two))
        if vectors and single[one].event_size == single[two].event_size > 1:
            found.append((one, two))
    return tuple(found)


def _ordered(blocks: Sequence[ConjugateBlock], sites: Mapping[str, Site]) -> list[ConjugateBlock]:
    """Blocks inside of more plates first, then the larger ones, so that what is local is first."""
    place = {name: i for i, name in enumerate(sites)}

    def key(block: ConjugateBlock) -> tuple[Any, ...]:
        first = block.sites[0].name
        size = -math.prod(block.batch_shape)
        return -len(sites[first].plates), size, not block.gaussian_sites, place[first]

    return sorted(blocks, key=key)


def _colored(
    blocks: Sequence[ConjugateBlock], neighbors: set[frozenset[str]]
) -> tuple[ConjugateBlock, ...]:
    """Blocks with the smallest color that no earlier block with a common term has."""
    found: list[ConjugateBlock] = []
    for block in blocks:
        names = {site.name for site in block.sites}
        taken = {
            other.color
            for other in found
            if any(frozenset((a, b.name)) in neighbors for a in names for b in other.sites)
        }
        color = next(i for i in itertools.count() if i not in taken)
        found.append(dataclasses.replace(block, color=color))
    return tuple(sorted(found, key=lambda block: block.color))
