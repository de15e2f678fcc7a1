"""A `flax.nnx` module in a model function, with priors for its weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro.distributions import constraints
from numpyro.primitives import mutable as mutable_site

from vijax.nn.priors import FAN_IN, Prior, expected, resolve_priors
from vijax.nn.recording import record_layers
from vijax.nn.row_noise import Perturbation, perturb
from vijax.nn.structure import Leaf, ModuleFactory, Path, Structure, path_name, structure_of
from vijax.runtime.errors import ModelError, mismatch, warn
from vijax.runtime.layer_record import current_record
from vijax.runtime.network_run import NetworkRun, current_run

_START_SCALE = 0.05  # sd of a weight at the start, in units of its layer's own scale

_KINDS = ("shared", "flipout", "local")


def network(
    name: str, factory: ModuleFactory, prior: Prior = FAN_IN, *, mc_dropout: bool = False
) -> Callable[..., Any]:
    """A `flax.nnx` module whose weights are latent sites of the model.

    >>> import jax, numpyro, numpyro.distributions as dist, vijax
    >>> from flax import nnx
    >>> class Net(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.hidden = nnx.Linear(1, 8, rngs=rngs)
    ...         self.out = nnx.Linear(8, 1, rngs=rngs)
    ...     def __call__(self, x):
    ...         return self.out(nnx.tanh(self.hidden(x)))
    >>> def model(x, y=None):
    ...     net = vijax.nn.network("net", Net)
    ...     with numpyro.plate("rows", len(x)):
    ...         numpyro.sample("y", dist.Normal(net(x)[:, 0], 0.1), obs=y)
    >>> with numpyro.handlers.seed(rng_seed=0):
    ...     trace = numpyro.handlers.trace(model).get_trace(jax.numpy.ones((3, 1)))
    >>> [site for site in trace if site.startswith("net")]
    ['net/hidden/bias', 'net/hidden/kernel', 'net/out/bias', 'net/out/kernel']

    The module is as it is: layers of any kind, with running statistics and dropout. In a fit these
    behave as in training, in predictions as in evaluation. Weights start at the module's own
    initial values.

    Args:
        name: of the network; sites are `name/path/of/the/weight`.
        factory: constructs the module from `nnx.Rngs`: its class, or a function.
        prior: of the weights. `"fan_in"`: normal, of variance one over the number of inputs of a
            kernel, 1 for biases. A distribution, for every element of every weight; a function of
            path and shape that returns one; `None` for point estimates, found by maximum
            likelihood; or any of these by patterns of paths, such as `{"out/*": Normal(), "*":
            None}`, of which the first that matches counts.
        mc_dropout: whether dropout stays on in predictions. With point estimates that is
            variational inference with Bernoulli weights (Gal and Ghahramani, Dropout as a Bayesian
            Approximation, 2016).

    Returns:
        A function that calls the module; the first axis of its first argument has the rows.

    Raises:
        ModelError: a weight has no prior, a pattern matches no weight, or the network is declared
            inside a plate.
        TypeError: `factory` does not construct a module.
    """
    try:
        structure = structure_of(factory)
    except TypeError as error:
        raise ModelError(f"network {name!r}: {error}") from None
    run = current_run()
    noise = {site: kind for kind in _KINDS for site in run.noise.get(kind, {})}
    priors = resolve_priors(name, prior, structure.leaves)
    initial = functools.cache(lambda: structure.initial(_key()))
    params: dict[Path, Any] = {}
    centers: dict[Path, Any] = {}
    perturbations: dict[Path, Perturbation] = {}
    for leaf in structure.leaves:
        site, of_leaf = f"{name}/{leaf.name}", priors[leaf.name]
        if of_leaf is None:
            params[leaf.path] = _point_estimate(site, leaf, initial)
            continue
        if site in noise:
            mean, sd = run.noise[noise[site]][site]
            of_leaf = expected(of_leaf, mean, sd)
        scale = _START_SCALE * leaf.fan_in**-0.5
        value = numpyro.sample(site, of_leaf, infer={"init_scale": scale})
        if jnp.shape(value) != leaf.shape:
            remedy = "Declare it before the plate, and call it inside."
            shape = f"shape {jnp.shape(value)}"
            raise ModelError(mismatch(f"site {site!r}", f"shape {leaf.shape}", shape, remedy))
        params[leaf.path] = value
        if site in run.linearized:
            centers[leaf.path] = _constrained(of_leaf, run.linearized[site])
        if run.starts is not None:
            run.starts[site] = initial()[leaf.path]
        if site in noise:
            perturbations[leaf.path] = Perturbation(noise[site], mean, sd, value)
    uncertain = [leaf.path for leaf in structure.leaves if priors[leaf.name] is not None]
    if structure.has_batch_statistics and len({path[:-1] for path in uncertain}) > 1:
        _warn_of_batch_statistics(structure, name)
    weights = _Weights(params, perturbations, centers)
    return _caller(name, structure, weights, run, mc_dropout)


class _Weights(NamedTuple):
    """The weights of a network.

    Attributes:
        values: by path.
        perturbations: of those that are drawn for each row.
        centers: of those in which the network is linearized, the point where it is.
    """

    values: Mapping[Path, Any]
    perturbations: Mapping[Path, Perturbation]
    centers: Mapping[Path, Any]


def _constrained(prior: dist.Distribution, z: Any) -> Any:
    return z if prior.support is constraints.real else dist.biject_to(prior.support)(z)


@functools.cache  # once for each module and name: a model runs many times
def _warn_of_batch_statistics(structure: Structure, name: str) -> None:
    warn(
        f"network {name!r}: running statistics (BatchNorm) belong to one draw of the weights that "
        "come before, predictions take another. Use LayerNorm or GroupNorm, or point estimates for "
        "these weights (prior=None)."
    )


def _point_estimate(site: str, leaf: Leaf, initial: Callable[[], Mapping[Path, Any]]) -> Any:
    return numpyro.param(site, lambda _: initial()[leaf.path])


def _key() -> jax.Array:
    """A key for the network's own randomness."""
    key = numpyro.prng_key()
    return jax.random.key(0) if key is None else key


def _caller(
    name: str, structure: Structure, weights: _Weights, run: NetworkRun, mc_dropout: bool
) -> Callable[..., Any]:
    """The function that calls the module with these weights."""
    holder = None
    if structure.state:
        initial = {path_name(p): v for p, v in structure.initial_state.items()}
        holder = mutable_site(f"{name}/state", {"state": initial})
    by_row = {p: v for p, v in weights.perturbations.items() if v.kind != "shared"}
    key = _key() if structure.random or by_row else None

    def state() -> dict[Path, Any]:
        return {} if holder is None else {p: holder["state"][path_name(p)] for p in structure.state}

    def at(values: Mapping[Path, Any], *args: Any, **kwargs: Any) -> Any:
        """The output with these weights, and the module after the call."""
        module = structure.module(values, state(), key)
        _set_mode(module, run.training, mc_dropout)
        if by_row and key is not None:
            perturb(module, name, by_row, jax.random.fold_in(key, len(structure.random)), args)
        record = current_record()
        if record is not None:
            record_layers(module, name, record, args)
        return module(*args, **kwargs), module

    def call(*args: Any, **kwargs: Any) -> Any:
        if weights.centers:
            return _linearized(lambda values: at(values, *args, **kwargs)[0], weights)
        found, module = at(weights.values, *args, **kwargs)
        if holder is not None and run.training:
            after = structure.state_of(module)
            holder["state"] = {path_name(p): v for p, v in after.items()}
        return found

    return call


def _linearized(function: Callable[[Mapping[Path, Any]], Any], weights: _Weights) -> Any:
    """`f(m) + J (w - m)`: a network that is linear in its weights, by one forward derivative."""
    centers = dict(weights.centers)
    steps = {path: weights.values[path] - center for path, center in centers.items()}
    at_center, change = jax.jvp(
        lambda own: function({**weights.values, **own}), (centers,), (steps,)
    )

    def moved(value: Any, by: Any) -> Any:
        return value if by.dtype == jax.dtypes.float0 else value + by

    return jax.tree.map(moved, at_center, change)


def _set_mode(module: Any, training: bool, mc_dropout: bool) -> None:
    """Dropout and running statistics as in training, or as in evaluation."""
    if training:
        module.train()
        return
    module.eval()
    if mc_dropout:
        for _, layer in nnx.iter_modules(module):
            if isinstance(layer, nnx.Dropout):
                layer.deterministic = False
