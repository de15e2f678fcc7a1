"""Serialization of the optimization state, from which `resume` continues exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from vijax.algorithms import Optimizer
from vijax.contracts import Algorithm, PyTree, Variables
from vijax.engine.engine import Engine
from vijax.engine.loop import Loop, init_state, pack_state
from vijax.engine.problem import Problem
from vijax.engine.row_parameters import shared, variable_axes
from vijax.engine.run import Run
from vijax.engine.stopping import Phase, Window
from vijax.storage.codec import NotStored, Reader, Writer, stored_class


def encode_engine(engine: Engine | None, writer: Writer) -> Any:
    """An engine as JSON, without its problem except for the key."""
    if engine is None:
        return None
    fields = [f.name for f in dataclasses.fields(engine) if f.name != "problem"]
    note = {name: writer.encode(getattr(engine, name)) for name in fields}
    return note | {"key": writer.encode(engine.problem.key)}


def encode_run(run: Run | None, writer: Writer) -> Any:
    """A run as JSON, including its device state."""
    if run is None:
        return None

    def window(window: Window) -> Any:
        return writer.record(window, mean=writer.tree)

    def phase(phase: Phase) -> Any:
        return writer.record(
            phase,
            windows=lambda windows: [window(one) for one in windows],
            best=lambda best: None if best is None else writer.tree(best),
        )

    def loop(loop: Loop) -> Any:
        return writer.record(loop, state=writer.tree, mean=writer.tree)

    return writer.record(run, loop=loop, phases=lambda phases: [phase(one) for one in phases])


def decode(
    manifest: dict[str, Any],
    reader: Reader,
    problem: Callable[[Array], Problem],
    state: tuple[Variables, dict[str, PyTree]],
    options: dict[str, Any],
) -> tuple[Engine | None, Run | None, tuple[str, ...]]:
    """The engine and run for `resume`, and the names of options missing for the engine.

    Args:
        manifest: the file's manifest.
        reader: the reader of its arrays.
        problem: the problem as a function of its key.
        state: templates of the variables and the mutable state.
        options: the options of `load`.
    """
    if manifest["engine"] is None:
        return None, None, ()
    notes = dict(manifest["engine"])
    algorithm, unsaved = _algorithm(notes.pop("algorithm"), reader, options)
    fields = {name: reader.decode(note) for name, note in notes.items()}
    keyed_problem = problem(fields.pop("key"))
    engine = None if algorithm is None else Engine(keyed_problem, algorithm, **fields)
    run = decode_run(manifest["run"], reader, keyed_problem, algorithm, *state)
    return engine, run, unsaved


def _algorithm(
    note: dict[str, Any], reader: Reader, options: dict[str, Any]
) -> tuple[Algorithm | None, tuple[str, ...]]:
    """The algorithm, or the names of the options that must be given to reconstruct it."""
    if options["algorithm"] is not None:
        return options["algorithm"], ()
    try:
        given = {name: options.get(name) for name in ("objective", "optimizer")}
        if given["optimizer"] is not None:
            given["optimizer"] = Optimizer(given["optimizer"])
        if given["objective"] is given["optimizer"] is None:
            return reader.decode(note), ()
        rest = {n: reader.decode(p) for n, p in note["fields"].items() if given.get(n) is None}
        rest |= {name: value for name, value in given.items() if value is not None}
        return stored_class(note["class"])(**rest), ()
    except NotStored:
        parts = note.get("fields", {})
        missing = [name for name, part in parts.items() if "not stored" in str(part)]
        return None, tuple(missing) if {*missing} <= {"objective", "optimizer"} else ("algorithm",)


def decode_run(
    note: dict[str, Any],
    reader: Reader,
    problem: Problem,
    algorithm: Algorithm | None,
    variables: Variables,
    mutable: dict[str, PyTree],
) -> Run:
    """A run, by templates of variables and mutable state; without an algorithm it has no loop."""
    target, guide = problem.target, problem.guide
    averaged = shared(variables, variable_axes(guide, variables, target.space, target.subsampled))

    def tree(note: Any) -> Any:
        return None if note is None else reader.tree(note, averaged, "averaged variables")

    def window(note: Any) -> Window:
        rest = {name: reader.decode(part) for name, part in note.items() if name != "mean"}
        return Window(mean=tree(note["mean"]), **rest)

    def phase(note: Any) -> Phase:
        special = {"best": tree(note["best"]), "windows": tuple(map(window, note["windows"]))}
        return Phase(**{n: reader.decode(p) for n, p in note.items() if n not in special} | special)

    loop = None
    if algorithm is not None and note["loop"] is not None:
        fixed = (target, guide, algorithm)
        state = jax.eval_shape(
            lambda *start: pack_state(*fixed, init_state(*fixed, *start)),
            *(variables, mutable, jax.random.key(0), problem.batch),
        )
        loop = Loop(
            state=reader.tree(
                note["loop"]["state"],
                state,
                "the algorithm's state",
                "Pass the optimizer and the objective of the fit to load.",
            ),
            mean=tree(note["loop"]["mean"]),
            sum_squares=reader.decode(note["loop"]["sum_squares"]),
            num_averaged=reader.decode(note["loop"]["num_averaged"]),
        )
    special = {"loop": loop, "phases": tuple(map(phase, note["phases"]))}
    return Run(**{n: reader.decode(p) for n, p in note.items() if n not in special} | special)
