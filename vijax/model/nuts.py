"""NumPyro's NUTS on a target, to check a fit by Markov chain Monte Carlo."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer import MCMC as MCMC  # also for those who may not import numpyro
from numpyro.infer import NUTS

from vijax.contracts import Batch, Position, PyTree, Space, Target
from vijax.runtime.errors import ModelError
from vijax.runtime.keywords import did_you_mean

DENSE_DIM = 500  # largest dimension at which a dense mass matrix is worth its cost
_RESERVED = {"model", "potential_fn", "sampler", "postprocess_fn", "init_params", "self", "kwargs"}


def run_nuts(
    target: Target,
    batch: Batch,
    key: Array,
    initial_z: Mapping[str, np.ndarray],
    covariance: np.ndarray | None,
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
    **options: Any,
) -> MCMC:
    """Runs NUTS in the target's unconstrained space; samples are in the model's constrained space.

    The density is that of the target, not NumPyro's transformation of the model, so that supports
    that depend on other latents, spheres and circles are correct. `get_samples()` returns latent
    sites and deterministics.

    Args:
        target: the log density.
        batch: the data.
        key: key of the chains.
        initial_z: unconstrained initial positions by site, `(num_chains, *z_shape)`.
        covariance: `(dim, dim)`, or variances `(dim,)`, in the order of `target.space`: the initial
            inverse mass matrix, which is then adapted. `None` or zeros for the identity.
        model: the model's `param` sites in unconstrained space, held fixed.
        mutable: the model's mutable state, held fixed.
        **options: of `numpyro.infer.NUTS`, `numpyro.infer.MCMC` and `MCMC.run`; defaults are
            `num_warmup=500`, `num_samples=1000`, `num_chains=1`.

    Returns:
        The finished `numpyro.infer.MCMC`.

    Raises:
        ModelError: there are discrete sites that are not marginalized.
        TypeError: an option is unknown.
    """
    if target.space.discrete.sites:
        raise ModelError(
            "nuts: expected continuous sites only, since it uses gradients, got the discrete sites "
            f"{list(target.space.discrete.names)}."
        )

    def potential(z: Position) -> Array:
        return -target.log_density(z, batch, model, mutable)

    def constrain(z: Position) -> dict[str, Array]:
        return target.constrain(z, batch, model, mutable)

    options = {"num_warmup": 500, "num_samples": 1000, "num_chains": 1} | options
    kernel_options, chain_options, run_options = _split_options(options, NUTS, MCMC, MCMC.run)
    dense = target.space.dim <= DENSE_DIM
    kernel_options.setdefault("dense_mass", dense)
    if "inverse_mass_matrix" not in kernel_options and isinstance(
        kernel_options["dense_mass"], bool
    ):
        mass = inverse_mass(target.space, covariance, kernel_options["dense_mass"])
        kernel_options["inverse_mass_matrix"] = mass
    chains = chain_options["num_chains"]
    # one program for all chains if there are fewer devices than chains
    method = "parallel" if chains <= jax.local_device_count() else "vectorized"
    chain_options.setdefault("chain_method", method)
    sampler = NUTS(potential_fn=potential, **kernel_options)
    mcmc = MCMC(sampler, postprocess_fn=constrain, **chain_options)
    init_params = {name: jnp.asarray(initial_z[name]) for name in target.space.names}
    if chains == 1:
        init_params = {name: value[0] for name, value in init_params.items()}
    mcmc.run(key, init_params=init_params, **run_options)
    return mcmc


def inverse_mass(space: Space, covariance: np.ndarray | None, dense: bool) -> Array | None:
    """A covariance in the order of NumPyro's flat dict, by site name.

    Args:
        space: determines the order of `covariance`.
        covariance: `(dim, dim)`, or variances `(dim,)`.
        dense: `False` for its diagonal only.

    Returns:
        `(dim, dim)` or `(dim,)`; `None` if `covariance` is not finite or has a zero variance.
    """
    if covariance is None:
        return None
    positions, start = {}, 0
    for site in space.sites:
        positions[site.name] = np.arange(start, start + site.size)
        start += site.size
    order = np.concatenate([positions[name] for name in sorted(positions)])
    array = np.asarray(covariance, np.float64)
    variance = (array if array.ndim == 1 else np.diag(array))[order]
    if not (np.all(np.isfinite(array)) and np.all(variance > 0)):
        return None
    if not dense:
        return jnp.asarray(variance)
    matrix = np.diag(variance) if array.ndim == 1 else array[np.ix_(order, order)]
    # NumPyro factorizes it in float32
    correlation = matrix / np.sqrt(np.outer(variance, variance))
    if np.linalg.eigvalsh(correlation)[0] < 10 * np.finfo(np.float32).eps:
        matrix = np.diag(variance)
    return jnp.asarray(matrix)


def _split_options(
    options: Mapping[str, Any], *functions: Callable[..., Any]
) -> list[dict[str, Any]]:
    """The options of each function; an option is passed to the first function that has it.

    Raises:
        TypeError: no function has an option.
    """
    known = [set(inspect.signature(one).parameters) - _RESERVED - {"rng_key"} for one in functions]
    sorted_options: list[dict[str, Any]] = [{} for _ in functions]
    for name, value in options.items():
        for names, chosen in zip(known, sorted_options, strict=True):
            if name in names:
                chosen[name] = value
                break
        else:
            everything = sorted(set().union(*known) - {"args"})
            hint = did_you_mean(name, everything)
            raise TypeError(
                f"nuts: unknown option {name!r}.{hint} Options: {', '.join(everything)}."
            )
    return sorted_options
