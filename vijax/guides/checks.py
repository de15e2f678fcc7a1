"""Checks of guide options and of the sites a guide is applied to."""

from __future__ import annotations

import math

from vijax.contracts import Space
from vijax.runtime.errors import GuideError, mismatch


def require_positive(option: str, value: float) -> None:
    """Raises unless an option is a positive finite number.

    Raises:
        GuideError: naming the option.
    """
    if not 0 < value < math.inf:
        raise GuideError(mismatch(option, "a positive finite number", repr(value)))


def require_discrete(space: Space, guide: str) -> None:
    """Raises if a space has a continuous site.

    Raises:
        GuideError: naming the site.
    """
    for site in space.continuous.sites:
        raise GuideError(
            f"guide {guide}: expected discrete sites, got {site.name!r}, which is continuous. "
            f"Assign it to the discrete sites only: guide={{'h': {guide}(...), ...: 'fullrank'}}."
        )
