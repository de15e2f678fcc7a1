"""Priors of the weights of a network."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpyro.distributions as dist

from vijax.nn.structure import Leaf
from vijax.runtime.errors import ModelError, mismatch

FAN_IN = "fan_in"

Prior: TypeAlias = (
    dist.Distribution | Callable[[str, tuple[int, ...]], Any] | Mapping[str, Any] | str | None
)


def resolve_priors(
    network: str, prior: Prior, leaves: tuple[Leaf, ...]
) -> dict[str, dist.Distribution | None]:
    """The prior of every weight by its path, `None` for a point estimate.

    Args:
        network: its name, for errors.
        prior: see `vijax.nn.network`.
        leaves: the weights.

    Raises:
        ModelError: a weight has no prior, or a pattern matches none; lists the paths.
    """
    if not isinstance(prior, Mapping):
        return {leaf.name: _of_leaf(network, prior, leaf) for leaf in leaves}
    names = [leaf.name for leaf in leaves]
    for pattern in prior:
        if not fnmatch.filter(names, pattern):
            what = f"network {network!r}, prior[{pattern!r}]"
            raise ModelError(mismatch(what, f"a pattern that matches one of {names}", "none"))
    found = {}
    for leaf in leaves:
        matching = [p for p in prior if fnmatch.fnmatchcase(leaf.name, p)]
        if not matching:
            what, remedy = f"network {network!r}", "Add '*': ... for all others."
            expected = "a prior for every weight"
            raise ModelError(mismatch(what, expected, f"none for {leaf.name!r}", remedy))
        found[leaf.name] = _of_leaf(network, prior[matching[0]], leaf)
    return found


def _of_leaf(network: str, prior: Any, leaf: Leaf) -> dist.Distribution | None:
    """The prior of a weight, with its shape as that of an event."""
    if isinstance(prior, str) and prior == FAN_IN:
        prior = fan_in_prior(leaf)
    elif callable(prior) and not isinstance(prior, dist.Distribution):
        prior = prior(leaf.name, leaf.shape)
    if prior is None:
        return None
    if not isinstance(prior, dist.Distribution):
        expected = "a distribution, 'fan_in' or None (a point estimate)"
        raise ModelError(
            mismatch(f"network {network!r}, prior of {leaf.name!r}", expected, repr(prior))
        )
    batch = leaf.shape[: len(leaf.shape) - prior.event_dim]
    return prior.expand(batch).to_event(len(batch))


def fan_in_prior(leaf: Leaf) -> dist.Distribution:
    """`N(0, 1 / fan_in)` for kernels and embeddings, so that layers keep the scale of their input.

    Biases have `N(0, 1)`, factors of normalization layers `N(1, 1)`.
    """
    if leaf.path[-1] in ("bias", "b"):
        return dist.Normal(0.0, 1.0)
    if leaf.path[-1] == "scale":
        return dist.Normal(1.0, 1.0)
    return dist.Normal(0.0, leaf.fan_in**-0.5)


class ExpectedNormal(dist.Normal):
    """A normal prior whose log density is its expectation under a normal distribution.

    `E log N(w; loc, scale) = -((m - loc)^2 + s^2) / (2 scale^2) - log scale - log(2 pi) / 2` for
    `w ~ N(m, s^2)`: the closed-form divergence of Bayes by Backprop (Blundell et al., 2015).

    Args:
        prior: the normal prior.
        mean: `m`.
        sd: `s`.
    """

    pytree_data_fields = ("_prior", "_mean", "_sd")  # sites that are alike are evaluated as one

    def __init__(self, prior: dist.Normal, mean: Any, sd: Any) -> None:
        self._prior, self._mean, self._sd = (prior.loc, prior.scale), mean, sd
        super().__init__(jnp.broadcast_to(prior.loc, jnp.shape(mean)), prior.scale)

    def log_prob(self, value: Any) -> Any:
        """The expected log density, whatever the value."""
        loc, scale = self._prior
        squares = ((self._mean - loc) / scale) ** 2 + (self._sd / scale) ** 2
        return -0.5 * squares - jnp.log(scale) - 0.5 * math.log(2 * math.pi)


def expected(prior: dist.Distribution, mean: Any, sd: Any) -> dist.Distribution:
    """The prior with its expected log density where that has a closed form, else the prior."""
    base = prior.base_dist if isinstance(prior, dist.Independent) else prior
    inner = base.base_dist if isinstance(base, dist.ExpandedDistribution) else base
    if type(inner) is not dist.Normal:
        return prior
    # weights are not validated: that takes as many operations as the density
    with dist.distribution.validation_enabled(False):
        return ExpectedNormal(inner, mean, sd).to_event(mean.ndim)
