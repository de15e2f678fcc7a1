"""Saves a posterior to one file and loads it, with or without the training data.

The file contains a configuration as JSON and arrays; no code and no pickles. The caller passes the
model function, from which pytree structures are rebuilt with the guide and the algorithm. Data are
not saved, except arrays on which the supports of latent sites depend.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vijax.contracts import Batch, Guide, PyTree, Target, Variables
from vijax.data.arrays import as_row_sources
from vijax.engine.problem import Problem
from vijax.guides import resolve
from vijax.guides.conjugate import target_for
from vijax.model import (
    Arguments,
    Call,
    bound_arguments,
    build,
    shard_data,
    shard_target,
    split,
    unwrap,
)
from vijax.model.data_dependence import abstract_position, dependent_sites, required_arrays
from vijax.posterior.result import FitResult
from vijax.runtime.errors import GuideError, VijaxError
from vijax.runtime.stopwatch import Timing
from vijax.storage import call, checks, codec
from vijax.storage import run as stored
from vijax.storage.codec import NotStored, Reader, Writer


def save(result: FitResult, path: str | os.PathLike[str]) -> None:
    """Writes a posterior to one file; an existing file is replaced once the new one is complete.

    Not saved are the model function, the data (except arrays on which supports depend, as `y` in
    `Uniform(0, y.max())`), and objects that could only be pickled: guide classes and optimizers
    from outside the library, static arguments other than plain values.

    Args:
        result: of the fit.
        path: the file.
    """
    codec.write(path, *_encode(result))


Contents = tuple[Any, list[np.ndarray]]  # of a file, see `codec.read`


def decode(
    contents: Contents,
    label: str,
    model: Callable[..., Any],
    given: Call,
    options: dict[str, Any],
) -> FitResult:
    """The result with the contents of a file written by `save`.

    Args:
        contents: from `codec.read`.
        label: of the file, for errors.
        model: the model function.
        given: its arguments, if any.
        options: those of `vijax.load`.
    """
    bound = bound_arguments(model)
    model, args, kwargs = unwrap(model, *given)
    return _with_bound(_checked(contents, label, model, (args, kwargs), options), bound)


def to_bytes(result: FitResult) -> bytes:
    """The contents of the file that `save` writes."""
    return codec.to_bytes(*_encode(result))


def pickled(result: FitResult) -> tuple[Any, ...]:
    """State for `pickle`: the contents of a file, the model by reference, the data, options."""
    blob = to_bytes(result)
    known: dict[str, Any] = dict(result.batch.data)
    known |= {name: result.arguments.abstract()[name] for name in result.missing}
    options: dict[str, Any] = {"guide": result.guide.unbound, "bound": result.arguments.bound}
    options["algorithm"] = None if result.engine is None else result.engine.algorithm
    for name in ("guide", "algorithm"):
        try:
            Writer().encode(options[name])
        except NotStored:
            continue
        options[name] = None  # contained in the blob
    return blob, result.model, result.arguments.join(known), options


def unpickled(
    blob: bytes, model: Callable[..., Any], given: Call, options: dict[str, Any]
) -> FitResult:
    """The inverse of `pickled`."""
    defaults = {"objective": None, "optimizer": None, "mesh": None}
    label = "pickled posterior"
    contents = codec.read(io.BytesIO(blob), label)
    found = _checked(contents, label, model, given, defaults | options)
    return _with_bound(found, options["bound"])


def _with_bound(result: FitResult, bound: Call) -> FitResult:
    """The result with the arguments that `functools.partial` set."""
    arguments = dataclasses.replace(result.arguments, bound=bound)
    return dataclasses.replace(result, arguments=arguments)


def _encode(result: FitResult) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The manifest and the arrays of a posterior's file."""
    writer = Writer(lenient=True)
    variables, mutable = jax.device_get((result.variables, result.mutable))
    state = (result.target, result.guide, variables, mutable, result.batch)
    data = {n: v for n, v in result.batch.data.items() if n not in result.missing}
    manifest = {
        "format": checks.FORMAT,
        "version": checks.FORMAT_VERSION,
        "libraries": checks.library_versions(),
        "x64": checks.x64_enabled(),
        "call": call.encode(result.arguments, writer),
        "space": writer.encode(result.target.space),
        "guide": writer.encode(result.guide.unbound),
        "variables": writer.tree(variables),
        "mutable": writer.tree(mutable),
        "data": {name: writer.encode(data[name]) for name in sorted(_needed(*state) & data.keys())},
        "digests": {
            name: checks.digest(value) for name, value in (data | result.arguments.sources).items()
        },
        "program": result.target.structure.program,
        "index": writer.encode(result.batch.index),
        "key": writer.encode(result.batch.key),
        "assessment": writer.encode(result.assessment),
        "stop_reason": result.stop_reason,
        "converged": bool(result.converged),
        "seconds": float(result.seconds),
        "timing": result.timing and list(result.timing),
        "solver_losses": writer.encode(result.solver_losses),
        "solver_steps": result.solver_steps,
        "sites": writer.encode(result.sites),
        "history": writer.encode(result.history),
        "request": writer.encode(result.target.subsampling.request),
        "relabeling": writer.encode(result.relabeling),
        "centering": writer.encode(result.batch.centering),
        "engine": stored.encode_engine(result.engine, writer),
        "run": stored.encode_run(result.run, writer),
    }
    return manifest, writer.arrays


def _needed(*state: Any) -> frozenset[str]:
    """The arrays that draws depend on; all where those of every row cannot be drawn at once."""
    target, *_, batch = state
    try:
        return required_arrays(*state) if target.subsampling.whole else frozenset(batch.data)
    except GuideError:
        return frozenset(batch.data)


def _checked(
    contents: Contents,
    label: str,
    model: Callable[..., Any],
    given: Call,
    options: dict[str, Any],
) -> FitResult:
    manifest, arrays = contents
    try:
        checks.check_format(manifest, label)
        return _decode(manifest, Reader(arrays), model, given, options)
    except (VijaxError, Warning, MemoryError):
        raise
    except Exception as error:  # a changed entry may raise anything in the class that it is for
        raise VijaxError(
            f"{label}: expected the contents of a posterior, got {error!r} while reading them."
            f"{checks.version_changes(manifest)}"
        ) from error


def _decode(
    manifest: dict[str, Any],
    reader: Reader,
    model: Callable[..., Any],
    given: Call,
    options: dict[str, Any],
) -> FitResult:
    args, kwargs = call.complete(model, manifest["call"], given, reader)
    request = reader.decode(manifest.get("request"))
    args, kwargs = as_row_sources((args, kwargs), request is not None)
    by_content = frozenset(manifest["call"].get("by content", ()))
    known = call.known(manifest["call"], reader)
    arguments, data = split(model, args, kwargs, request is not None, by_content, known)
    call.check(manifest["call"], arguments)
    checks.warn_if_data_changed(manifest["digests"], data | arguments.sources)
    assessment = reader.decode(manifest["assessment"])
    arguments = dataclasses.replace(
        arguments,
        data_warnings=assessment.diagnostics.data_warnings,
        coords=call.coords(manifest["call"], reader),
    )
    data = {name: reader.decode(note) for name, note in manifest["data"].items()} | data
    missing = tuple(sorted(arguments.avals.keys() - data.keys()))
    data |= {name: arguments.placeholder(name) for name in missing}
    space = reader.decode(manifest["space"])
    target = build(model, arguments, request, frozenset(space.discrete.names))
    checks.check_space(space, target.space)
    checks.warn_if_model_changed(manifest, target.structure.program)
    if options["mesh"] is not None:
        target = shard_target(target, arguments, options["mesh"])
        data |= shard_data(target, {name: data[name] for name in data if name not in missing})
    guide = _guide(manifest, reader, target, model, arguments, options["guide"])
    target = target_for(guide, target)
    batch = Batch(data, centering=reader.decode(manifest["centering"]))
    problem = Problem(model, arguments, target, guide, batch, jax.random.key(0))
    try:
        state = _decode_state(manifest, reader, problem, options)
    except VijaxError as error:
        raise type(error)(f"{error}{checks.version_changes(manifest)}") from error
    fields = ("stop_reason", "converged", "seconds", "solver_losses", "history")
    variables, mutable = state["variables"], state["mutable"]
    return FitResult(
        model=model,
        arguments=arguments,
        target=target,
        guide=guide,
        batch=batch._replace(
            index=reader.decode(manifest["index"]),
            key=reader.decode(manifest["key"]),
            linearized=guide.linearized_at(variables.guide, target.space),
        ),
        missing=missing,
        unknown=dependent_sites(target, batch, variables, mutable, missing),
        assessment=assessment,
        solver_steps=manifest.get("solver_steps", 0),  # not in older files, as what follows
        timing=Timing(*manifest["timing"]) if manifest.get("timing") else None,
        relabeling=reader.decode(manifest.get("relabeling")) or (),
        sites=reader.decode(manifest.get("sites")),
        **state,
        **{name: reader.decode(manifest[name]) for name in fields},
    )


def _decode_state(
    manifest: dict[str, Any], reader: Reader, problem: Problem, options: dict[str, Any]
) -> dict[str, Any]:
    """The numbers of a fit, and what `resume` needs, by field of the result."""
    target, guide, batch = problem.target, problem.guide, problem.batch
    templates = _templates(target, guide, batch)
    variables = reader.tree(manifest["variables"], templates[0], "variables")
    mutable = reader.tree(manifest["mutable"], templates[1], "mutable state")
    point = guide.point_guide(target.space)
    if point is not guide:  # whose parameters the steps have
        templates = _templates(target, point, batch)
        problem = dataclasses.replace(problem, guide=point, final=guide)
    engine, run, unsaved = stored.decode(
        manifest,
        reader,
        lambda key: dataclasses.replace(problem, key=key),
        (templates[0], mutable),
        options,
    )
    parts = {"variables": variables, "mutable": mutable}
    return parts | {"engine": engine, "run": run, "unsaved": unsaved}


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
        return resolve(reader.decode(manifest["guide"]), target, model, arguments)
    except NotStored as error:
        raise GuideError(
            f"guide: this posterior has a guide that cannot be saved to a file ({error}). Pass it: "
            "vijax.load(path, model, ..., guide=...)."
        ) from None


def _templates(target: Target, guide: Guide, batch: Batch) -> tuple[Variables, dict[str, PyTree]]:
    """Structures of the variables and of the mutable state, as shapes and dtypes."""
    z = abstract_position(target.space)

    def start(key: Any, z: Any, data: dict[str, Any]) -> Any:
        parameters, mutable = target.initialize(key, Batch(data))
        return Variables(guide.init(key, target.space, z, Batch(data)), parameters), mutable

    return jax.eval_shape(start, jax.random.key(0), z, batch.data)
