"""From what a user writes for `guide=` to a guide."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from vijax.contracts import DiscreteGuide, Guide, ModelGuide, Space, Target
from vijax.guides.composite import Sites, assign, compose
from vijax.guides.delta import Delta
from vijax.guides.discrete import Discrete, Mixed, mixed
from vijax.guides.flow import RECIPES, Flow
from vijax.guides.gaussian.laplace import Laplace
from vijax.guides.gaussian.low_rank import LowRank
from vijax.guides.gaussian.normal import FullRank, MeanField
from vijax.guides.numpyro import adapt
from vijax.guides.numpyro.running import Arguments
from vijax.guides.structured.asvi import ASVI
from vijax.guides.structured.markov import Markov
from vijax.guides.structured.plates import Plates
from vijax.runtime.errors import GuideError

NAMES: dict[str, Callable[[], Guide]] = {
    "meanfield": MeanField,
    "fullrank": FullRank,
    "lowrank": LowRank,
    "laplace": Laplace,
    "map": Delta,
    "delta": Delta,
    "discrete": Discrete,
    "markov": Markov,
    "plates": Plates,
    "asvi": ASVI,
    "flow": Flow,
    **{name: functools.partial(Flow, name) for name in RECIPES},
}


def resolve(
    guide: Any,
    target: Target,
    model: Callable[..., Any] | None = None,
    arguments: Arguments | None = None,
    space: Space | None = None,
) -> Guide:
    """The guide that a `guide=` option stands for.

    Args:
        guide: a name from `NAMES`, a `Guide` (instance or class), a mapping from site, tuple of
            sites or `...` (the rest) to any of these, or a NumPyro autoguide or guide function.
        target: what it is to approximate.
        model: the model function, for NumPyro guides.
        arguments: the static part of the model's arguments, for NumPyro guides.
        space: the sites it is for, where they are not all of the target's. Discrete sites in it
            get a `Discrete` guide of their own unless the mapping has another one for them.

    Raises:
        GuideError: an unknown name, or a guide that does not fit the model.
        TypeError: nothing that can be made into a guide.
    """
    space = target.space if space is None else space
    if space.discrete.sites:
        return _beside_discrete(guide, target, model, arguments, space)
    if isinstance(guide, ModelGuide):
        return guide.bind(target, space)
    if isinstance(guide, Guide):
        return guide
    if isinstance(guide, str):
        return resolve(by_name(guide), target, space=space)
    if isinstance(guide, Mapping):
        sites = assign(list(guide), space)
        groups = {
            key: resolve(guide[key], target, model, arguments, space.subset(names))
            for key, names in sites.items()
        }
        return compose(groups, space)
    if inspect.isclass(guide) and issubclass(guide, Guide):
        return resolve(guide(), target, space=space)
    if not callable(guide):
        raise TypeError(
            f"guide: expected a name ({', '.join(NAMES)}), a vijax Guide, a mapping from sites to "
            f"guides, or a NumPyro guide, got {type(guide).__name__}."
        )
    if model is None or arguments is None:
        raise TypeError("guide: a NumPyro guide needs the model and its arguments to be adapted.")
    return adapt(guide, model, arguments, target, space)


def named_discrete(guide: Any) -> frozenset[str] | Literal["all"]:
    """The sites that a `guide=` option has a guide for discrete sites for; they are to be drawn."""
    if isinstance(guide, Mapping):
        found: set[str] = set()
        for key in filter(lambda key: _is_discrete(guide[key]), guide):
            if key is ...:
                return "all"
            found |= {key} if isinstance(key, str) else set(key)
        return frozenset(found)
    return "all" if _is_discrete(guide) else frozenset()


def _is_discrete(guide: Any) -> bool:
    if isinstance(guide, str):
        return NAMES.get(guide) is Discrete
    if inspect.isclass(guide):
        return issubclass(guide, DiscreteGuide)
    return isinstance(guide, DiscreteGuide)


def _beside_discrete(
    guide: Any,
    target: Target,
    model: Callable[..., Any] | None,
    arguments: Arguments | None,
    space: Space,
) -> Guide:
    """A guide for a space with discrete sites: one for them, and one for the others.

    Raises:
        GuideError: a site has no guide, or the wrong one.
    """
    if isinstance(guide, Mixed):
        return guide
    asked = guide if isinstance(guide, Mapping) else {...: guide}
    discrete: dict[Sites, Guide] = {}
    plain: tuple[str, ...] = ()
    rest = {}
    for key, names in assign(list(asked), space).items():
        drawn, own = space.discrete.subset(names).names, asked[key]
        smooth = space.continuous.subset(names).names
        if drawn and isinstance(made := _discrete(own), Discrete):
            plain += drawn
        elif drawn:
            discrete[drawn] = made
        if smooth and not _is_discrete(own):
            rest[smooth] = own
    found = compose(discrete | ({plain: Discrete()} if plain else {}), space.discrete)
    if not space.continuous.sites:
        return found
    assert isinstance(found, DiscreteGuide)
    return mixed(found, resolve(rest, target, model, arguments, space.continuous))


def _discrete(guide: Any) -> Any:
    """The guide for the discrete sites among those that a guide is named for."""
    if not _is_discrete(guide):
        return Discrete()
    if isinstance(guide, str):
        return by_name(guide)
    return guide() if inspect.isclass(guide) else guide


def by_name(name: str) -> Guide:
    """The guide of a name, with its default options.

    Raises:
        GuideError: no guide has this name.

    >>> by_name("lowrank")
    LowRank(rank=None, init_scale=0.1)
    """
    try:
        return NAMES[name]()
    except KeyError:
        plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
        known = ["auto", *NAMES]  # the first is the ladder of `fit`, and no guide by itself
        close = difflib.get_close_matches(plain, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise GuideError(f"guide: expected one of {known}, got {name!r}.{hint}") from None
