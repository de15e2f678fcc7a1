"""The steps of a scan side by side, for a scan in which nothing but discrete states is carried on.

What a step sees of a state before it is all that there is to know about that state. So a scan needs
not be run in order: every step is run after one step from wherever the scan has been, in which the
discrete sites have the states that are to be the earlier ones. What else is carried, counters or
the last observation, comes from one run in order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro import handlers
from numpyro.contrib.control_flow.scan import PytreeTrace, _subs_wrapper

from vijax.contracts import PyTree

Body = Callable[[str], Callable[..., Any]]


def steps_apart(
    scan: Callable[..., Any],
    body: Body,
    first: bool,
    init: PyTree,
    xs: PyTree,
    length: int,
    reverse: bool,
    rng_key: Array | None = None,
    substitute_stack: Any = (),
    **options: Any,
) -> Any:
    """Takes the place of NumPyro's scan; its trace has the first step only, or all others.

    Args:
        scan: NumPyro's.
        body: the body of the scan in which discrete sites are in their state at one of three
            moments: `"now"`, `"before"` or, whichever that is, at `"any"`. Takes the carry and
            `(index, x)`.
        first: which steps.
        init: what is carried into the first step.
        xs: the inputs, beside their index.
        length: number of steps.
        reverse: whether the last index comes first.
        rng_key: as for NumPyro's scan.
        substitute_stack: likewise.
        **options: likewise.

    Returns:
        As NumPyro's scan: what is carried in the end and stacked on the way is right as far as it
        does not depend on discrete states; traces are in the order of the steps.
    """

    def step(moment: str, carry: PyTree, x: Any) -> tuple[PyTree, PytreeTrace]:
        fn = body(moment)
        with handlers.block():
            seeded = handlers.seed(fn, rng_key) if rng_key is not None else fn
            for kind, values in substitute_stack:
                substitute = partial(_subs_wrapper, values, x[0], length)
                handler = handlers.condition if kind == "condition" else handlers.substitute
                seeded = handler(seeded, None, substitute)
            with handlers.trace() as trace:
                carry, _ = seeded(carry, x)
        return carry, PytreeTrace(trace)

    def remember(carry: PyTree, x: Any) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        following, y = body("any")(carry, x)
        return following, (y, carry)

    end, (_, (ys, carries)) = scan(
        remember, init, xs, length, reverse, rng_key, substitute_stack, **options
    )
    order = jnp.arange(length)[::-1] if reverse else jnp.arange(length)
    xs, carries = jax.tree.map(lambda leaf: leaf[order], (xs, carries))
    if first:
        _, trace = step("now", init, jax.tree.map(lambda leaf: leaf[0], xs))
        return end, (jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], trace), ys)

    def later(carry: PyTree, earlier: Any, x: Any) -> PytreeTrace:
        return step("now", step("before", carry, earlier)[0], x)[1]

    carries, earlier = jax.tree.map(lambda leaf: leaf[:-1], (carries, xs))
    xs = jax.tree.map(lambda leaf: leaf[1:], xs)
    return end, (jax.vmap(later)(carries, earlier, xs), ys)
