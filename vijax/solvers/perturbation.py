"""Starts of coordinate ascent that are not symmetric.

Where all components of a mixture are alike, or all factors of a product zero, coordinate ascent
stays. A start is drawn from the solution it stays at, with the covariance of each block times the
number of rows that a component has: components are then separate by about the spread of the data.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts.conjugate import ConjugateBlock, ConjugatePlan
from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.families.exponential_family import ExponentialFamily
from vijax.families.gamma import Gamma
from vijax.families.gaussian_chain import GaussianChain
from vijax.families.linear_algebra import inverse_factor, product
from vijax.families.multivariate_normal import MultivariateNormal
from vijax.families.normal import Normal
from vijax.families.normal_gamma import NormalGamma
from vijax.families.normal_wishart import NormalWishart


def perturbed(
    families: dict[str, ExponentialFamily], plan: ConjugatePlan, key: Array
) -> dict[str, ExponentialFamily]:
    """Families with other means, drawn around the present ones.

    Args:
        families: by block.
        plan: the blocks.
        key: random key.
    """
    found = dict(families)
    for number, block in enumerate(plan.blocks):
        if math.prod(block.batch_shape) > 1 or block.event_size > 1:
            found[block.name] = _moved(
                families[block.name], block, plan, jax.random.fold_in(key, number)
            )
    return found


def _moved(
    family: ExponentialFamily, block: ConjugateBlock, plan: ConjugatePlan, key: Array
) -> ExponentialFamily:
    spread = math.sqrt(plan.rows_per_value)
    if isinstance(family, Normal):
        noise = jax.random.normal(key, family.mean.shape, family.mean.dtype)
        return dataclasses.replace(
            family, mean=family.mean + spread * noise / jnp.sqrt(family.precision)
        )
    if isinstance(family, GaussianChain):
        shift = family.draw(key) - family.mean
        return dataclasses.replace(family, mean=family.mean + spread * shift)
    if isinstance(family, (MultivariateNormal, NormalGamma, NormalWishart)):
        return _shifted(family, spread, key)
    if isinstance(family, Gamma):
        tempered = Gamma(
            family.concentration / spread**2 + 0.5,
            family.rate / spread**2 + 0.5 * family.rate / family.concentration,
        )
        value = tempered.draw(key)
        return dataclasses.replace(family, rate=family.concentration / value)
    if isinstance(family, Dirichlet) and block.batch_shape:
        total = family.concentration.sum(-1, keepdims=True)
        size = family.concentration.shape[-1]
        flat = Dirichlet(size * family.concentration / total)
        return Dirichlet(0.5 * (family.concentration + total * flat.draw(key)))
    if isinstance(family, Beta) and block.batch_shape:
        total = family.a + family.b
        value = Beta(2 * family.a / total, 2 * family.b / total).draw(key)
        return Beta(0.5 * (family.a + total * value), 0.5 * (family.b + total * (1 - value)))
    return family


def _shifted(
    family: MultivariateNormal | NormalGamma | NormalWishart, spread: float, key: Array
) -> ExponentialFamily:
    noise = jax.random.normal(key, family.mean.shape, family.mean.dtype)
    if isinstance(family, NormalWishart):
        precision = family.kappa[..., None, None] * family.expectations["value"]
    elif isinstance(family, NormalGamma):
        precision = family.precision * family.expectations["value"][..., None, None]
    else:
        precision = family.precision
    shift = product(inverse_factor(precision).mT, noise)
    return dataclasses.replace(family, mean=family.mean + spread * shift)
