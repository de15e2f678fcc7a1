"""NumPyro's wrappers around a distribution, which change its shape or mask and not its family."""

from __future__ import annotations

import numpyro.distributions as dist

WRAPPERS = (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)


def base_distribution(fn: dist.Distribution) -> dist.Distribution:
    """The distribution inside of all wrappers; its parameters broadcast from the right."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return fn
