"""Loads a saved posterior."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from vijax.contracts import Algorithm
from vijax.posterior import files
from vijax.posterior.many import files as many_files
from vijax.posterior.many.datasets import calls_of
from vijax.posterior.many.fits import Fits
from vijax.posterior.posterior import Posterior
from vijax.runtime.device_layout import mesh_layout
from vijax.storage import codec


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
) -> Any:
    """Reads a posterior written by `Posterior.save`, or many written by `Fits.save`.

    With the model's arguments it is identical to the saved posterior: draws are the same bit for
    bit, and `resume` continues the fit. Arguments may be omitted. Without the data `sample`,
    `log_prob`, `summary`, `report`, `covariance` and `predict` at new inputs still work; `sample`
    omits deterministics that depend on the training inputs, and importance weights are those of
    the draws from the assessment of the fit.

    Args:
        path: the file.
        model: the model function of the fit.
        *args: its arguments as in the fit, or some of them; of `Fits` the data sets.
        guide: the guide, required if it is not a class of vijax.
        algorithm: likewise the algorithm; needed only by `resume`.
        objective: likewise the objective.
        optimizer: likewise the optimizer, any optax transformation.
        mesh: devices to use, as in `vijax.fit`; one by default, whatever the fit used.
        **kwargs: keyword arguments of the model.

    Returns:
        The `Posterior`, or the `Fits`.

    Raises:
        TypeError: `mesh` is not a `jax.sharding.Mesh`.
        VijaxError: the file is damaged, was not written by vijax, or by a newer version.
        ModelError: the model or its arguments differ from those of the fit; names the site or
            argument. Or its rows cannot be sharded over the mesh.
        GuideError: the guide was not saved and not passed, or differs from that of the fit.
    """
    options = {"guide": guide, "algorithm": algorithm, "objective": objective}
    options |= {"optimizer": optimizer, "mesh": mesh}
    if mesh is not None:
        mesh_layout(mesh)
    manifest, arrays = codec.read(path, str(path))
    if isinstance(manifest, dict) and manifest.get("format") == many_files.FORMAT:
        calls = calls_of(args[0], kwargs)[0] if args else None
        return Fits(*many_files.read(manifest, arrays, str(path), model, calls, options))
    return Posterior(files.decode((manifest, arrays), str(path), model, (args, kwargs), options))
