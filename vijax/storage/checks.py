"""Validation of a saved posterior: file format, precision, latent sites, data, library versions."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Mapping
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
_MAX_DIGEST_ELEMENTS = 2**22  # elements of an array that enter its digest
_MAX_DIGEST_ROWS = 256  # rows of a source that enter its digest


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
        raise VijaxError(
            mismatch(
                label,
                f"format {FORMAT_VERSION} or older, which vijax {__version__} reads",
                f"format {manifest['version']}, written by vijax {manifest['libraries']['vijax']}",
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


def digest(value: Any) -> str:
    """A hash of an array's values: of a strided subset of a large array or a source.

    Of a sequential source, the first rows.
    """
    if isinstance(value, RowSource):
        step = 1 if value.sequential else max(1, len(value) // _MAX_DIGEST_ROWS)
        value = value.take(np.arange(0, len(value), step)[:_MAX_DIGEST_ROWS])
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    flat = np.asarray(on_host(value)).reshape(-1)
    flat = np.ascontiguousarray(flat[:: max(1, flat.size // _MAX_DIGEST_ELEMENTS)])
    return hashlib.blake2b(flat.tobytes(), digest_size=16).hexdigest()


def library_versions() -> dict[str, str]:
    """The versions of vijax, Python and the libraries that results depend on."""
    found = {name: metadata.version(name) for name in _LIBRARIES}
    return {"vijax": __version__, "python": platform.python_version(), **found}


def version_changes(manifest: dict[str, Any]) -> str:
    """A sentence that lists the libraries whose versions have changed; empty if none has."""
    now = library_versions()
    changed = [
        f"{name} {version} (now {now[name]})"
        for name, version in manifest["libraries"].items()
        if now.get(name, version) != version
    ]
    return f" The file was written with {', '.join(changed)}." if changed else ""
