"""What algorithms share whose guide has updates of its own: `param` sites, and checks."""

from __future__ import annotations

import jax
import optax

from vijax.algorithms.gradient import Optimizer
from vijax.contracts import PyTree, Target, Variables
from vijax.runtime.errors import ModelError, mismatch


def ascend_model(
    optimizer: Optimizer, state: PyTree, variables: Variables, gradient: PyTree
) -> tuple[Variables, PyTree]:
    """A step of the `param` sites along the gradient of the log density.

    Args:
        optimizer: of the `param` sites.
        state: of the optimizer.
        variables: before the step.
        gradient: of the log density in `variables.model`.

    Returns:
        The variables and the optimizer's state after it.
    """
    downhill = jax.tree.map(lambda g: -g, gradient)
    updates, state = optimizer.transformation.update(downhill, state, variables.model)
    return variables._replace(model=optax.apply_updates(variables.model, updates)), state


def require_differentiable(target: Target, algorithm: str) -> None:
    """Checks that the log density has a gradient in every latent site.

    Raises:
        ModelError: it has not.
    """
    if not target.differentiable:
        raise ModelError(
            f"algorithm={algorithm!r}: expected a log density with a gradient in every latent "
            "site, got a model with discrete operations on one. Use algorithm='auto'."
        )


def require_shared(target: Target, algorithm: str) -> None:
    """Checks that no latent variable belongs to a row of a minibatch.

    Raises:
        ModelError: one does.
    """
    if any(site.axes(target.subsampled).pairs for site in target.space.sites):
        raise ModelError(
            f"algorithm={algorithm!r}: expected no latent variables of rows that are subsampled. "
            "Use algorithm='gradient'."
        )


def require_steps(num_steps: int | None, algorithm: str) -> int:
    """The number of steps of a fit by an algorithm that plans by it.

    Raises:
        ValueError: there is none.
    """
    if num_steps is None:
        expected = f"a number with algorithm={algorithm!r}, whose step size does not fall"
        raise ValueError(mismatch("num_steps", expected, "None", "For example num_steps=10_000."))
    return num_steps
