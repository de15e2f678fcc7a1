"""Saves the posteriors of many data sets to one file, each as `vijax.posterior.files` does."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.model import Call
from vijax.posterior import files as single
from vijax.posterior.many.compact import compact, with_data
from vijax.posterior.result import FitResult
from vijax.runtime.errors import VijaxError, mismatch
from vijax.storage import codec
from vijax.storage.codec import Reader, Writer

FORMAT = "vijax fits"
_VERSION = 1


class Contents(NamedTuple):
    """What a file of many fits has.

    Attributes:
        results: compact, `None` where there is none.
        calls: the model's arguments for each.
        labels: of the data sets.
        errors: what was raised, by number.
        key: the root key.
        seconds: time of all fits.
    """

    results: Sequence[FitResult | None]
    calls: Sequence[Call]
    labels: Sequence[Hashable]
    errors: Mapping[int, Exception]
    key: Array
    seconds: float


def save(fits: Contents, path: str | os.PathLike[str]) -> None:
    """See `Fits.save`."""
    writer, blobs = Writer(lenient=True), []
    for found, call in zip(fits.results, fits.calls, strict=True):
        blobs.append(b"" if found is None else single.to_bytes(with_data(found, call)))
    manifest = {
        "format": FORMAT,
        "version": _VERSION,
        "labels": [writer.encode(_plain(label)) for label in fits.labels],
        "errors": {str(i): str(error) for i, error in fits.errors.items()},
        "key": writer.encode(fits.key),
        "seconds": fits.seconds,
        "ends": writer.encode(np.cumsum([len(blob) for blob in blobs])),
        "fits": writer.encode(np.frombuffer(b"".join(blobs), np.uint8)),
    }
    codec.write(path, manifest, writer.arrays)


def read(
    manifest: dict[str, Any],
    arrays: list[np.ndarray],
    label: str,
    model: Callable[..., Any],
    calls: Iterable[Call] | None,
    options: dict[str, Any],
) -> Contents:
    """Reads what `save` wrote; `calls` are the model's arguments for each set, if given."""
    reader = Reader(arrays)
    if manifest["version"] > _VERSION:
        raise VijaxError(mismatch(label, f"format {_VERSION}", f"{manifest['version']}"))
    ends = np.asarray(reader.decode(manifest["ends"]))
    content = np.asarray(reader.decode(manifest["fits"])).tobytes()
    labels = [reader.decode(note) for note in manifest["labels"]]
    given = [((), {})] * len(labels) if calls is None else list(calls)
    if len(given) != len(labels):
        raise VijaxError(mismatch("datasets", f"the {len(labels)} data sets", f"{len(given)}"))
    results: list[FitResult | None] = []
    start = 0
    for end, call in zip(ends.tolist(), given, strict=True):
        blob, start = content[start:end], end
        if not blob:
            results.append(None)
            continue
        found = single.decode(codec.read(io.BytesIO(blob), label), label, model, call, options)
        results.append(found if calls is None else compact(found))
    errors = {int(i): VijaxError(text) for i, text in manifest["errors"].items()}
    key = reader.decode(manifest["key"])
    key = key if isinstance(key, jax.Array) else jax.numpy.asarray(key)
    return Contents(results, given, labels, errors, key, manifest["seconds"])


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label
