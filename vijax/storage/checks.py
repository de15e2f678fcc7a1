"""Validation of a saved posterior: file format, precision, latent sites, data, library versions."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vijax._version import __version__
from vijax.contracts import RowSource, Space
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import ModelError, VijaxError, VijaxWarning, mismatch

FORMAT = "vijax posterior"
FORMAT_VERSION = 1

_LIBRARIES = ("jax", "numpyro", "optax", "numpy")
_CHUNK = 2**22  # elements that are hashed at a time
_MAX_SOURCE_ELEMENTS = 2**27  # of a source that is read in full for its digest
_MAX_DIGEST_ROWS = 256  # rows of a larger source that enter its digest


def x64_enabled() -> bool:
    """Whether double precision is enabled."""
    return jnp.result_type(float) == jnp.float64


def check_format(manifest: Any, label: str) -> None:
    """Checks the file format, its version, and that the precision is that of the fit.

    Raises:
        VijaxError: one of them differs.
    """
    if not isinstance(manifest, Mapping) or manifest.get("format") != FORMAT:
        raise VijaxError(mismatch(label, "a file written by Posterior.save", "another archive"))
    if manifest["version"] > FORMAT_VERSION:
        writer = _libraries(manifest).get("vijax")
        raise VijaxError(
            mismatch(
                label,
                f"format {FORMAT_VERSION} or older, which vijax {__version__} reads",
                f"format {manifest['version']}, written by vijax {writer}",
                "Upgrade vijax.",
            )
        )
    if manifest["x64"] != x64_enabled():
        raise VijaxError(
            mismatch(
                label,
                f"jax_enable_x64={manifest['x64']} as in the fit",
                f"{x64_enabled()}",
                f'Call jax.config.update("jax_enable_x64", {manifest["x64"]}) first.',
            )
        )


def check_space(stored: Space, found: Space) -> None:
    """Compares the latent sites of the file with the model's.

    Raises:
        ModelError: a site differs; names the first one.
    """
    theirs, ours = ({site.name: site for site in space.sites} for space in (stored, found))
    for name in [*theirs, *ours]:
        what = f"site {name!r} of the model"
        if name not in ours or name not in theirs:
            raise ModelError(
                mismatch(what, f"the latent sites {list(theirs)} of the file", f"{list(ours)}")
            )
        if theirs[name] != ours[name]:
            raise ModelError(mismatch(what, f"{theirs[name]} as in the file", f"{ours[name]}"))
    if stored != found:
        raise ModelError(mismatch("sites", f"the order {list(theirs)}", f"{list(ours)}"))


def warn_if_data_changed(digests: dict[str, str], data: dict[str, Any]) -> None:
    """Warns if the data differ from those of the fit."""
    changed = [name for name, value in data.items() if digests.get(name, "") != digest(value)]
    changed = [name for name in changed if name in digests]
    if changed:
        warnings.warn(
            f"argument {changed[0]!r} has other values than in the fit: status, ELBO and k-hat "
            "refer to the data of the fit. For new data, fit(..., init=posterior).",
            VijaxWarning,
            stacklevel=5,
        )


def warn_if_model_changed(manifest: Mapping[str, Any], program: str) -> None:
    """Warns if the model computes something else than in the fit.

    Programs are compared by their digest, see `vijax.runtime.jaxpr_digest`, unless another version
    of a library may have traced the same model to another program.
    """
    if manifest.get("program", program) != program and not version_changes(manifest):
        warnings.warn(
            "model: its sites are those of the fit, but it computes another log density (or other "
            "deterministics): status, ELBO and k-hat refer to the model of the fit. For the new "
            "model, fit(..., init=posterior).",
            VijaxWarning,
            stacklevel=5,
        )


def digest(value: Any) -> str:
    """A hash of an array's values, all of them if they are in memory.

    Of a source those of all rows up to `_MAX_SOURCE_ELEMENTS`, else of evenly spaced rows; of a
    sequential source those of the first rows.
    """
    if isinstance(value, RowSource):
        return _combined(_digest_array(block) for block in _blocks(value))
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return _digest_array(np.asarray(on_host(value)))


def _digest_array(array: np.ndarray) -> str:
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.size <= _CHUNK:
        return _hash(flat)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        starts = range(0, flat.size, _CHUNK)
        return _combined(pool.map(lambda start: _hash(flat[start : start + _CHUNK]), starts))


def _hash(flat: np.ndarray) -> str:
    return hashlib.blake2b(flat.view(np.uint8).data, digest_size=16).hexdigest()


def _combined(digests: Iterable[str]) -> str:
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()


def _blocks(source: RowSource) -> Iterator[np.ndarray]:
    """The rows of a source that enter its digest, a block at a time."""
    width = max(1, math.prod(source.shape[1:]))
    if not source.sequential and len(source) * width <= _MAX_SOURCE_ELEMENTS:
        size = max(1, _CHUNK // width)
        for start in range(0, len(source), size):
            yield source.take(np.arange(start, min(start + size, len(source))))
        return
    step = 1 if source.sequential else max(1, len(source) // _MAX_DIGEST_ROWS)
    yield source.take(np.arange(0, len(source), step)[:_MAX_DIGEST_ROWS])


def library_versions() -> dict[str, str]:
    """The versions of vijax, Python and the libraries that results depend on."""
    found = {name: metadata.version(name) for name in _LIBRARIES}
    return {"vijax": __version__, "python": platform.python_version(), **found}


def version_changes(manifest: Mapping[str, Any]) -> str:
    """A sentence that lists the libraries whose versions have changed; empty if none has."""
    now = library_versions()
    changed = [
        f"{name} {version} (now {now[name]})"
        for name, version in _libraries(manifest).items()
        if now.get(name, version) != version
    ]
    return f" The file was written with {', '.join(changed)}." if changed else ""


def _libraries(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The versions in a file; none in one whose entry was changed."""
    found = manifest.get("libraries")
    return found if isinstance(found, Mapping) else {}
