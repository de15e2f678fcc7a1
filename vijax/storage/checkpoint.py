"""Checkpoints of gradient steps, from which an interrupted fit continues in another process."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vijax.contracts import Algorithm, PyTree, Variables
from vijax.engine.engine import Engine
from vijax.engine.run import Run
from vijax.runtime.device_layout import from_first_process, on_host
from vijax.runtime.errors import VijaxError, VijaxWarning, mismatch
from vijax.runtime.fingerprint import fingerprint, fingerprint_text
from vijax.storage import call, checks
from vijax.storage import run as run_codec
from vijax.storage.checkpoint_directory import (
    CheckpointDirectory,
    CorruptCheckpoint,
    Snapshot,
    foreign_entries,
    open_directory,
)
from vijax.storage.codec import Reader, Writer

FORMAT = "vijax fit in progress"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where and how often a fit by gradient steps saves checkpoints.

    A fit that is interrupted and started again with the same arguments continues from its latest
    checkpoint, and gives bit for bit the result of an uninterrupted fit. The directory contains the
    last few checkpoints. They are written atomically by orbax-checkpoint in a background thread.
    With several processes the first one writes and all of them read: the path must be on a shared
    file system.

    Args:
        path: the directory, created if it does not exist.
        seconds: time between two checkpoints.
        keep: number of checkpoints that are kept.
    """

    path: str | os.PathLike[str]
    seconds: float = 30.0
    keep: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise TypeError(
                f"checkpoint: expected a path or a Checkpoint, got {type(self.path).__name__}."
            )
        if not self.seconds >= 0:
            raise ValueError(f"seconds: expected a nonnegative number, got {self.seconds!r}.")
        if not self.keep >= 1:
            raise ValueError(f"keep: expected a positive integer, got {self.keep!r}.")


class Checkpointer:
    """Writes and reads the checkpoints of one fit; a callback of the engine.

    Created by `open_checkpointer`.

    Args:
        checkpoint: where and how often.
        engine: the fit's engine.
        identity: everything that distinguishes the fit from others, as JSON.
        pool: a pool of one thread.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        engine: Engine,
        identity: dict[str, Any],
        pool: ThreadPoolExecutor,
    ) -> None:
        self.checkpoint = checkpoint
        self.path = Path(checkpoint.path).absolute()
        self.label = f"checkpoint {str(checkpoint.path)!r}"
        self.engine = engine
        self.identity = identity
        self.header = {
            "format": FORMAT,
            "version": checks.FORMAT_VERSION,
            "libraries": checks.library_versions(),
            "identity": identity,
        }
        self.pool = pool
        self.last_time = time.perf_counter()  # of the last checkpoint
        self.writing: Future[None] | None = None
        self.failed = False

    def read(self, variables: Variables, mutable: dict[str, PyTree]) -> Run | None:
        """The run in the latest checkpoint, `None` if there is none.

        Args:
            variables: a template of the variables' structure.
            mutable: a template of the mutable state's structure.

        Raises:
            VijaxError: the path is not a checkpoint directory, it belongs to another fit, or all of
                its checkpoints are corrupt.
        """
        self._prepare()
        if not any(self.path.glob("[!.]*")):
            return None
        corrupt: dict[int, CorruptCheckpoint] = {}
        with open_directory(self.path) as directory:
            for step in directory.steps:
                try:
                    note = directory.read_note(step)
                    self._check(note["manifest"])
                    snapshot = directory.read(step, note)
                except CorruptCheckpoint as error:
                    corrupt[step] = error
                    continue
                self._delete_corrupt(directory, corrupt, step)
                return self._decode(snapshot, variables, mutable)
        if corrupt:
            raise VijaxError(
                mismatch(
                    self.label,
                    "an intact checkpoint",
                    " and ".join(map(str, corrupt.values())),
                    "Delete the directory to start over.",
                )
            )
        return None

    def __call__(self, run: Run, losses: np.ndarray, step: int) -> None:
        """Writes a checkpoint if it is due, without waiting for the disk."""
        idle = self.writing is None or self.writing.done()
        elapsed = time.perf_counter() - self.last_time
        if from_first_process(idle and elapsed >= self.checkpoint.seconds):
            self._wait()
            self._start_writing(run)

    def finish(self, run: Run) -> Run:
        """Writes a checkpoint of the finished run and returns the run; all processes wait."""
        self._wait()
        self._start_writing(run)
        self._wait()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"vijax {self.label}")
        return run

    def _start_writing(self, run: Run) -> None:
        """Writes a copy of the run in the background: the next segment overwrites its arrays."""
        run = run._replace(loop=on_host(run.loop))  # a collective operation of all processes
        if jax.process_index() > 0:
            return
        self.last_time = time.perf_counter()
        writer = Writer(lenient=True)
        manifest = self.header | {"run": run_codec.encode_run(run, writer)}
        self.writing = self.pool.submit(self._write, run.step, Snapshot.of(manifest, writer))

    def _write(self, step: int, snapshot: Snapshot) -> None:
        with open_directory(self.path, self.checkpoint.keep) as directory:
            directory.write(step, snapshot)

    def _wait(self) -> None:
        """Waits until the last checkpoint is written; warns once if that failed."""
        try:
            if self.writing is not None:
                self.writing.result()
        except Exception as error:
            if not self.failed:
                warnings.warn(
                    f"{self.label} could not be written, the fit continues without it: {error}",
                    VijaxWarning,
                    stacklevel=2,
                )
            self.failed = True
        self.writing = None

    def _prepare(self) -> None:
        """Creates the directory if necessary, and checks that checkpoints can be written to it.

        Raises:
            VijaxError: they cannot.
        """
        expected, remedy = "a directory with checkpoints only", "Delete it or use another path."
        if self.path.exists() and not self.path.is_dir():
            raise VijaxError(mismatch(self.label, expected, "a file", remedy))
        if jax.process_index() > 0:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                others = foreign_entries(self.path)
        except OSError as error:
            got = f"{type(error).__name__}: {error}"
            raise VijaxError(
                mismatch(self.label, "a writable directory", got, "Use another path.")
            ) from error
        if others:
            raise VijaxError(mismatch(self.label, expected, f"one with {others[:5]}", remedy))

    def _delete_corrupt(
        self, directory: CheckpointDirectory, corrupt: dict[int, CorruptCheckpoint], step: int
    ) -> None:
        """Deletes the corrupt checkpoints after `step` with a warning."""
        if not corrupt:
            return
        warnings.warn(
            f"{self.label}: {' and '.join(map(str, corrupt.values()))}. The previous checkpoint, "
            f"of step {step}, is used.",
            VijaxWarning,
            stacklevel=3,
        )
        if jax.process_index() == 0:
            for corrupt_step in corrupt:
                directory.delete(corrupt_step)

    def _check(self, manifest: Any) -> None:
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise VijaxError(mismatch(self.label, "the checkpoint of a fit", "another format"))
        stored = manifest.get("identity")
        stored = stored if isinstance(stored, dict) else {}
        if "model" not in stored or checks.version_changes(manifest):
            # another version of a library may have traced the same model to another program
            stored = stored | {"model": self.identity["model"]}
        for part, value in self.identity.items():
            if stored.get(part) != value:
                raise VijaxError(
                    mismatch(
                        self.label,
                        "the same fit as in the checkpoint",
                        f"another {part}",
                        "Use another path for this fit, or delete the directory to start over.",
                    )
                )

    def _decode(self, snapshot: Snapshot, variables: Variables, mutable: dict[str, PyTree]) -> Run:
        engine, reader = self.engine, Reader(snapshot.arrays())
        state = (engine.problem, engine.algorithm, variables, mutable)
        return run_codec.decode_run(snapshot.manifest["run"], reader, *state)


@contextlib.contextmanager
def open_checkpointer(
    checkpoint: Checkpoint | None, engine: Engine, restarts: int
) -> Iterator[Checkpointer | None]:
    """The `Checkpointer` of a fit, `None` without checkpoints; its thread ends on exit.

    Args:
        checkpoint: where and how often.
        engine: the fit's engine.
        restarts: number of restarts.
    """
    if checkpoint is None:
        yield None
        return
    with ThreadPoolExecutor(1, "vijax checkpoint") as pool:
        yield Checkpointer(checkpoint, engine, _identity(engine, restarts), pool)


def _identity(engine: Engine, restarts: int) -> dict[str, Any]:
    """Everything that determines a fit, as JSON."""
    problem = engine.problem
    arguments, target = problem.arguments, problem.target
    writer = Writer(lenient=True)
    return {
        "model argument": call.encode(arguments, writer),
        "set of latent sites": writer.encode(target.space),
        "model": target.structure.program,
        "guide": writer.encode(problem.guide),
        "algorithm": writer.encode(engine.algorithm),
        "setting of the algorithm": _settings(engine.algorithm),
        "batch size": writer.encode(target.subsampling.request),
        "order of rows": list(engine.reordered),
        "number of restarts": restarts,
        "rng_key": np.ravel(jax.random.key_data(problem.key)).tolist(),
        "precision": checks.x64_enabled(),
        "data set": {
            name: checks.digest(value)
            for name, value in [*problem.batch.data.items(), *arguments.sources.items()]
        },
    }


def _settings(algorithm: Algorithm) -> str:
    """A hash of an algorithm including what its encoding omits: optimizer code and constants."""
    return hashlib.blake2b(
        fingerprint_text(fingerprint(algorithm)).encode(), digest_size=16
    ).hexdigest()
