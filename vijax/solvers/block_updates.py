"""What the updates of a conjugate guide need: the expected log joint density and its gradient.

On a batch of rows the terms of a site in a subsampled plate are scaled by `rows / batch`, which
they all have in common: an update of a block divides its gradient by the scale of its sites.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import Batch, Target
from vijax.contracts.conjugate import ConjugatePlan
from vijax.guides.conjugate import Families

_LOCAL_SWEEPS = 5  # of local blocks that depend on one another; a row starts from its last visit

Gradient = Mapping[str, Mapping[str, Array]]  # by block and name of an expectation


def local_blocks(target: Target, plan: ConjugatePlan) -> frozenset[str]:
    """The blocks with a member for each row of a subsampled plate."""
    sites = {site.name: site for site in target.space.sites}
    local = (b for b in plan.blocks if sites[b.sites[0].name].axes(target.subsampled).pairs)
    return frozenset(block.name for block in local)


def expected_log_joint(
    target: Target,
    plan: ConjugatePlan,
    families: Families,
    batch: Batch,
    names: Collection[str],
    some_rows: bool = False,
) -> tuple[Array, Gradient]:
    """`E_q log p`, and its gradient in the expectations of some blocks over their scales."""

    def expected(expectations: Gradient) -> Array:
        return target.functions.expected_log_joint(plan, expectations, batch, None, some_rows)

    return with_gradient(expected, families, names, plan.scales(target.space))


def with_gradient(
    function: Callable[[Gradient], Array],
    families: Families,
    names: Collection[str],
    scales: Mapping[str, float],
) -> tuple[Array, Gradient]:
    """A function of expectations, and its gradient in those of some blocks over their scales."""
    expectations = {name: family.expectations for name, family in families.items()}

    def of_some(moving: Gradient) -> Array:
        return function(expectations | dict(moving))

    value, gradient = jax.value_and_grad(of_some)({name: expectations[name] for name in names})
    return value, {n: jax.tree.map(lambda x, n=n: x / scales[n], g) for n, g in gradient.items()}


def entropy(target: Target, plan: ConjugatePlan, families: Families) -> Array:
    """The entropy of all blocks, that of local ones scaled."""
    scales = plan.scales(target.space)
    return sum((scales[n] * jnp.sum(f.entropy) for n, f in families.items()), jnp.zeros(()))


def of_color(plan: ConjugatePlan, color: int, among: Collection[str]) -> list[str]:
    """Blocks of one color."""
    return [b.name for b in plan.blocks if b.color == color and b.name in among]


def updated(
    target: Target, plan: ConjugatePlan, families: Families, batch: Batch, among: Collection[str]
) -> Families:
    """One sweep of coordinate ascent over some blocks, given all others."""
    for color in range(plan.num_colors):
        names = of_color(plan, color, among)
        if names:
            _, gradient = expected_log_joint(target, plan, families, batch, names)
            families = families | {name: families[name].step(g) for name, g in gradient.items()}
    return families


def solve_local(
    target: Target, plan: ConjugatePlan, families: Families, batch: Batch, local: Collection[str]
) -> Families:
    """The families, local blocks of the rows of a batch at their optimum given the global ones."""
    if not local:
        return families
    colors = {block.color for block in plan.blocks if block.name in local}
    if len(colors) == 1 and not plan.discrete:  # in closed form
        return updated(target, plan, families, batch, local)

    def sweep(_: int, rows: Families) -> Families:
        new = updated(target, plan, families | rows, batch, local)
        return {name: new[name] for name in rows}

    rows = {name: family for name, family in families.items() if name in local}
    return families | lax.fori_loop(0, _LOCAL_SWEEPS, sweep, rows)


def elbo(target: Target, plan: ConjugatePlan, families: Families, batch: Batch) -> Array:
    """The ELBO with local blocks at their optimum, of a batch an unbiased estimate."""
    families = solve_local(target, plan, families, batch, local_blocks(target, plan))
    expected, _ = expected_log_joint(target, plan, families, batch, ())
    return target.devices.replicate(expected + entropy(target, plan, families))


def double_precision(tree: Any) -> Any:
    """Arrays of floating-point numbers in double precision, under `jax.enable_x64(True)`."""

    def one(leaf: Any) -> Any:
        floating = jnp.issubdtype(getattr(leaf, "dtype", int), jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if floating else leaf

    return jax.tree.map(one, tree)


def single_precision(tree: Any) -> Any:
    """Arrays of floating-point numbers in the default precision."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), tree)
