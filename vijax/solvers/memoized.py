"""Memoized variational inference: coordinate ascent over blocks of rows, without a learning rate.

The optimum of a global block given all others is a sum over blocks of rows, in natural parameters.
The terms of all blocks are kept, and one is replaced at a time, so that the global blocks move
after every block of rows and not after all of them. The fixed points are those of coordinate ascent
on all rows; memory is that of one block of rows and of the terms. Sources: A view of the EM
algorithm that justifies incremental, sparse, and other variants, Neal and Hinton, 1998; Memoized
online variational inference for Dirichlet process mixture models, Hughes and Sudderth, 2013.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Blocks, Solution, Target, Variables
from vijax.contracts.conjugate import ConjugatePlan
from vijax.families.exponential_family import ExponentialFamily
from vijax.guides.conjugate import Families
from vijax.runtime.deadline import end_reason, offer, time_is_up
from vijax.runtime.device_layout import on_host
from vijax.runtime.progress import advance, expect
from vijax.solvers.block_updates import (
    double_precision,
    elbo,
    expected_log_joint,
    of_color,
    single_precision,
)
from vijax.solvers.coordinate_ascent import estimated_rise

Natural = dict[str, dict[str, Array]]  # natural parameters by block and statistic

MAX_TERMS = 2**27  # numbers in the terms of all blocks of rows, 1 GiB


def memoized_ascent(
    target: Target,
    plan: ConjugatePlan,
    families: Families,
    data: Blocks,
    tolerance: float,
    max_passes: int,
) -> Solution:
    """Coordinate ascent over blocks of rows, from `families`.

    Args:
        target: a target without local continuous sites.
        plan: its blocks of sites.
        families: by block.
        data: all rows.
        tolerance: estimated further rise of the ELBO at convergence, in nats.
        max_passes: largest number of passes over the rows.

    Returns:
        The families after the last complete pass, with the ELBO of all rows after each.
    """
    with jax.enable_x64(True):
        run = _Passes(target, plan, double_precision(families), data)
        expect(max_passes, "pass")
        while True:
            if not run.advance():
                return run.solution(False, f"not converged: {end_reason()}")
            offer(functools.partial(run.solution, False, "the best so far"))
            if not np.isfinite(run.elbos[-1]):
                return run.solution(False, "the ELBO is not finite")
            if estimated_rise(run.elbos[-3:]) < tolerance:
                words = f"within an estimated {tolerance:g} nats of the maximum"
                return run.solution(True, f"memoized coordinate ascent, {words}")
            if len(run.elbos) >= max_passes:
                return run.solution(False, "not converged")


class _Passes:
    """Passes over the blocks of rows.

    Attributes:
        families: after the last complete pass.
        elbos: of all rows, after each.
        terms: of each block of rows, natural parameters.
    """

    def __init__(
        self, target: Target, plan: ConjugatePlan, families: Families, data: Blocks
    ) -> None:
        self.update, self.value = target.program(_updated, plan), target.program(elbo, plan)
        self.families, self.data = families, data
        self.elbos: list[float] = []
        self.terms: list[Natural] = []
        self.none = self.total = jax.tree.map(jnp.zeros_like, _natural(families))
        self.seen = 0.0

    def advance(self) -> bool:
        """One pass; whether it was completed, as is the first in any case."""
        families = self.families
        for number, block in enumerate(self.data):
            if number == len(self.terms):
                self.terms.append(self.none)
                self.seen += block.weight
            arrays = self.terms[number], double_precision(block.batch), block.weight, self.seen
            families, self.total, self.terms[number] = self.update(families, self.total, *arrays)
            if self.elbos and time_is_up():
                return False
        blocks = (b.weight * self.value(families, double_precision(b.batch)) for b in self.data)
        self.elbos.append(float(on_host(sum(blocks))))
        self.families = families
        advance(1, "pass")
        return True

    def solution(self, converged: bool, reason: str) -> Solution:
        """The families as a solution."""
        variables = Variables(single_precision(on_host(self.families)))
        losses, count = tuple(-elbo for elbo in self.elbos), len(self.elbos)
        words = f"{count} passes over the rows: {reason}"
        return Solution(variables, words, converged, count, losses)._replace(elbo=self.elbos[-1])


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
