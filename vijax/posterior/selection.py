"""Selection of sites and scalars by name."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from vijax.runtime.errors import VijaxError, mismatch
from vijax.runtime.keywords import did_you_mean


def select(sites: str | Iterable[str] | None, labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Labels of the scalars that names select, in the order of the names.

    Args:
        sites: one or several sites (all of their scalars), scalars (`"theta[3]"`) or patterns with
            `*` and `?` (`"theta*"`); all scalars for `None`.
        labels: of the scalars, by site.

    Raises:
        VijaxError: a name selects nothing, or there is none.
    """
    if sites is None:
        return [label for group in labels.values() for label in group]
    wanted: dict[str, None] = {}
    for name in (sites,) if isinstance(sites, str) else sites:
        wanted |= dict.fromkeys(_selected(name, labels))
    if not wanted:
        raise VijaxError(mismatch("sites", f"names among {list(labels)}", "none"))
    return list(wanted)


def _selected(name: str, labels: Mapping[str, Sequence[str]]) -> Sequence[str]:
    if name in labels:
        return labels[name]
    scalars = [label for group in labels.values() for label in group]
    if name in scalars:
        return [name]
    known = [*labels, *labels.get(name.partition("[")[0], ())]
    found: Sequence[str] = []
    if "*" in name or "?" in name:
        # brackets are those of an index
        pattern = re.compile(fnmatch.translate(name.replace("[", "[[]")))
        of_sites = [label for site in labels if pattern.match(site) for label in labels[site]]
        found = of_sites or [label for label in scalars if pattern.match(label)]
    if not found:
        expected = f"names among {list(labels)}, scalars of them or patterns"
        hint = did_you_mean(name, known).strip()
        raise VijaxError(mismatch("sites", expected, repr(name), hint))
    return found
