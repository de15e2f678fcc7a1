"""Initial positions of a fit: given values, or the best of many random positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Guide, Position, PyTree, Space, Target, Variables
from vijax.diagnostics.importance import block_size
from vijax.diagnostics.nonfinite import describe, locate
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import draw_keys, fold_in

_CANDIDATES = 64
_RADIUS = 2.0  # as in Stan and NumPyro: uniform in [-2, 2] per unconstrained coordinate
_TRIES = 20
_PRIOR_SCALES = 1.5  # in priors, positions up to 1.5 times the radius in standard deviations


def random_starts(
    target: Target,
    batch: Batch,
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
    key: Array,
    count: int,
) -> list[Position]:
    """The `count` random positions of highest log density, best first.

    Raises:
        ModelError: no position with a finite log density was found; names the first site whose log
            density is not finite.
    """
    if not target.space.dim:  # parameters only
        return [origin(target.space)] * count
    if count > 1 and target.space.networks.sites:  # each has a start of its own
        state = (target, batch, model, mutable)
        return [random_starts(*state, fold_in(key, 50 + i), 1)[0] for i in range(count)]
    size = min(_CANDIDATES, block_size(batch, target.footprint, target.subsampling.axes))
    quick = bool(target.space.networks.sites)  # few of many positions matter
    program = target.program(_candidates, size, quick=quick)
    found: list[tuple[float, Position]] = []
    near, prior = (np.zeros(target.space.dim), np.ones(target.space.dim)), _prior(target)
    if target.space.networks.sites:
        near, prior = (_with_starts(target, key, batch, *one) for one in (near, prior))
    for attempt in range(_TRIES):
        # where none is found near the origin, around the prior
        loc, scale = near if attempt < _TRIES // 2 else prior
        z, log_density = on_host(program(fold_in(key, attempt), loc, scale, batch, model, mutable))
        for i in np.flatnonzero(np.isfinite(log_density)):
            found.append((float(log_density[i]), {name: v[i] for name, v in z.items()}))
        if len(found) >= count:
            found.sort(key=lambda entry: -entry[0])
            return [position for _, position in found[:count]]
    worst = {name: jnp.asarray(v[0]) for name, v in z.items()}
    site, what = locate(target, worst, batch, Variables(None, dict(model)), dict(mutable))
    raise ModelError(
        f"site {site!r}: no finite starting point in {_TRIES * size} random tries; its {what} is "
        f"not finite, for instance at {describe(worst.get(site))} (unconstrained). Check its data "
        "and its prior, or pass initial values: init={'site': value}."
    )


def origin(space: Space) -> Position:
    """The origin of unconstrained space."""
    dtype = jnp.result_type(float)  # follows jax_enable_x64
    return {site.name: np.zeros(site.z_shape, dtype) for site in space.sites}  # type: ignore[misc]


def extend_to_all_rows(space: Space, position: Position) -> Position:
    """A position on a batch, extended to all rows: local latent variables at the origin."""
    full = origin(space)
    return {
        name: value if value.shape == full[name].shape else full[name]
        for name, value in position.items()
    }


def position_from_values(
    target: Target,
    batch: Batch,
    first_batch: Batch,
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
    key: Array,
    values: Mapping[str, Any],
) -> Position:
    """The unconstrained position of given initial values; sites left out start at random.

    Args:
        target: the target.
        batch: the full data.
        first_batch: the data on which random positions are evaluated.
        model: the model's `param` sites in unconstrained space.
        mutable: the model's mutable state.
        key: randomness.
        values: constrained initial values by site.

    Raises:
        ModelError: a site is unknown, has the wrong shape, or its value lies outside its support.
    """
    shapes = {site.name: site.shape for site in target.space.sites}
    for name, value in values.items():
        if name not in shapes:
            raise ModelError(mismatch("init", f"sites among {list(shapes)}", repr(name)))
        if np.shape(value) != shapes[name]:
            raise ModelError(
                mismatch(f"init[{name!r}]", f"shape {shapes[name]}", f"shape {np.shape(value)}")
            )
    base = origin(target.space)
    if values.keys() != shapes.keys():  # else no random position is needed, nor need one be found
        found = random_starts(target.on_batch, first_batch, model, mutable, key, 1)[0]
        base = extend_to_all_rows(target.space, found)
    full = target.program(_constrain_latent_sites)(base, batch, model, mutable)
    full |= {name: jnp.asarray(value, full[name].dtype) for name, value in values.items()}
    z = on_host(target.program(_unconstrain)(full, batch, model, mutable))
    for name, value in z.items():
        if not np.all(np.isfinite(value)):
            raise ModelError(
                mismatch(
                    f"init[{name!r}]", "a value inside the site's support", describe(full[name])
                )
            )
    return z


def initial_params(
    target: Target, guide: Guide, key: Array, start: Mapping[str, Any], batch: Batch
) -> PyTree:
    """The guide's parameters at an initial position; computed on the host if the guide can."""
    if all(isinstance(value, np.ndarray) for value in start.values()):
        params = guide.host_init(target.space, dict(start))
        if params is not None:
            return params
    return target.program(_initial_params, guide, quick=True)(key, dict(start), batch)


def _initial_params(
    target: Target, guide: Guide, key: Array, start: Position, batch: Batch
) -> PyTree:
    return guide.init(key, target.space, start, batch)


def jitter(space: Space, position: Position, key: Array, scale: float = 0.1) -> Position:
    """A position with Gaussian noise added, so that restarts from the same position differ."""
    vector = space.ravel(position)
    return space.unravel(vector + scale * jax.random.normal(key, vector.shape, vector.dtype))


def _prior(target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of the priors of all coordinates; 0 and 1 where they are not known."""
    priors = target.structure.priors
    parts = [
        [np.ravel(part) for part in priors[site.name]]
        if site.name in priors
        else [np.zeros(site.size), np.ones(site.size)]
        for site in target.space.sites
    ]
    loc, scale = (np.concatenate(part) for part in zip(*parts, strict=True))
    return loc, _PRIOR_SCALES * scale


def _with_starts(
    target: Target, key: Array, batch: Batch, loc: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Location and scale of random positions, with the weights of networks at their start."""
    starts = on_host(target.program(_starts, quick=True)(fold_in(key, 49), batch))
    by_site = target.space.host_unravel(loc.astype(np.float32)), target.space.host_unravel(scale)
    for name, value in starts.items():
        by_site[0][name], by_site[1][name] = value, np.zeros_like(value)
    return target.space.host_ravel(by_site[0]), target.space.host_ravel(by_site[1])


def _starts(target: Target, key: Array, batch: Batch) -> Position:
    starts = target.starts(key, batch)
    return target.unconstrain(starts, batch, {}, {})


def _candidates(
    target: Target,
    size: int,
    key: Array,
    loc: Array,
    scale: Array,
    batch: Batch,
    model: Any,
    mutable: Any,
) -> tuple[Position, Array]:
    keys = draw_keys(key, size, target.space.dim)
    shape = (target.space.dim,)
    vectors = jax.vmap(lambda k: jax.random.uniform(k, shape, minval=-_RADIUS, maxval=_RADIUS))(
        keys
    )
    # log densities are most often finite near the origin: shrink every other candidate towards it
    vectors = vectors * jnp.where(jnp.arange(size) % 2 == 0, 0.1, 1.0)[:, None]
    vectors = loc + scale * vectors
    z = jax.vmap(target.space.unravel)(vectors)
    return z, jax.vmap(lambda one: target.log_density(one, batch, model, mutable))(z)


def _constrain_latent_sites(
    target: Target, z: Position, batch: Batch, model: Any, mutable: Any
) -> dict[str, Array]:
    values = target.constrain(z, batch, model, mutable)
    return {name: values[name] for name in target.space.names}


def _unconstrain(
    target: Target, values: dict[str, Array], batch: Batch, model: Any, mutable: Any
) -> Position:
    return target.unconstrain(values, batch, model, mutable)
