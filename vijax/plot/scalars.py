"""Selection of scalar variables from draws, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vijax import Posterior
from vijax.posterior.labels import element_labels


def scalars(
    posterior: Posterior,
    draws: Mapping[str, np.ndarray],
    names: Sequence[str] | None,
    max_scalars: int,
) -> dict[str, np.ndarray]:
    """Draws `(num_draws,)` by scalar, named as in a summary (`theta[3]`, `theta[Choate]`).

    Args:
        posterior: whose labels name the scalars.
        draws: by site, `(num_draws, *shape)`.
        names: sites, which select all of their scalars, or scalars; `None` for the first ones.
        max_scalars: maximum number.

    Raises:
        ValueError: a name is unknown, or names select more than `max_scalars`.
    """
    columns: dict[str, np.ndarray] = {}
    sites: dict[str, list[str]] = {}
    for site, values in draws.items():
        labels = element_labels(posterior._result, site, values.shape[1:])
        columns |= zip(labels, values.reshape(len(values), len(labels)).T, strict=True)
        sites[site] = labels
    if names is None:
        return dict(list(columns.items())[:max_scalars])
    wanted = [each for name in names for each in sites.get(name, [name])]
    unknown = [name for name in wanted if name not in columns]
    if unknown:
        raise ValueError(f"sites: {unknown[0]!r} is not among {list(sites)}, nor a scalar of them.")
    if len(wanted) > max_scalars:
        raise ValueError(
            f"sites: expected at most {max_scalars} scalars in one figure, got {len(wanted)}. "
            f"Select fewer, for instance {wanted[0]!r}."
        )
    return {name: columns[name] for name in wanted}


def continuous(posterior: Posterior, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws of continuous sites and deterministics, which have densities."""
    return {
        name: value
        for name, value in draws.items()
        if np.issubdtype(value.dtype, np.floating)
        and name not in posterior._result.target.marginalized.sizes
    }
