"""Fits that outlive their process: where a run of gradient steps is, written down as it goes."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vijax._contracts import Algorithm, PyTree, Variables
from vijax._engine import Engine, Run
from vijax._errors import VijaxError, VijaxWarning, mismatch
from vijax._identity import fingerprint, text
from vijax._storage import call, checks, codec
from vijax._storage import run as stored
from vijax._storage.codec import Reader, Writer
from vijax.model import Arguments

FORMAT = "vijax fit in progress"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a fit by gradient steps writes down how far it is, and how often.

    A fit that is killed and started again with the same arguments goes on from there, and ends bit
    for bit where it would have ended. The file is replaced once the new one is complete, by a
    thread of its own; the one before is kept beside it as `PATH.previous`. Of several processes the
    first writes, and all of them read: the path has to be one that they share.

    Args:
        path: the file.
        seconds: between two writes.
    """

    path: str | os.PathLike[str]
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise TypeError(
                f"checkpoint: expected a path or a Checkpoint, got {type(self.path).__name__}."
            )
        if not self.seconds >= 0:
            raise ValueError(f"seconds: expected zero or more, got {self.seconds!r}.")


class Keeper:
    """Writes and reads the checkpoints of one fit; a callback of the engine.

    Args:
        checkpoint: where, and how often.
        engine: the fit's.
        arguments: the model's.
        restarts: their number.
    """

    def __init__(
        self, checkpoint: Checkpoint, engine: Engine, arguments: Arguments, restarts: int
    ) -> None:
        self.checkpoint = checkpoint
        self.path = Path(checkpoint.path)
        self.previous = self.path.with_name(f"{self.path.name}.previous")
        self.engine = engine
        self.identity = _identity(engine, arguments, restarts)
        self.written = time.perf_counter()
        self.thread: threading.Thread | None = None

    def read(self, variables: Variables, mutable: dict[str, PyTree]) -> Run | None:
        """The run as it was last written down, `None` without a file.

        Args:
            variables: of the right structure.
            mutable: likewise.

        Raises:
            VijaxError: the file is that of another fit, or neither it nor the one before is whole.
        """
        found = [path for path in (self.path, self.previous) if path.exists()]
        damage: VijaxError | None = None
        for path in found:
            try:
                manifest, arrays = codec.read(path, f"checkpoint {str(path)!r}")
            except VijaxError as error:
                damage = error
                continue
            if damage is not None:
                warnings.warn(f"{damage} The one before is used.", VijaxWarning, stacklevel=3)
            self._check(manifest, path)
            return self._decode(manifest, Reader(arrays), variables, mutable)
        if damage is not None:
            raise VijaxError(f"{damage} Delete it to start over.")
        return None

    def __call__(self, run: Run, losses: np.ndarray, step: int) -> None:
        """Writes the run down if it is time, without waiting for the disk."""
        busy = self.thread is not None and self.thread.is_alive()
        if busy or time.perf_counter() - self.written < self.checkpoint.seconds:
            return
        # copies: the next piece updates some of these arrays in place
        copy = jax.tree.map(np.array, jax.device_get(run.loop))
        self.thread = threading.Thread(target=self._write, args=(run._replace(loop=copy),))
        self.thread.start()
        self.written = time.perf_counter()

    def finish(self, run: Run) -> None:
        """Writes the run down as it ended."""
        if self.thread is not None:
            self.thread.join()
        self._write(run)

    def _write(self, run: Run) -> None:
        if jax.process_index() > 0:  # the first of several processes writes for all of them
            return
        writer = Writer(lenient=True)
        manifest = {
            "format": FORMAT,
            "version": checks.FORMAT_VERSION,
            "libraries": checks.versions(),
            "identity": self.identity,
            "run": stored.encode_run(run, writer),
        }
        codec.write(self.path, manifest, writer.arrays, keep=self.previous)

    def _check(self, manifest: Any, path: Path) -> None:
        label = f"checkpoint {str(path)!r}"
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise VijaxError(mismatch(label, "the file of a fit in progress", "another archive"))
        for part, value in self.identity.items():
            if manifest["identity"].get(part) != value:
                raise VijaxError(
                    mismatch(
                        label,
                        "the fit that wrote it",
                        f"one with another {part}",
                        "Give each fit a path of its own, or delete the file to start over.",
                    )
                )

    def _decode(
        self, manifest: Any, reader: Reader, variables: Variables, mutable: dict[str, PyTree]
    ) -> Run:
        engine = self.engine
        state = (engine.target, engine.guide, engine.algorithm, variables, mutable, engine.batch)
        return stored.decode_run(manifest["run"], reader, *state)


def _identity(engine: Engine, arguments: Arguments, restarts: int) -> dict[str, Any]:
    """What two runs of one fit have in common, as JSON."""
    writer = Writer(lenient=True)
    return {
        "model argument": call.encode(arguments, writer),
        "set of latent sites": writer.encode(engine.target.space),
        "guide": writer.encode(engine.guide),
        "algorithm": writer.encode(engine.algorithm),
        "setting of the algorithm": _settings(engine.algorithm),
        "batch size": writer.encode(engine.target.request),
        "number of restarts": restarts,
        "rng_key": np.ravel(jax.random.key_data(engine.key)).tolist(),
        "precision": checks.double(),
        "data set": {
            name: checks.digest(value)
            for name, value in [*engine.batch.data.items(), *arguments.sources.items()]
        },
    }


def _settings(algorithm: Algorithm) -> str:
    """What the encoding of an algorithm leaves out: the code of an optimizer and its constants."""
    return hashlib.blake2b(text(fingerprint(algorithm)).encode(), digest_size=16).hexdigest()
