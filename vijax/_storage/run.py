"""The optimisation behind a posterior in a file: what `resume` needs to go on exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from vijax._batches import Rows
from vijax._contracts import Algorithm, Batch, Guide, PyTree, RowSource, Target, Variables
from vijax._engine import Engine, Run
from vijax._locals import shared, variable_axes
from vijax._loop import Loop, initial, packed
from vijax._stopping import Phase, Window
from vijax._storage.codec import NotStored, Reader, Writer
from vijax.algorithms import Gradient, Optimizer

_REBUILT = ("target", "guide", "algorithm", "batch", "rows")  # of an engine


def encode_engine(engine: Engine | None, writer: Writer) -> Any:
    if engine is None:
        return None
    fields = [f.name for f in dataclasses.fields(engine) if f.name not in _REBUILT]
    own = {name: writer.encode(getattr(engine, name)) for name in fields}
    return own | {"algorithm": writer.encode(engine.algorithm), "seed": engine.rows.seed}


def encode_run(run: Run | None, writer: Writer) -> Any:
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
    target: Target,
    guide: Guide,
    batch: Batch,
    state: tuple[Variables, dict[str, PyTree]],
    options: dict[str, Any],
    sources: Mapping[str, RowSource],
) -> tuple[Engine | None, Run | None, tuple[str, ...]]:
    """What `resume` needs, and the options without which there is no engine."""
    if manifest["engine"] is None:
        return None, None, ()
    notes = dict(manifest["engine"])
    algorithm, unsaved = _algorithm(notes.pop("algorithm"), reader, options)
    rows = Rows(target.plates, notes.pop("seed"), sources, target.cut)
    fields = {name: reader.decode(note) for name, note in notes.items()}
    engine = None
    if algorithm is not None:
        engine = Engine(target, guide, algorithm, batch, rows, **fields)
    run = decode_run(manifest["run"], reader, target, guide, algorithm, *state, batch)
    return engine, run, unsaved


def _algorithm(
    note: dict[str, Any], reader: Reader, options: dict[str, Any]
) -> tuple[Algorithm | None, tuple[str, ...]]:
    """The algorithm, or the options that have to be given for there to be one."""
    if options["algorithm"] is not None:
        return options["algorithm"], ()
    try:
        given = {name: options.get(name) for name in ("objective", "optimizer")}
        if given["optimizer"] is not None:
            given["optimizer"] = Optimizer(given["optimizer"])
        if given["objective"] is given["optimizer"] is None:
            return reader.decode(note), ()
        rest = {n: reader.decode(p) for n, p in note["fields"].items() if given.get(n) is None}
        return Gradient(**rest | {n: value for n, value in given.items() if value is not None}), ()
    except NotStored:
        parts = note.get("fields", {})
        lacking = [name for name, part in parts.items() if "not stored" in str(part)]
        return None, tuple(lacking) if {*lacking} <= {"objective", "optimizer"} else ("algorithm",)


def decode_run(
    note: dict[str, Any],
    reader: Reader,
    target: Target,
    guide: Guide,
    algorithm: Algorithm | None,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
) -> Run:
    """A run; `variables` and `mutable` have the right structure, and no algorithm means no loop."""
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
            lambda *start: packed(*fixed, initial(*fixed, *start)),
            *(variables, mutable, jax.random.key(0), batch),
        )
        loop = Loop(
            state=reader.tree(
                note["loop"]["state"],
                state,
                "the algorithm's state",
                "Give load the optimizer and the objective of the fit.",
            ),
            mean=tree(note["loop"]["mean"]),
            square=reader.decode(note["loop"]["square"]),
            seen=reader.decode(note["loop"]["seen"]),
        )
    special = {"loop": loop, "phases": tuple(map(phase, note["phases"]))}
    return Run(**{n: reader.decode(p) for n, p in note.items() if n not in special} | special)
