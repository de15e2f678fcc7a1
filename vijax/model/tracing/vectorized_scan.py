"""A scan with vectorized steps, for discrete sites that form a Markov chain.

A step depends on earlier discrete states only through those of the previous step, so that steps
need not run in order. Each runs after one step from the carry of a sequential run, in which the
discrete sites take their previous states. Factors of the carry that do not depend on discrete
states, such as counters or the last observation, come from the sequential run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.contrib.control_flow.scan import PytreeTrace, _subs_wrapper

from vijax.contracts import PyTree

Body = Callable[[Any], Callable[..., Any]]


def vectorized_scan(
    scan: Callable[..., Any],
    body: Body,
    first_step: bool,
    num_steps: int | None,
    init: PyTree,
    xs: PyTree,
    length: int,
    reverse: bool,
    rng_key: Array | None = None,
    substitute_stack: Any = (),
    **options: Any,
) -> Any:
    """Replaces NumPyro's scan; its trace contains the first step only, or all others.

    Args:
        scan: NumPyro's.
        body: the body of the scan, given which states discrete sites take: `"current"`,
            `"previous"` or `"any"`. A function of the carry and `(index, x)`.
        first_step: whether to run the first step, or all others.
        num_steps: how many others at most, spread over all; `None` for all.
        init: the initial carry.
        xs: the indices and inputs of the steps.
        length: number of steps.
        reverse: whether the last index comes first.
        rng_key: as for NumPyro's scan.
        substitute_stack: likewise.
        **options: likewise.

    Returns:
        As NumPyro's scan: the final carry and the stacked outputs are correct where they do not
        depend on discrete states; traces are in the order of the steps.
    """

    def step(states: str, carry: PyTree, x: Any) -> tuple[PyTree, PytreeTrace]:
        fn = body(states)
        with handlers.block():
            seeded = handlers.seed(fn, rng_key) if rng_key is not None else fn
            for kind, values in substitute_stack:
                substitute = partial(_subs_wrapper, values, x[0], length)
                handler = handlers.condition if kind == "condition" else handlers.substitute
                seeded = handler(seeded, None, substitute)
            with handlers.trace() as trace:
                carry, _ = seeded(carry, x)
        return carry, PytreeTrace(trace)

    def with_carry(carry: PyTree, x: Any) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        following, y = body("any")(carry, x)
        return following, (y, carry)

    end, (_, (ys, carries)) = scan(
        with_carry, init, xs, length, reverse, rng_key, substitute_stack, **options
    )
    order = jnp.arange(length)[::-1] if reverse else jnp.arange(length)
    xs, carries = jax.tree.map(lambda leaf: leaf[order], (xs, carries))
    if first_step:
        _, trace = step("current", init, jax.tree.map(lambda leaf: leaf[0], xs))
        return end, (jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], trace), ys)

    def two_steps(carry: PyTree, previous: Any, x: Any) -> PytreeTrace:
        return step("current", step("previous", carry, previous)[0], x)[1]

    carries, previous = jax.tree.map(lambda leaf: leaf[:-1], (carries, xs))
    xs = jax.tree.map(lambda leaf: leaf[1:], xs)
    if num_steps is not None and num_steps < length - 1:
        some = np.linspace(0, length - 2, num_steps).astype(int)
        carries, previous, xs = jax.tree.map(lambda leaf: leaf[some], (carries, previous, xs))
    return end, (jax.vmap(two_steps)(carries, previous, xs), ys)
