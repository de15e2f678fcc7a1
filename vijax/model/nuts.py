"""NumPyro's NUTS on a target: the check by Markov chain Monte Carlo for those who want one."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer import MCMC, NUTS

from vijax.contracts import Batch, Position, PyTree, Space, Target
from vijax.runtime.errors import ModelError

DENSE_DIM = 500  # beyond it a dense mass matrix costs more than it gains
_OURS = {"model", "potential_fn", "sampler", "postprocess_fn", "init_params", "self", "kwargs"}


def run_nuts(
    target: Target,
    batch: Batch,
    key: Array,
    starts: Mapping[str, np.ndarray],
    covariance: np.ndarray | None,
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
    **options: Any,
) -> MCMC:
    """Runs NUTS over the target's unconstrained space; samples come back in the model's own.

    The target's own density is used, not NumPyro's transform of the model, so that supports
    that move with other latents, spheres and circles are right. `get_samples()` returns latent
    sites and deterministics.

    Args:
        target: the log density.
        batch: the data.
        key: randomness of the chains.
        starts: unconstrained starting points by site, `(num_chains, *z_shape)`.
        covariance: `(dim, dim)`, or variances `(dim,)`, in the order of `target.space`: the first
            inverse mass matrix; it adapts from there. `None` or zeros start from the identity.
        model: the model's `param` sites in unconstrained space, held fixed.
        mutable: the model's mutable state, held fixed.
        **options: of `numpyro.infer.NUTS`, `numpyro.infer.MCMC` and `MCMC.run`; the defaults are
            `num_warmup=500`, `num_samples=1000`, `num_chains=1`.

    Returns:
        The finished `numpyro.infer.MCMC`.

    Raises:
        ModelError: there are discrete sites that are not summed out.
        TypeError: an option is unknown.
    """
    if target.space.discrete.sites:
        raise ModelError(
            "nuts: expected continuous sites alone, since it follows gradients, got the discrete "
            f"{list(target.space.discrete.names)} among them."
        )

    def potential(z: Position) -> Array:
        return -target.log_density(z, batch, model, mutable)

    def constrain(z: Position) -> dict[str, Array]:
        return target.constrain(z, batch, model, mutable)

    options = {"num_warmup": 500, "num_samples": 1000, "num_chains": 1} | options
    kernel_options, chain_options, run_options = _sort(options, NUTS, MCMC, MCMC.run)
    dense = target.space.dim <= DENSE_DIM
    kernel_options.setdefault("dense_mass", dense)
    if "inverse_mass_matrix" not in kernel_options and isinstance(
        kernel_options["dense_mass"], bool
    ):
        mass = inverse_mass(target.space, covariance, kernel_options["dense_mass"])
        kernel_options["inverse_mass_matrix"] = mass
    chains = chain_options["num_chains"]
    # one program for all chains where there is no device for each
    several = "parallel" if chains <= jax.local_device_count() else "vectorized"
    chain_options.setdefault("chain_method", several)
    sampler = NUTS(potential_fn=potential, **kernel_options)
    mcmc = MCMC(sampler, postprocess_fn=constrain, **chain_options)
    first = {name: jnp.asarray(starts[name]) for name in target.space.names}
    if chains == 1:
        first = {name: value[0] for name, value in first.items()}
    mcmc.run(key, init_params=first, **run_options)
    return mcmc


def inverse_mass(space: Space, covariance: np.ndarray | None, dense: bool) -> Array | None:
    """A covariance in the order in which NumPyro lays out a dict: by site name.

    Args:
        space: its own order is the one of `covariance`.
        covariance: `(dim, dim)`, or variances `(dim,)`.
        dense: `False` for its diagonal only.

    Returns:
        `(dim, dim)` or `(dim,)`, or `None` for a covariance that cannot be one.
    """
    if covariance is None:
        return None
    positions, start = {}, 0
    for site in space.sites:
        positions[site.name] = np.arange(start, start + site.size)
        start += site.size
    order = np.concatenate([positions[name] for name in sorted(positions)])
    spread = np.asarray(covariance, np.float64)
    variance = (spread if spread.ndim == 1 else np.diag(spread))[order]
    if not (np.all(np.isfinite(spread)) and np.all(variance > 0)):
        return None
    if not dense:
        return jnp.asarray(variance)
    matrix = np.diag(variance) if spread.ndim == 1 else spread[np.ix_(order, order)]
    # the factorization happens in float32
    correlation = matrix / np.sqrt(np.outer(variance, variance))
    if np.linalg.eigvalsh(correlation)[0] < 10 * np.finfo(np.float32).eps:
        matrix = np.diag(variance)
    return jnp.asarray(matrix)


def _sort(options: Mapping[str, Any], *functions: Callable[..., Any]) -> list[dict[str, Any]]:
    """The options of each function; each goes to the first one that has it.

    Raises:
        TypeError: none of them has it.
    """
    known = [set(inspect.signature(one).parameters) - _OURS - {"rng_key"} for one in functions]
    sorted_options: list[dict[str, Any]] = [{} for _ in functions]
    for name, value in options.items():
        for names, chosen in zip(known, sorted_options, strict=True):
            if name in names:
                chosen[name] = value
                break
        else:
            everything = sorted(set().union(*known) - {"args"})
            close = difflib.get_close_matches(name, everything, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise TypeError(
                f"nuts: unknown option {name!r}.{hint} Options: {', '.join(everything)}."
            )
    return sorted_options
