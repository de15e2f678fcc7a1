"""Fits that outlive their process: where a run of gradient steps is, written down as it goes."""

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
from vijax.storage import call, checks, series
from vijax.storage import run as stored
from vijax.storage.codec import Reader, Writer
from vijax.storage.series import Damaged, Snapshot

FORMAT = "vijax fit in progress"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a fit by gradient steps writes down how far it is, and how often.

    A fit that is killed and started again with the same arguments goes on from there, and ends bit
    for bit where it would have ended. The path is a directory of the last few checkpoints, each of
    which appears there once it is complete, written by orbax-checkpoint in a thread of its own. Of
    several processes the first writes, and all of them read: they have to share the path.

    Args:
        path: the directory, made if it is not there.
        seconds: between two checkpoints.
        keep: how many stay.
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
            raise ValueError(f"seconds: expected zero or more, got {self.seconds!r}.")
        if not self.keep >= 1:
            raise ValueError(f"keep: expected a whole number from 1 on, got {self.keep!r}.")


class Keeper:
    """Writes and reads the checkpoints of one fit; a callback of the engine, made by `kept`.

    Args:
        checkpoint: where, and how often.
        engine: the fit's.
        identity: what tells it from other fits.
        pool: one thread.
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
        self.head = {
            "format": FORMAT,
            "version": checks.FORMAT_VERSION,
            "libraries": checks.versions(),
            "identity": identity,
        }
        self.pool = pool
        self.begun = time.perf_counter()  # of the last checkpoint
        self.writing: Future[None] | None = None
        self.failed = False

    def read(self, variables: Variables, mutable: dict[str, PyTree]) -> Run | None:
        """The run as it was last written down, `None` if it never was.

        Args:
            variables: of the right structure.
            mutable: likewise.

        Raises:
            VijaxError: the path is no directory of checkpoints, these are those of another fit, or
                none of them is whole.
        """
        self._prepare()
        if not any(self.path.glob("[!.]*")):
            return None
        damaged: dict[int, Damaged] = {}
        with series.opened(self.path) as found:
            for step in found.steps:
                try:
                    note = found.note(step)
                    self._check(note["manifest"])
                    snapshot = found.read(step, note)
                except Damaged as error:
                    damaged[step] = error
                    continue
                self._drop(found, damaged, step)
                return self._decode(snapshot, variables, mutable)
        if damaged:
            raise VijaxError(
                mismatch(
                    self.label,
                    "one that is whole",
                    " and ".join(map(str, damaged.values())),
                    "Delete the directory to start over.",
                )
            )
        return None

    def __call__(self, run: Run, losses: np.ndarray, step: int) -> None:
        """Writes the run down if it is time, without waiting for the disk."""
        idle = self.writing is None or self.writing.done()
        if from_first_process(idle and time.perf_counter() - self.begun >= self.checkpoint.seconds):
            self._wait()
            self._begin(run)

    def finish(self, run: Run) -> Run:
        """Writes the run down as it ended, and gives it back; every process waits for that."""
        self._wait()
        self._begin(run)
        self._wait()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"vijax {self.label}")
        return run

    def _begin(self, run: Run) -> None:
        """Has a copy of the run written: the next piece updates some of its arrays in place."""
        run = run._replace(loop=on_host(run.loop))  # which every process has to ask for
        if jax.process_index() > 0:  # the first of several processes writes for all of them
            return
        self.begun = time.perf_counter()
        writer = Writer(lenient=True)
        manifest = self.head | {"run": stored.encode_run(run, writer)}
        self.writing = self.pool.submit(self._write, run.step, Snapshot.of(manifest, writer))

    def _write(self, step: int, snapshot: Snapshot) -> None:
        with series.opened(self.path, self.checkpoint.keep) as found:
            found.write(step, snapshot)

    def _wait(self) -> None:
        """Until the last checkpoint is written; a fit goes on without, but not without a word."""
        try:
            if self.writing is not None:
                self.writing.result()
        except Exception as error:
            if not self.failed:
                warnings.warn(
                    f"{self.label} could not be written, the fit goes on without: {error}",
                    VijaxWarning,
                    stacklevel=2,
                )
            self.failed = True
        self.writing = None

    def _prepare(self) -> None:
        """Makes the directory if need be, and finds out whether checkpoints can be written there.

        Raises:
            VijaxError: they cannot.
        """
        expected, remedy = "a directory for checkpoints alone", "Delete it or name another path."
        if self.path.exists() and not self.path.is_dir():
            raise VijaxError(mismatch(self.label, expected, "a file", remedy))
        if jax.process_index() > 0:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                others = series.strangers(self.path)
        except OSError as error:
            came = f"{type(error).__name__}: {error}"
            raise VijaxError(
                mismatch(self.label, "a directory to write to", came, "Name another path.")
            ) from error
        if others:
            raise VijaxError(mismatch(self.label, expected, f"one with {others[:5]}", remedy))

    def _drop(self, found: series.Series, damaged: dict[int, Damaged], step: int) -> None:
        """Deletes later checkpoints that are damaged, and says so."""
        if not damaged:
            return
        warnings.warn(
            f"{self.label}: {' and '.join(map(str, damaged.values()))}. The one before, of step "
            f"{step}, is used.",
            VijaxWarning,
            stacklevel=3,
        )
        if jax.process_index() == 0:
            for one in damaged:
                found.delete(one)

    def _check(self, manifest: Any) -> None:
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise VijaxError(mismatch(self.label, "that of a fit in progress", "another"))
        for part, value in self.identity.items():
            if manifest["identity"].get(part) != value:
                raise VijaxError(
                    mismatch(
                        self.label,
                        "the fit that wrote it",
                        f"one with another {part}",
                        "Give each fit a path of its own, or delete the directory to start over.",
                    )
                )

    def _decode(self, snapshot: Snapshot, variables: Variables, mutable: dict[str, PyTree]) -> Run:
        engine, reader = self.engine, Reader(snapshot.arrays())
        state = (engine.problem, engine.algorithm, variables, mutable)
        return stored.decode_run(snapshot.manifest["run"], reader, *state)


@contextlib.contextmanager
def kept(checkpoint: Checkpoint | None, engine: Engine, restarts: int) -> Iterator[Keeper | None]:
    """The keeper of a fit's checkpoints, `None` if none are wanted; its thread ends with it.

    Args:
        checkpoint: where, and how often.
        engine: the fit's.
        restarts: their number.
    """
    if checkpoint is None:
        yield None
        return
    with ThreadPoolExecutor(1, "vijax checkpoint") as pool:
        yield Keeper(checkpoint, engine, _identity(engine, restarts), pool)


def _identity(engine: Engine, restarts: int) -> dict[str, Any]:
    """What two runs of one fit have in common, as JSON."""
    problem = engine.problem
    arguments, target = problem.arguments, problem.target
    writer = Writer(lenient=True)
    return {
        "model argument": call.encode(arguments, writer),
        "set of latent sites": writer.encode(target.space),
        "guide": writer.encode(problem.guide),
        "algorithm": writer.encode(engine.algorithm),
        "setting of the algorithm": _settings(engine.algorithm),
        "batch size": writer.encode(target.subsampling.request),
        "order of rows": list(engine.reordered),
        "number of restarts": restarts,
        "rng_key": np.ravel(jax.random.key_data(problem.key)).tolist(),
        "precision": checks.double(),
        "data set": {
            name: checks.digest(value)
            for name, value in [*problem.batch.data.items(), *arguments.sources.items()]
        },
    }


def _settings(algorithm: Algorithm) -> str:
    """What the encoding of an algorithm leaves out: the code of an optimizer and its constants."""
    return hashlib.blake2b(
        fingerprint_text(fingerprint(algorithm)).encode(), digest_size=16
    ).hexdigest()
