"""Optimizers of `numpyro.optim` as optax transformations."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from numpyro import optim

from vijax.contracts import PyTree


class NumPyroState(NamedTuple):
    """The number of updates, and the optimizer's own state, which has a copy of the parameters."""

    step: Array
    state: PyTree


def as_optax(optimizer: Any) -> Any:
    """An optimizer of `numpyro.optim` as the transformation with the same updates; others as given.

    Raises:
        TypeError: it minimizes by itself instead of taking gradients.
    """
    if not isinstance(optimizer, optim._NumPyroOptim):
        return optimizer
    if type(optimizer).eval_and_update is not optim._NumPyroOptim.eval_and_update:
        raise TypeError(
            f"optimizer: expected one that takes gradients, got {type(optimizer).__name__}, which "
            "minimizes by itself. Use algorithm='mode', guide='laplace' or optax.lbfgs()."
        )

    def init(params: PyTree) -> NumPyroState:
        return NumPyroState(jnp.zeros((), jnp.int32), optimizer.init(params)[1])

    def update(
        gradient: PyTree,
        state: NumPyroState,
        params: PyTree | None = None,
        *,
        value: Array | None = None,
        **extra: Any,
    ) -> tuple[PyTree, NumPyroState]:
        both = (state.step, state.state)
        following = optimizer.update(gradient, both, value=value)
        before, after = optimizer.get_params(both), optimizer.get_params(following)
        return jax.tree.map(jnp.subtract, after, before), NumPyroState(*following)

    if optimizer.update_with_value:
        return optax.GradientTransformationExtraArgs(init, update)
    return optax.GradientTransformation(init, update)
