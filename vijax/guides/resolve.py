"""Resolution of the `guide=` option to a `Guide`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from vijax.contracts import DiscreteGuide, Guide, ModelGuide, Space, Target
from vijax.guides.composite import Composite, Sites, assign, compose
from vijax.guides.conjugate import Conjugate
from vijax.guides.delta import Delta
from vijax.guides.discrete import Discrete, Mixed, combine
from vijax.guides.ensemble import Ensemble
from vijax.guides.flow import ARCHITECTURES, Flow
from vijax.guides.location_scale.full_rank import FullRank
from vijax.guides.location_scale.laplace import Laplace
from vijax.guides.location_scale.low_rank import LowRank
from vijax.guides.location_scale.mean_field import MeanField
from vijax.guides.numpyro import adapt
from vijax.guides.numpyro.tracing import Arguments
from vijax.guides.structured.asvi import ASVI
from vijax.guides.structured.markov import Markov, chain_sites, is_chain
from vijax.guides.structured.plates import Plates
from vijax.runtime.errors import GuideError
from vijax.runtime.keywords import did_you_mean

NAMES: dict[str, Callable[[], Guide]] = {
    "meanfield": MeanField,
    "fullrank": FullRank,
    "lowrank": LowRank,
    "laplace": Laplace,
    "map": Delta,
    "delta": Delta,
    "ensemble": Ensemble,
    "discrete": Discrete,
    "markov": Markov,
    "plates": Plates,
    "asvi": ASVI,
    "conjugate": Conjugate,
    "flow": Flow,
    **{name: functools.partial(Flow, name) for name in ARCHITECTURES},
}


def resolve(
    guide: Any,
    target: Target,
    model: Callable[..., Any] | None = None,
    arguments: Arguments | None = None,
    space: Space | None = None,
) -> Guide:
    """The guide specified by a `guide=` option.

    Args:
        guide: a name from `NAMES`, a `Guide` (instance or class), a mapping from site, tuple of
            sites or `...` (the rest) to any of these, or a NumPyro autoguide or guide function.
        target: the target to approximate.
        model: the model function, for NumPyro guides.
        arguments: the static part of the model's arguments, for NumPyro guides.
        space: the sites to cover; by default all of the target's. Discrete sites among them get
            a `Discrete` guide unless the mapping assigns them another one.

    Raises:
        GuideError: an unknown name, or a guide that does not fit the model.
        TypeError: the option has an unsupported type.
    """
    space = target.space if space is None else space
    if space.discrete.sites:
        return _resolve_with_discrete(guide, target, model, arguments, space)
    if isinstance(guide, ModelGuide):
        return guide.bind(target, space)
    guide = _with_parts_to_bind(guide)
    if isinstance(guide, Markov) and space == target.space.continuous and not is_chain(space):
        return resolve({chain_sites(space): guide, ...: FullRank()}, target, space=space)
    if isinstance(guide, Guide):
        return guide
    if isinstance(guide, str):
        return resolve(by_name(guide), target, space=space)
    if isinstance(guide, Mapping):
        groups: dict[Sites, Guide] = {
            names: resolve(value, target, model, arguments, space.subset(names))
            for names, value in _groups(guide, space)
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
        raise TypeError("guide: adapting a NumPyro guide needs the model and its arguments.")
    return adapt(guide, model, arguments, target, space)


def _with_parts_to_bind(guide: Any) -> Any:
    """A composite guide as a mapping, if one of its parts is bound to a model (from a file)."""
    unbound = isinstance(guide, Composite) and any(
        isinstance(part, ModelGuide) for _, part in guide.parts
    )
    return dict(guide.parts) if unbound else guide


def _groups(guide: Mapping[Any, Any], space: Space) -> list[tuple[tuple[str, ...], Any]]:
    """The sites of each group with its guide; conjugate groups together, as they read one model."""
    groups: list[tuple[tuple[str, ...], Any]] = []
    conjugate: dict[Any, tuple[str, ...]] = {}
    for key, names in assign(list(guide), space).items():
        value = guide[key]
        found = NAMES.get(value) if isinstance(value, str) else value
        found = found() if inspect.isclass(found) and issubclass(found, Conjugate) else found
        if isinstance(found, Conjugate):
            conjugate[found] = space.subset((*conjugate.get(found, ()), *names)).names
        else:
            groups.append((names, value))
    return [*groups, *((names, found) for found, names in conjugate.items())]


def discrete_guide_sites(guide: Any) -> frozenset[str] | Literal["all"]:
    """The sites to which a `guide=` option assigns a discrete guide: not to be marginalized."""
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


def _resolve_with_discrete(
    guide: Any,
    target: Target,
    model: Callable[..., Any] | None,
    arguments: Arguments | None,
    space: Space,
) -> Guide:
    """The guide for a space with discrete sites: a discrete guide, and one for other sites.

    Raises:
        GuideError: a site has no guide, or one of the wrong kind.
    """
    if isinstance(guide, Mixed):
        return guide
    mapping = guide if isinstance(guide, Mapping) else {...: guide}
    other_discrete: dict[Sites, Guide] = {}
    mean_field_sites: tuple[str, ...] = ()
    rest = {}
    for key, names in assign(list(mapping), space).items():
        discrete_names, value = space.discrete.subset(names).names, mapping[key]
        continuous_names = space.continuous.subset(names).names
        if discrete_names and type(part := _discrete_part(value)) is Discrete:
            mean_field_sites += discrete_names
        elif discrete_names:
            other_discrete[discrete_names] = part
        if continuous_names and not _is_discrete(value):
            rest[continuous_names] = value
    mean_field = {mean_field_sites: Discrete()} if mean_field_sites else {}
    discrete = compose(other_discrete | mean_field, space.discrete)
    if not space.continuous.sites:
        return discrete
    assert isinstance(discrete, DiscreteGuide)
    return combine(discrete, resolve(rest, target, model, arguments, space.continuous))


def _discrete_part(guide: Any) -> Any:
    """The guide for the discrete sites of a group to which `guide` is assigned."""
    if not _is_discrete(guide):
        return Discrete()
    if isinstance(guide, str):
        return by_name(guide)
    return guide() if inspect.isclass(guide) else guide


def by_name(name: str) -> Guide:
    """The guide with a given name, with default options.

    Raises:
        GuideError: no guide has this name.

    >>> by_name("lowrank")
    LowRank(rank=None, init_scale=0.1)
    """
    try:
        return NAMES[name]()
    except KeyError:
        plain = name.lower().replace("-", "").replace("_", "").replace(" ", "")
        known = ["auto", *NAMES]  # "auto" is resolved by `fit`
        hint = did_you_mean(plain, known)
        raise GuideError(f"guide: expected one of {known}, got {name!r}.{hint}") from None
