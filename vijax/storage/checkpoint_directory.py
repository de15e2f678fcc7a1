"""A directory with the last few checkpoints of one fit, managed by orbax-checkpoint.

Orbax writes checkpoints atomically, lists the complete ones and deletes old ones. The items of a
checkpoint are `run`, the JSON of a `Writer`, and the concatenation of its arrays, one vector for
each dtype: a few long arrays are read and written ten times faster than many short ones, and if
several arrays of an item cannot be read, orbax logs many messages and raises only the first error.
It does not detect corrupted array values, so that `run` contains checksums.
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


class CorruptCheckpoint(VijaxError):
    """A checkpoint that cannot be read, or whose contents differ from what was written."""


class Snapshot(NamedTuple):
    """The contents of a checkpoint, copied from the running fit.

    Attributes:
        manifest: JSON that refers to arrays by index.
        shapes: dtype and shape of each array.
        vectors: by dtype, the concatenated values of the arrays.
    """

    manifest: Any
    shapes: list[tuple[str, list[int]]]
    vectors: dict[str, np.ndarray]

    @classmethod
    def of(cls, manifest: Any, writer: Writer) -> Snapshot:
        """A copy of a manifest and its writer's arrays."""
        parts: dict[str, list[np.ndarray]] = {}
        for array in writer.arrays:
            if array.size:  # orbax does not accept empty arrays
                parts.setdefault(array.dtype.name, []).append(array.reshape(-1))
        shapes = [(array.dtype.name, list(array.shape)) for array in writer.arrays]
        vectors = {name: np.concatenate(some) for name, some in parts.items()}
        return cls(manifest, shapes, vectors)

    def arrays(self) -> list[np.ndarray]:
        """The arrays, for a `Reader`."""
        used = dict.fromkeys(self.vectors, 0)
        found = []
        for name, shape in self.shapes:
            size, start = math.prod(shape), used.get(name, 0)
            values = self.vectors[name][start : start + size] if size else np.zeros(0, name)
            found.append(np.array(values).reshape(shape))  # a copy, which releases the vector
            used[name] = start + size
        return found


class CheckpointDirectory:
    """The checkpoints in an open directory.

    Args:
        manager: orbax's checkpoint manager.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    @property
    def steps(self) -> list[int]:
        """The steps of complete checkpoints, latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def write(self, step: int, snapshot: Snapshot) -> None:
        """Adds a checkpoint, unless it exists, and deletes old ones."""
        from orbax.checkpoint import args

        if step in self.steps:
            return
        sums = {name: _checksum(vector) for name, vector in snapshot.vectors.items()}
        note = {"manifest": snapshot.manifest, "shapes": snapshot.shapes, "sums": sums}
        run = args.JsonSave({"note": note, "sum": _checksum(_to_json(note))})
        vectors = {name: args.PyTreeSave([vector]) for name, vector in snapshot.vectors.items()}
        self._manager.save(step, args=args.Composite(run=run, **vectors), force=True)

    def read_note(self, step: int) -> dict[str, Any]:
        """The JSON of a checkpoint: `manifest`, array `shapes`, and checksums (`sums`).

        Raises:
            CorruptCheckpoint: it cannot be read, or its checksum is wrong.
        """
        from orbax.checkpoint import args

        with _read_errors(step):
            run = self._manager.restore(step, args=args.Composite(run=args.JsonRestore())).run
            if _checksum(_to_json(run["note"])) != run["sum"]:
                raise ValueError("wrong checksum of its JSON")
            return run["note"]

    def read(self, step: int, note: dict[str, Any]) -> Snapshot:
        """A checkpoint, given its note.

        Raises:
            CorruptCheckpoint: an array cannot be read, or its checksum is wrong.
        """
        with _read_errors(step):
            vectors = {name: self._vector(step, name) for name in note["sums"]}
            for name, vector in vectors.items():
                if _checksum(vector) != note["sums"][name]:
                    raise ValueError(f"wrong checksum of its {name} values")
            return Snapshot(note["manifest"], note["shapes"], vectors)

    def delete(self, step: int) -> None:
        """Deletes a checkpoint."""
        self._manager.delete(step)

    def _vector(self, step: int, name: str) -> np.ndarray:
        import orbax.checkpoint as ocp

        args = ocp.args.PyTreeRestore(restore_args=[ocp.RestoreArgs(restore_type=np.ndarray)])
        return self._manager.restore(step, args=ocp.args.Composite(**{name: args}))[name][0]


@contextlib.contextmanager
def open_directory(path: Path, keep: int | None = None) -> Iterator[CheckpointDirectory]:
    """Opens a checkpoint directory for reading, or, with `keep` checkpoints kept, for writing.

    With several processes each opens it independently.
    """
    with _suppress_logging():
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
            yield CheckpointDirectory(manager)


def foreign_entries(path: Path) -> list[str]:
    """The names in a directory that are not checkpoints."""
    names = [entry.name for entry in path.iterdir()]
    return sorted(name for name in names if not name.startswith((f"{_PREFIX}_", ".")))


def _handlers() -> Any:
    """The handlers of orbax items.

    Arrays are not copied again, and not compressed: compression takes five times as long, and saves
    only 8 % for noisy values.
    """
    import orbax.checkpoint as ocp

    types = ocp.type_handlers
    arrays = types.NumpyHandler(deepcopy_host_arrays=False)
    handler = ocp.PyTreeCheckpointHandler(
        use_compression=False,
        type_handler_registry=types.create_type_handler_registry((np.ndarray, arrays)),
    )
    registry = ocp.DefaultCheckpointHandlerRegistry()
    for args in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        registry.add(None, args, handler)
    for args in (ocp.args.JsonSave, ocp.args.JsonRestore):
        registry.add(None, args)
    return registry


@contextlib.contextmanager
def _read_errors(step: int) -> Iterator[None]:
    """Converts errors in reading a checkpoint to `CorruptCheckpoint`."""
    try:
        yield
    except Exception as error:
        text = f"{error}".partition("\n")[0][:200]
        raise CorruptCheckpoint(
            f"step {step} is corrupt ({type(error).__name__}: {text})"
        ) from error


@contextlib.contextmanager
def _suppress_logging() -> Iterator[None]:
    """Suppresses the log messages of orbax, which warns about intended settings.

    Orbax logs by absl, which permanently adds a handler to a root logger without handlers. A
    temporary handler, Python's default for that case, prevents it.
    """
    root, default_handler = logging.getLogger(), logging.lastResort or logging.NullHandler()
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def reject(record: logging.LogRecord) -> bool:
        return False

    added = not root.handlers
    if added:
        root.addHandler(default_handler)
    for logger in loggers:
        logger.addFilter(reject)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(reject)
        if added:
            root.removeHandler(default_handler)


def _to_json(note: dict[str, Any]) -> bytes:
    return json.dumps(note, allow_nan=False).encode()


def _checksum(values: Any) -> int:
    return zlib.crc32(values)
