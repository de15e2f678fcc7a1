"""Checkpoints in a directory, the last few steps of one fit, kept by orbax-checkpoint.

Orbax writes a step beside the others and renames it once all of it is on disk, finds the whole
ones, and deletes those that are too old. The items of a step are `run`, the JSON of a `Writer`, and
all its arrays laid end to end, one vector for each dtype: few long arrays are read and written in a
tenth of the time of many short ones, and where several of one item fail, orbax forgets all but the
first with much noise. It does not notice when a bit of an array flips on disk: `run` has checksums.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vijax.runtime.errors import VijaxError
from vijax.storage.codec import Writer

_PREFIX = "step"


class Damaged(VijaxError):
    """A step that cannot be read, or not as it was written."""


class Snapshot(NamedTuple):
    """What a step holds; a copy, which the fit that goes on does not change.

    Attributes:
        manifest: JSON that refers to arrays by their numbers.
        shapes: dtype and shape of each array.
        vectors: their values by dtype, in order.
    """

    manifest: Any
    shapes: list[tuple[str, list[int]]]
    vectors: dict[str, np.ndarray]

    @classmethod
    def of(cls, manifest: Any, writer: Writer) -> Snapshot:
        """A copy of what a writer has encoded."""
        parts: dict[str, list[np.ndarray]] = {}
        for array in writer.arrays:
            if array.size:  # orbax refuses empty ones
                parts.setdefault(array.dtype.name, []).append(array.reshape(-1))
        shapes = [(array.dtype.name, list(array.shape)) for array in writer.arrays]
        vectors = {name: np.concatenate(some) for name, some in parts.items()}
        return cls(manifest, shapes, vectors)

    def arrays(self) -> list[np.ndarray]:
        """The arrays, as `Reader` takes them."""
        used = dict.fromkeys(self.vectors, 0)
        found = []
        for name, shape in self.shapes:
            size, start = math.prod(shape), used.get(name, 0)
            values = self.vectors[name][start : start + size] if size else np.zeros(0, name)
            found.append(np.array(values).reshape(shape))  # a copy: none keeps all others alive
            used[name] = start + size
        return found


class Series:
    """The steps in a directory, as they are while it is open.

    Args:
        manager: orbax's.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    @property
    def steps(self) -> list[int]:
        """Those that were written to their end, latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def write(self, step: int, snapshot: Snapshot) -> None:
        """Adds a step, unless it is there, and deletes those that are too old."""
        from orbax.checkpoint import args

        if step in self.steps:
            return
        sums = {name: _sum(vector) for name, vector in snapshot.vectors.items()}
        note = {"manifest": snapshot.manifest, "shapes": snapshot.shapes, "sums": sums}
        run = args.JsonSave({"note": note, "sum": _sum(_text(note))})
        vectors = {name: args.PyTreeSave([vector]) for name, vector in snapshot.vectors.items()}
        self._manager.save(step, args=args.Composite(run=run, **vectors), force=True)

    def note(self, step: int) -> dict[str, Any]:
        """What is known of a step before its arrays are read: `manifest`, `shapes`, `sums`.

        Raises:
            Damaged: see there.
        """
        from orbax.checkpoint import args

        with _damage(step):
            run = self._manager.restore(step, args=args.Composite(run=args.JsonRestore())).run
            if _sum(_text(run["note"])) != run["sum"]:
                raise ValueError("the checksum of its JSON is another")
            return run["note"]

    def read(self, step: int, note: dict[str, Any]) -> Snapshot:
        """A step of which the note has been read.

        Raises:
            Damaged: see there.
        """
        with _damage(step):
            vectors = {name: self._vector(step, name) for name in note["sums"]}
            for name, vector in vectors.items():
                if _sum(vector) != note["sums"][name]:
                    raise ValueError(f"the checksum of its {name} numbers is another")
            return Snapshot(note["manifest"], note["shapes"], vectors)

    def delete(self, step: int) -> None:
        self._manager.delete(step)

    def _vector(self, step: int, name: str) -> np.ndarray:
        import orbax.checkpoint as ocp

        args = ocp.args.PyTreeRestore(restore_args=[ocp.RestoreArgs(restore_type=np.ndarray)])
        return self._manager.restore(step, args=ocp.args.Composite(**{name: args}))[name][0]


@contextlib.contextmanager
def opened(path: Path, keep: int | None = None) -> Iterator[Series]:
    """The steps in a directory, to be read; to be written as well if `keep` says how many stay.

    Each process of several opens it for itself.
    """
    with _silent():
        import orbax.checkpoint as ocp

        rank = jax.process_index()
        options = ocp.CheckpointManagerOptions(
            step_prefix=_PREFIX,
            create=False,
            cleanup_tmp_directories=keep is not None,
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            enable_async_checkpointing=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=rank, active_processes={rank}, barrier_sync_key_prefix=f"vijax{rank}"
            ),
        )
        with ocp.CheckpointManager(path, options=options, handler_registry=_handlers()) as manager:
            yield Series(manager)


def strangers(path: Path) -> list[str]:
    """What a directory holds that is no step."""
    names = [entry.name for entry in path.iterdir()]
    return sorted(name for name in names if not name.startswith((f"{_PREFIX}_", ".")))


def _handlers() -> Any:
    """Who writes what.

    Vectors are not compressed, which takes five times as long and saves a twelfth of noisy numbers,
    and not copied once more.
    """
    import orbax.checkpoint as ocp

    types = ocp.type_handlers
    numbers = types.NumpyHandler(deepcopy_host_arrays=False)
    handler = ocp.PyTreeCheckpointHandler(
        use_compression=False,
        type_handler_registry=types.create_type_handler_registry((np.ndarray, numbers)),
    )
    registry = ocp.DefaultCheckpointHandlerRegistry()
    for args in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        registry.add(None, args, handler)
    for args in (ocp.args.JsonSave, ocp.args.JsonRestore):
        registry.add(None, args)
    return registry


@contextlib.contextmanager
def _damage(step: int) -> Iterator[None]:
    """What goes wrong in reading a step, all said in one way."""
    try:
        yield
    except Exception as error:
        text = f"{error}".partition("\n")[0][:200]
        raise Damaged(f"step {step} is damaged ({type(error).__name__}: {text})") from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps orbax out of the log, where it warns of what is meant to be.

    It logs by absl, which gives a root logger without handlers one of its own, for ever. The one
    that Python uses where there is none stands in its way.
    """
    root, stand_in = logging.getLogger(), logging.lastResort or logging.NullHandler()
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def nothing(record: logging.LogRecord) -> bool:
        return False

    added = not root.handlers
    if added:
        root.addHandler(stand_in)
    for logger in loggers:
        logger.addFilter(nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(nothing)
        if added:
            root.removeHandler(stand_in)


def _text(note: dict[str, Any]) -> bytes:
    return json.dumps(note, allow_nan=False).encode()


def _sum(values: Any) -> int:
    return zlib.crc32(values)
