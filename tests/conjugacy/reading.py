"""Targets, plans and random expectations of test cases, as the oracle wants them."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from tests.conjugacy import moments
from tests.conjugacy.oracle import Family, expected_log_joint
from vijax.contracts import Batch
from vijax.model import build, split, unwrap

NAMES = {
    "log_normal": "LogNormal",
    "gamma": "Gamma",
    "beta": "Beta",
    "dirichlet": "Dirichlet",
    "wishart": "Wishart",
    "normal_gamma": "NormalGamma",
    "normal_wishart": "NormalWishart",
}


class Read(NamedTuple):
    """A model as it was read; `batch` are its data."""

    target: Any
    plan: Any
    batch: Batch


def read(model, args, joint=True, quadrature=False):
    """Reads a model.

    Raises:
        GuideError: it is not conditionally conjugate.
    """
    model, args, kwargs = unwrap(model, args, {})
    arguments, data = split(model, args, kwargs)
    target = build(model, arguments)
    return Read(
        target, target.functions.conjugate_plan(joint, frozenset(), None, quadrature), Batch(data)
    )


def family_of(block):
    """The family of a block, in the oracle's words."""
    if block.kind == "normal_chain":
        return Family("MultivariateNormal")
    if block.kind == "normal":
        return Family("Normal" if block.event_size == 1 else "MultivariateNormal")
    return Family(NAMES[block.kind], int(block.power))


def random_expectations(block, rng):
    """Expectations that some distribution of a block's family has."""
    family, batch, size = family_of(block), block.batch_shape, block.event_size
    of = functools.partial(moments.random_expectations, rng=rng)
    if block.kind == "normal_chain":
        return _chain(of(family, (*batch, block.num_steps * size)), block)
    match family.name:
        case "MultivariateNormal":
            return of(family, (*batch, size))
        case "NormalGamma":
            both = of(Family("MultivariateNormal"), (*batch, size))
            return {**both, **of(Family("Gamma"), batch)}
        case "NormalWishart":
            mean = {"mean": rng.normal(size=(*batch, size)), "variance": rng.uniform(0.2, 1, batch)}
            return {**mean, **of(Family("Wishart"), (*batch, size, size))}
        case "Dirichlet" | "Wishart":
            return of(family, block.sites[0].shape)
    return of(family, batch)


def _chain(of, block):
    """Of a chain: what it has of those of a vector, beside its whole covariance."""
    shape = (*block.batch_shape, block.num_steps, block.event_size)
    whole = of["covariance"].reshape(*shape, *shape[-2:])
    steps = np.arange(block.num_steps)
    same = np.moveaxis(whole, -2, -4)[..., steps, steps, :, :]
    next_one = np.moveaxis(whole, -2, -4)[..., steps[:-1], steps[1:], :, :]
    mean = of["mean"].reshape(shape)
    return {"mean": mean, "covariance": same, "cross": next_one, "whole": of["covariance"]}


def _places(block):
    """Of the elements of all sites, one after the other: the place in the block's vectors."""
    numbers = np.arange(np.prod((*block.batch_shape, block.num_steps, block.event_size)))
    vectors = numbers.reshape(*block.batch_shape, block.num_steps, block.event_size)
    return np.concatenate([np.ravel(block.part(site, vectors)) for site in block.sites])


def for_oracle(block, of):
    """The family and expectations of a block with batch axes in front.

    A site whose batch axes are not its first ones becomes one vector of dependent elements.
    """
    (site, *_) = block.sites
    if block.kind == "normal_chain":
        size, places = block.num_steps * block.event_size, _places(block)
        blocks = of["whole"].reshape(-1, size, size)
        covariance = np.asarray(jax.scipy.linalg.block_diag(*blocks))[np.ix_(places, places)]
        moved = {"mean": of["mean"].ravel()[places], "covariance": covariance}
        return Family("MultivariateNormal"), moved
    if site.batch_axes == tuple(range(len(site.batch_axes))):
        return family_of(block), of
    order = np.argsort((*site.batch_axes, *site.event_axes))
    places = np.arange(np.prod(site.shape)).reshape(*site.batch_shape, *site.event_shape)
    flat = np.transpose(places, order).ravel()
    blocks = of["covariance"].reshape(-1, block.event_size, block.event_size)
    covariance = np.asarray(jax.scipy.linalg.block_diag(*blocks))[np.ix_(flat, flat)]
    moved = {"mean": of["mean"].ravel()[flat], "covariance": covariance}
    return Family("MultivariateNormal"), moved


def both(case, joint=True, seed=0):
    """The expected log joint density of a case as it was read, and that of the oracle."""
    with jax.enable_x64(True):
        target, plan, batch = read(case.model, case.args, joint)
        rng = np.random.default_rng(seed)
        of = {block.name: random_expectations(block, rng) for block in plan.blocks}
        found = float(target.functions.expected_log_joint(plan, of, batch))
        if case.bound is not None:
            return found, case.bound(of)
        families, expectations = {}, {}
        for block in plan.blocks:
            names = tuple(site.name for site in block.sites)
            one = names if len(names) > 1 else names[0]
            families[one], expectations[one] = for_oracle(block, of[block.name])
        oracle = expected_log_joint(case.model, case.args, families, expectations, case.discrete)
        return found, oracle
