"""Loads a posterior that was saved to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from vijax.contracts import Algorithm
from vijax.posterior import files
from vijax.posterior.posterior import Posterior


def load(
    path: str | os.PathLike[str],
    model: Callable[..., Any],
    *args: Any,
    guide: Any = None,
    algorithm: Algorithm | None = None,
    objective: Any = None,
    optimizer: Any = None,
    mesh: Mesh | None = None,
    **kwargs: Any,
) -> Posterior:
    """Reads a posterior written by `Posterior.save`.

    With the model's arguments it is the posterior that was saved: the same draws bit for bit, and
    `resume` goes on where it stopped. Arguments may be left out. Without the data `sample`,
    `log_prob`, `summary`, `report`, `covariance` and `predict` at new inputs still work; sites
    that cannot be computed without it (deterministics of the training inputs) are left out of
    `sample`, and importance weights are those of the draws made when the fit was assessed.

    Args:
        path: the file.
        model: the model function that was fitted.
        *args: its arguments as in the fit, or a part of them.
        guide: the guide, where it was not one of vijax's own.
        algorithm: likewise the algorithm; only `resume` needs it.
        objective: likewise the objective.
        optimizer: likewise the optimizer, any optax transformation.
        mesh: devices to go on with, as in `vijax.fit`; one by default, wherever the fit was made.
        **kwargs: keyword arguments of the model.

    Returns:
        The posterior.

    Raises:
        TypeError: `mesh` is no `jax.sharding.Mesh`.
        VijaxError: the file is damaged, was not written by vijax, or by a newer version.
        ModelError: the model is another one, or its arguments are; names the site or argument. Or
            its rows cannot be spread over the mesh.
        GuideError: the guide was not stored and not given, or is another one.
    """
    options = {"guide": guide, "algorithm": algorithm, "objective": objective}
    options |= {"optimizer": optimizer, "mesh": mesh}
    return Posterior(files.read(path, model, args, kwargs, options))
