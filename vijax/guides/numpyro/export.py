"""A vijax guide as a NumPyro guide function."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers
from numpyro.distributions import constraints

from vijax.contracts import Batch, DensityGuide, Guide, PyTree, Space, Target, Variables

_LATENT = "_vijax_latent"
_NUM_DRAWS = 10_000  # for quantiles


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedGuide:
    """A fitted guide as a NumPyro guide function, with the methods of NumPyro's autoguides.

    It ignores its arguments (which may be new inputs for prediction) and samples the model's latent
    sites by name. The auxiliary site `_vijax_latent` is the unconstrained vector, with density
    `q(z)`; given it the model's sites are point masses, and a factor subtracts `log |dx/dz|`. It
    works with `numpyro.infer.Predictive`, `SVI`, `Trace_ELBO` and the handlers.

    Attributes:
        guide: the guide.
        variables: parameters of the guide and of the model.
        target: the target it was fitted to.
        batch: the data it was fitted to.
        mutable: the model's mutable state.
    """

    guide: Guide
    variables: Variables
    target: Target
    batch: Batch
    mutable: Mapping[str, PyTree]

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Samples the model's latent sites."""
        target, space, model = self.target, self.target.space, self.variables.model
        latent = _Latent(self.guide, self.variables.guide, space, self.batch)
        vector = numpyro.sample(_LATENT, latent, infer={"is_auxiliary": True})
        z = space.unravel(vector)
        with handlers.block():  # hides the sites of the model, which runs inside
            values = target.constrain(z, self.batch, model, self.mutable)
            log_dets = target.log_dets(z, self.batch, model, self.mutable)
            log_det = sum(log_dets.values(), jnp.zeros(()))
        numpyro.factor(f"{_LATENT}_log_det", -log_det)
        return {
            site.name: numpyro.sample(
                site.name, dist.Delta(values[site.name], event_dim=site.event_dim)
            )
            for site in space.sites
        }

    def sample_posterior(
        self, rng_key: Array, params: Any = None, *args: Any, sample_shape: tuple[int, ...] = ()
    ) -> dict[str, Array]:
        """Draws of the latent sites, with leading axes `sample_shape`; `params` are ignored."""
        number = math.prod(sample_shape)

        def one(key: Array) -> dict[str, Array]:
            z = self.guide.draw(self.variables.guide, self.target.space, key, self.batch).z
            values = self.target.constrain(z, self.batch, self.variables.model, self.mutable)
            return {name: values[name] for name in self.target.space.names}

        drawn = jax.jit(jax.vmap(one))(jax.random.split(rng_key, number))
        return {n: jnp.reshape(x, (*sample_shape, *x.shape[1:])) for n, x in drawn.items()}

    def quantiles(self, params: Any, quantiles: Any) -> dict[str, Array]:
        """Quantiles of every entry of the latent sites, from draws; `params` are ignored."""
        drawn = self.sample_posterior(jax.random.key(0), sample_shape=(_NUM_DRAWS,))
        levels = jnp.asarray(quantiles)
        return {name: jnp.quantile(x, levels, axis=0) for name, x in drawn.items()}

    def median(self, params: Any = None) -> dict[str, Array]:
        """Medians of every entry of the latent sites, from draws; `params` are ignored."""
        return self.quantiles(params, 0.5)


def as_numpyro(
    guide: Guide,
    variables: Variables,
    target: Target,
    batch: Batch,
    mutable: Mapping[str, PyTree] | None = None,
) -> tuple[ExportedGuide, dict[str, PyTree]]:
    """A NumPyro guide function that draws from a fitted guide, and the matching `params`.

    Args:
        guide: the guide.
        variables: parameters of the guide and of the model.
        target: the target it was fitted to.
        batch: the data it was fitted to; stored in the function.
        mutable: the model's mutable state.

    Returns:
        The function, which has no `param` sites, and the values of the `param` sites of the model,
        and of the guide if it is a NumPyro one:
        `Predictive(model, guide=function, params=params, num_samples=100)`.
    """
    mutable = mutable or {}
    params = guide.named_params(variables.guide, target.space, batch)
    params |= target.constrain_params(variables.model, batch, mutable)
    return ExportedGuide(guide, variables, target, batch, mutable), params


class _Latent(dist.Distribution):
    """The guide on the raveled space `(dim,)`, as a NumPyro distribution."""

    support = constraints.real_vector

    def __init__(self, guide: Guide, params: PyTree, space: Space, batch: Batch) -> None:
        self.guide, self.params, self.space, self.batch = guide, params, space, batch
        super().__init__(batch_shape=(), event_shape=(space.dim,), validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.sample_with_intermediates(key, sample_shape)[0]

    def sample_with_intermediates(
        self, key: Array, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, list[Array]]:
        """Draws and their log density, which some guides cannot evaluate afterwards."""

        def sample_one(key: Array) -> tuple[Array, Array]:
            draw = self.guide.draw(self.params, self.space, key, self.batch)
            return self.space.ravel(draw.z), draw.log_q

        draw = sample_one
        for _ in sample_shape:
            draw = jax.vmap(draw)
        keys = jax.random.split(key, sample_shape) if sample_shape else key
        with handlers.block():
            vector, log_q = draw(keys)
        return vector, [log_q]

    def log_prob(self, value: Array, intermediates: list[Array] | None = None) -> Array:
        if intermediates:
            return intermediates[0]
        if not isinstance(self.guide, DensityGuide):
            raise NotImplementedError(
                f"{self.guide!r} has no density at points other than its draws. Use a DensityGuide."
            )
        guide = self.guide

        def log_prob_one(vector: Array) -> Array:
            z = self.space.unravel(vector)
            return guide.log_prob(self.params, self.space, z, self.batch)

        log_prob = log_prob_one
        for _ in range(jnp.ndim(value) - 1):
            log_prob = jax.vmap(log_prob)
        return log_prob(value)
