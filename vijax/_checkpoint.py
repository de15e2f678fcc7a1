"""Saves a posterior to one file and loads it back, with the training data or without.

The file holds configuration as JSON and every array; no code and no pickles. The model function
comes from the caller, and pytree structures are rebuilt from it, the guide and the algorithm. Of
the data, only those arrays are written without which latent sites could not be drawn.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vijax import _posterior
from vijax._contracts import Algorithm, Batch, Guide, PyTree, Target, Variables
from vijax._dependence import abstract_position, needed_arrays, unknown_without
from vijax._errors import GuideError, VijaxError
from vijax._spread import spread_over
from vijax._storage import call, checks, codec
from vijax._storage import run as stored
from vijax._storage.codec import NotStored, Reader, Writer
from vijax.data.arrays import opened
from vijax.guides import resolve
from vijax.model import Arguments, build, shard, split, spread, unwrap


def save(posterior: _posterior.Posterior, path: str | os.PathLike[str]) -> None:
    """Writes a posterior to one file, replacing what was there only once all of it is written.

    Not written are the model function and the data, except arrays that latent sites depend on
    (as `y` in `Uniform(0, y.max())`), and what could only be pickled: a guide class or optimizer
    that is not the library's own, static arguments other than plain values.
    """
    codec.write(path, *_encode(posterior))


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
) -> _posterior.Posterior:
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
    if mesh is not None:
        spread_over(mesh)
    model, args, kwargs = unwrap(model, args, kwargs)
    options = {"guide": guide, "algorithm": algorithm, "objective": objective}
    options |= {"optimizer": optimizer, "mesh": mesh}
    return _read(path, str(path), model, (args, kwargs), options)


def reduce(posterior: _posterior.Posterior) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What `pickle` needs: the contents of a file, the model by reference and the data."""
    blob = codec.to_bytes(*_encode(posterior))
    known: dict[str, Any] = dict(posterior.batch.data)
    known |= {name: posterior.arguments.abstract()[name] for name in posterior.missing}
    options: dict[str, Any] = {"guide": posterior.guide}
    options["algorithm"] = None if posterior.engine is None else posterior.engine.algorithm
    for name in ("guide", "algorithm"):
        try:
            Writer().encode(options[name])
        except NotStored:
            continue
        options[name] = None  # it is in the blob
    return _unpickle, (blob, posterior.model, posterior.arguments.join(known), options)


def _unpickle(
    blob: bytes, model: Callable[..., Any], given: call.Call, options: dict[str, Any]
) -> _posterior.Posterior:
    nothing = {"objective": None, "optimizer": None, "mesh": None}
    return _read(io.BytesIO(blob), "pickled posterior", model, given, nothing | options)


def _encode(posterior: _posterior.Posterior) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The manifest and the arrays of a posterior's file."""
    writer = Writer(lenient=True)
    variables, mutable = jax.device_get((posterior.variables, posterior.mutable))
    state = (posterior.target, posterior.guide, variables, mutable, posterior.batch)
    data = {n: v for n, v in posterior.batch.data.items() if n not in posterior.missing}
    manifest = {
        "format": checks.FORMAT,
        "version": checks.FORMAT_VERSION,
        "libraries": checks.versions(),
        "x64": checks.double(),
        "call": call.encode(posterior.arguments, writer),
        "space": writer.encode(posterior.target.space),
        "guide": writer.encode(posterior.guide),
        "variables": writer.tree(variables),
        "mutable": writer.tree(mutable),
        "data": {
            name: writer.encode(data[name]) for name in sorted(needed_arrays(*state) & data.keys())
        },
        "digests": {name: checks.digest(value) for name, value in data.items()},
        "index": writer.encode(posterior.batch.index),
        "key": writer.encode(posterior.batch.key),
        "assessment": writer.encode(posterior.assessment),
        "stop_reason": posterior.stop_reason,
        "converged": bool(posterior.converged),
        "seconds": float(posterior.seconds),
        "solver_losses": writer.encode(posterior.solver_losses),
        "history": writer.encode(posterior.history),
        "request": writer.encode(posterior.target.request),
        "centring": writer.encode(posterior.batch.centring),
        "engine": stored.encode_engine(posterior.engine, writer),
        "run": stored.encode_run(posterior.run, writer),
    }
    return manifest, writer.arrays


def _read(
    source: str | os.PathLike[str] | io.BytesIO,
    label: str,
    model: Callable[..., Any],
    given: call.Call,
    options: dict[str, Any],
) -> _posterior.Posterior:
    manifest, arrays = codec.read(source, label)
    checks.check_format(manifest, label)
    try:
        return _decode(manifest, Reader(arrays), model, given, options)
    except VijaxError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise VijaxError(
            f"{label}: expected the contents of a posterior, got {error!r} while reading them."
            f"{checks.other_versions(manifest)}"
        ) from error


def _decode(
    manifest: dict[str, Any],
    reader: Reader,
    model: Callable[..., Any],
    given: call.Call,
    options: dict[str, Any],
) -> _posterior.Posterior:
    args, kwargs = call.complete(model, manifest["call"], given, reader)
    asked = reader.decode(manifest.get("request"))
    args, kwargs = opened((args, kwargs), asked is not None)
    arguments, data = split(model, args, kwargs, asked is not None)
    call.check(manifest["call"], arguments)
    checks.warn_of_other_data(manifest["digests"], data)
    data = {name: reader.decode(note) for name, note in manifest["data"].items()} | data
    missing = tuple(sorted(arguments.avals.keys() - data.keys()))
    data |= {name: call.placeholder(*arguments.avals[name]) for name in missing}
    space = reader.decode(manifest["space"])
    target = build(model, arguments, asked, frozenset(space.drawn.names))
    checks.check_space(space, target.space)
    if options["mesh"] is not None:
        target = spread(target, arguments, options["mesh"])
        data |= shard(target, {name: data[name] for name in data if name not in missing})
    guide = _guide(manifest, reader, target, model, arguments, options["guide"])
    batch = Batch(data, centring=reader.decode(manifest["centring"]))
    try:
        variables, mutable = _templates(target, guide, batch)
        variables = reader.tree(manifest["variables"], variables, "variables")
        mutable = reader.tree(manifest["mutable"], mutable, "mutable state")
        engine, run, unsaved = stored.decode(
            manifest, reader, target, guide, batch, (variables, mutable), options, arguments.sources
        )
    except VijaxError as error:
        raise type(error)(f"{error}{checks.other_versions(manifest)}") from error
    fields = ("assessment", "stop_reason", "converged", "seconds", "solver_losses", "history")
    return _posterior.Posterior(
        model=model,
        arguments=arguments,
        target=target,
        guide=guide,
        variables=variables,
        mutable=mutable,
        batch=batch._replace(
            index=reader.decode(manifest["index"]), key=reader.decode(manifest["key"])
        ),
        engine=engine,
        run=run,
        missing=missing,
        unknown=unknown_without(target, batch, variables, mutable, missing),
        unsaved=unsaved,
        **{name: reader.decode(manifest[name]) for name in fields},
    )


def _guide(
    manifest: dict[str, Any],
    reader: Reader,
    target: Target,
    model: Callable[..., Any],
    arguments: Arguments,
    given: Any,
) -> Guide:
    if given is not None:
        return resolve(given, target, model, arguments)
    try:
        return reader.decode(manifest["guide"])
    except NotStored as error:
        raise GuideError(
            f"guide: this posterior has a guide that only code can make ({error}). Give it again: "
            "vijax.load(path, model, ..., guide=...)."
        ) from None


def _templates(target: Target, guide: Guide, batch: Batch) -> tuple[Variables, dict[str, PyTree]]:
    """Variables and mutable state of the right structure, without values."""
    z = abstract_position(target.space)

    def start(key: Any, z: Any, data: dict[str, Any]) -> Any:
        parameters, mutable = target.initialise(key, Batch(data))
        return Variables(guide.init(key, target.space, z, Batch(data)), parameters), mutable

    return jax.eval_shape(start, jax.random.key(0), z, batch.data)
