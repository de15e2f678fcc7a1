"""Selection of scalar variables from draws, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from vijax import Posterior, VijaxError
from vijax.posterior.labels import element_labels
from vijax.posterior.selection import select


def scalars(
    posterior: Posterior,
    draws: Mapping[str, np.ndarray],
    names: str | Iterable[str] | None,
    max_scalars: int,
) -> dict[str, np.ndarray]:
    """Draws `(num_draws,)` by scalar, named as in a summary (`theta[3]`, `theta[Choate]`).

    Args:
        posterior: whose labels name the scalars.
        draws: by site, `(num_draws, *shape)`.
        names: sites, scalars or patterns, see `select`; `None` for the first ones.
        max_scalars: maximum number.

    Raises:
        VijaxError: a name is unknown, or names select more than `max_scalars`.
    """
    labels = {
        site: element_labels(posterior._result, site, values.shape[1:])
        for site, values in draws.items()
    }
    wanted = select(names, labels)
    if names is None:
        wanted = wanted[:max_scalars]
    if len(wanted) > max_scalars:
        raise VijaxError(
            f"sites: expected at most {max_scalars} scalars in one figure, got {len(wanted)}. "
            f"Select fewer, for instance {wanted[0]!r}."
        )
    chosen = {*wanted}
    columns: dict[str, np.ndarray] = {}
    for site, values in draws.items():
        if not chosen.isdisjoint(labels[site]):
            flat = values.reshape(len(values), len(labels[site]))
            columns |= zip(labels[site], flat.T, strict=True)
    return {name: columns[name] for name in wanted}


def continuous(posterior: Posterior, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws of continuous sites and deterministics, which have densities."""
    return {
        name: value
        for name, value in draws.items()
        if np.issubdtype(value.dtype, np.floating)
        and name not in posterior._result.target.marginalized.sizes
    }
