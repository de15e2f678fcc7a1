"""Memoized variational inference: coordinate ascent over blocks of rows, without a learning rate.

The optimum of a global block given all others is a sum over blocks of rows, in natural parameters.
The terms of all blocks are kept, and one is replaced at a time, so that the global blocks move
after every block of rows and not after all of them. The fixed points are those of coordinate ascent
on all rows; memory is that of one block of rows and of the terms. Sources: A view of the EM
algorithm that justifies incremental, sparse, and other variants, Neal and Hinton, 1998; Memoized
online variational inference for Dirichlet process mixture models, Hughes and Sudderth, 2013.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Blocks, Target
from vijax.contracts.blocks import ConjugatePlan
from vijax.families.exponential_family import ExponentialFamily
from vijax.guides.conjugate import Families
from vijax.runtime.deadline import end_reason, time_is_up
from vijax.runtime.device_layout import on_host
from vijax.runtime.progress import advance, expect
from vijax.solvers.block_updates import (
    double_precision,
    elbo,
    expected_log_joint,
    of_color,
)
from vijax.solvers.coordinate_ascent import estimated_rise

Natural = dict[str, dict[str, Array]]  # natural parameters by block and statistic

MAX_TERMS = 2**27  # numbers in the terms of all blocks of rows, 1 GiB


class Memoized(NamedTuple):
    """The result of `memoized_ascent`.

    Attributes:
        families: by block.
        elbos: of all rows, after each pass.
        converged: whether the ELBO has no estimated rise left.
        reason: why it ended.
    """

    families: Families
    elbos: list[float]
    converged: bool
    reason: str


def memoized_ascent(
    target: Target,
    plan: ConjugatePlan,
    families: Families,
    data: Blocks,
    tolerance: float,
    max_passes: int,
) -> Memoized:
    """Coordinate ascent over blocks of rows, from `families`.

    Args:
        target: a target without local continuous sites.
        plan: its blocks of sites.
        families: by block.
        data: all rows.
        tolerance: estimated further rise of the ELBO at convergence, in nats.
        max_passes: largest number of passes over the rows.
    """
    update, value = target.program(_updated, plan), target.program(elbo, plan)
    terms: list[Natural | None] = []
    total: Natural | None = None
    weight, elbos = 0.0, list[float]()
    expect(max_passes, "pass")
    with jax.enable_x64(True):
        families = double_precision(families)
        zero = jax.tree.map(jnp.zeros_like, _natural(families))
        total = zero
        while True:
            for number, block in enumerate(data):
                if number == len(terms):
                    terms.append(None)
                old, known = terms[number], terms[number] is not None
                weight += 0.0 if known else block.weight
                families, total, terms[number] = update(
                    families,
                    total,
                    zero if old is None else old,
                    double_precision(block.batch),
                    block.weight,
                    weight,
                )
                if elbos and time_is_up():
                    reason = f"not converged: {end_reason()} after {len(elbos)} passes"
                    return Memoized(families, elbos, False, reason)
            parts = (b.weight * value(families, double_precision(b.batch)) for b in data)
            elbos.append(float(on_host(sum(parts))))
            advance(1, "pass")
            if not np.isfinite(elbos[-1]):
                return Memoized(families, elbos, False, "the ELBO is not finite")
            if estimated_rise(np.array(elbos[-3:])) < tolerance:
                words = f"within an estimated {tolerance:g} nats of the maximum"
                reason = f"{len(elbos)} passes of memoized coordinate ascent, {words}"
                return Memoized(families, elbos, True, reason)
            if len(elbos) >= max_passes:
                return Memoized(families, elbos, False, f"not converged in {max_passes} passes")


def num_terms(families: Families, data: Blocks) -> int:
    """Numbers in the terms of all blocks of rows."""
    blocks = -(-data.plate.size // data.plate.subsample_size) + 1
    return blocks * sum(leaf.size for leaf in jax.tree.leaves(_natural(families)))


def _updated(
    target: Target,
    plan: ConjugatePlan,
    families: Families,
    total: Natural,
    old: Natural,
    batch: Batch,
    share: Array,
    seen: Array,
) -> tuple[Families, Natural, Natural]:
    """The families after the terms of one block of rows were replaced, the sum, and these terms.

    Args:
        target: the target.
        plan: the blocks of sites.
        families: by block of sites.
        total: the sum of the terms.
        old: the terms of these rows, zero if there are none.
        batch: the rows.
        share: their share of all rows.
        seen: share of the rows that have terms.
    """
    new: Natural = {}
    for color in range(plan.num_colors):
        names = of_color(plan, color, families)
        _, gradient = expected_log_joint(target, plan, families, batch, names)
        for name in names:
            family = families[name]
            new[name] = family.step(gradient[name]).natural
            total = total | {
                name: jax.tree.map(
                    lambda t, a, b: t + share * (a - b), total[name], new[name], old[name]
                )
            }
            mean = jax.tree.map(lambda t: t / seen, total[name])
            families = families | {name: _with_natural(family, mean)}
    return families, total, new


def _natural(families: Families) -> Natural:
    return {name: family.natural for name, family in families.items()}


def _with_natural(family: Any, natural: dict[str, Array]) -> ExponentialFamily:
    """The member of a family's class with these natural parameters."""
    if hasattr(family, "power"):
        return type(family).from_natural(natural, family.power)
    return type(family).from_natural(natural)
