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

from vijax.contracts import Batch, Guide, PyTree, Target, Variables
from vijax.data.arrays import opened
from vijax.engine.problem import Problem
from vijax.guides import resolve
from vijax.model import Arguments, build, shard_data, shard_target, split, unwrap
from vijax.model.data_dependence import abstract_position, dependent_sites, required_arrays
from vijax.posterior.result import FitResult
from vijax.runtime.device_layout import spread_over
from vijax.runtime.errors import GuideError, VijaxError
from vijax.storage import call, checks, codec
from vijax.storage import run as stored
from vijax.storage.codec import NotStored, Reader, Writer


def save(result: FitResult, path: str | os.PathLike[str]) -> None:
    """Writes a posterior to one file, replacing what was there only once all of it is written.

    Not written are the model function and the data, except arrays that latent sites depend on
    (as `y` in `Uniform(0, y.max())`), and what could only be pickled: a guide class or optimizer
    that is not the library's own, static arguments other than plain values.
    """
    codec.write(path, *_encode(result))


def read(
    path: str | os.PathLike[str],
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> FitResult:
    """Reads a file written by `save`; see `vijax.load`, whose `options` are."""
    if options["mesh"] is not None:
        spread_over(options["mesh"])
    model, args, kwargs = unwrap(model, args, kwargs)
    return _read(path, str(path), model, (args, kwargs), options)


def pickled(result: FitResult) -> tuple[Any, ...]:
    """What `pickle` keeps: the contents of a file, the model by reference and the data."""
    blob = codec.to_bytes(*_encode(result))
    known: dict[str, Any] = dict(result.batch.data)
    known |= {name: result.arguments.abstract()[name] for name in result.missing}
    options: dict[str, Any] = {"guide": result.guide}
    options["algorithm"] = None if result.engine is None else result.engine.algorithm
    for name in ("guide", "algorithm"):
        try:
            Writer().encode(options[name])
        except NotStored:
            continue
        options[name] = None  # it is in the blob
    return blob, result.model, result.arguments.join(known), options


def unpickled(
    blob: bytes, model: Callable[..., Any], given: call.Call, options: dict[str, Any]
) -> FitResult:
    """The inverse of `pickled`."""
    nothing = {"objective": None, "optimizer": None, "mesh": None}
    return _read(io.BytesIO(blob), "pickled posterior", model, given, nothing | options)


def _encode(result: FitResult) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The manifest and the arrays of a posterior's file."""
    writer = Writer(lenient=True)
    variables, mutable = jax.device_get((result.variables, result.mutable))
    state = (result.target, result.guide, variables, mutable, result.batch)
    data = {n: v for n, v in result.batch.data.items() if n not in result.missing}
    manifest = {
        "format": checks.FORMAT,
        "version": checks.FORMAT_VERSION,
        "libraries": checks.versions(),
        "x64": checks.double(),
        "call": call.encode(result.arguments, writer),
        "space": writer.encode(result.target.space),
        "guide": writer.encode(result.guide),
        "variables": writer.tree(variables),
        "mutable": writer.tree(mutable),
        "data": {
            name: writer.encode(data[name])
            for name in sorted(required_arrays(*state) & data.keys())
        },
        "digests": {name: checks.digest(value) for name, value in data.items()},
        "index": writer.encode(result.batch.index),
        "key": writer.encode(result.batch.key),
        "assessment": writer.encode(result.assessment),
        "stop_reason": result.stop_reason,
        "converged": bool(result.converged),
        "seconds": float(result.seconds),
        "solver_losses": writer.encode(result.solver_losses),
        "history": writer.encode(result.history),
        "request": writer.encode(result.target.subsampling.request),
        "centering": writer.encode(result.batch.centering),
        "engine": stored.encode_engine(result.engine, writer),
        "run": stored.encode_run(result.run, writer),
    }
    return manifest, writer.arrays


def _read(
    source: str | os.PathLike[str] | io.BytesIO,
    label: str,
    model: Callable[..., Any],
    given: call.Call,
    options: dict[str, Any],
) -> FitResult:
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
) -> FitResult:
    args, kwargs = call.complete(model, manifest["call"], given, reader)
    asked = reader.decode(manifest.get("request"))
    args, kwargs = opened((args, kwargs), asked is not None)
    arguments, data = split(model, args, kwargs, asked is not None)
    call.check(manifest["call"], arguments)
    checks.warn_of_other_data(manifest["digests"], data)
    data = {name: reader.decode(note) for name, note in manifest["data"].items()} | data
    missing = tuple(sorted(arguments.avals.keys() - data.keys()))
    data |= {name: arguments.placeholder(name) for name in missing}
    space = reader.decode(manifest["space"])
    target = build(model, arguments, asked, frozenset(space.discrete.names))
    checks.check_space(space, target.space)
    if options["mesh"] is not None:
        target = shard_target(target, arguments, options["mesh"])
        data |= shard_data(target, {name: data[name] for name in data if name not in missing})
    guide = _guide(manifest, reader, target, model, arguments, options["guide"])
    batch = Batch(data, centering=reader.decode(manifest["centering"]))
    try:
        variables, mutable = _templates(target, guide, batch)
        variables = reader.tree(manifest["variables"], variables, "variables")
        mutable = reader.tree(manifest["mutable"], mutable, "mutable state")
        engine, run, unsaved = stored.decode(
            manifest,
            reader,
            lambda key: Problem(model, arguments, target, guide, batch, key),
            (variables, mutable),
            options,
        )
    except VijaxError as error:
        raise type(error)(f"{error}{checks.other_versions(manifest)}") from error
    fields = ("assessment", "stop_reason", "converged", "seconds", "solver_losses", "history")
    return FitResult(
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
        unknown=dependent_sites(target, batch, variables, mutable, missing),
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
        parameters, mutable = target.initialize(key, Batch(data))
        return Variables(guide.init(key, target.space, z, Batch(data)), parameters), mutable

    return jax.eval_shape(start, jax.random.key(0), z, batch.data)
