"""What a file must agree with before a posterior is made from it."""

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
_DIGESTED = 2**22  # most elements of an array that its digest reads
_DIGESTED_ROWS = 256  # the same for rows that are read one by one


def double() -> bool:
    """Whether double precision is switched on."""
    return jnp.result_type(float) == jnp.float64


def check_format(manifest: Any, label: str) -> None:
    """Refuses files of another kind or a newer format, and another precision.

    Raises:
        VijaxError: saying what came.
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
    if manifest["x64"] != double():
        raise VijaxError(
            mismatch(
                label,
                f"jax_enable_x64={manifest['x64']} as in the fit",
                f"{double()}",
                f'Call jax.config.update("jax_enable_x64", {manifest["x64"]}) first.',
            )
        )


def check_space(stored: Space, found: Space) -> None:
    """Compares the latent sites of the file with the model's.

    Raises:
        ModelError: naming the first site that differs.
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


def warn_of_other_data(digests: dict[str, str], data: dict[str, Any]) -> None:
    other = [name for name, value in data.items() if digests.get(name, "") != digest(value)]
    other = [name for name in other if name in digests]
    if other:
        warnings.warn(
            f"argument {other[0]!r} has other values than in the fit: status, ELBO and k-hat are "
            "those of the data that was fitted. For new data, fit(..., init=posterior).",
            VijaxWarning,
            stacklevel=5,
        )


def digest(value: Any) -> str:
    """A fingerprint of an array's values, of a sample of them for a large one.

    Of a source that is read in its own order, of the first rows.
    """
    if isinstance(value, RowSource):
        step = 1 if value.sequential else max(1, len(value) // _DIGESTED_ROWS)
        value = value.take(np.arange(0, len(value), step)[:_DIGESTED_ROWS])
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    flat = np.asarray(on_host(value)).reshape(-1)
    flat = np.ascontiguousarray(flat[:: max(1, flat.size // _DIGESTED)])
    return hashlib.blake2b(flat.tobytes(), digest_size=16).hexdigest()


def versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in _LIBRARIES}
    return {"vijax": __version__, "python": platform.python_version(), **found}


def other_versions(manifest: dict[str, Any]) -> str:
    """The libraries that are not what they were, as a sentence."""
    now = versions()
    changed = [
        f"{name} {version} (now {now[name]})"
        for name, version in manifest["libraries"].items()
        if now.get(name, version) != version
    ]
    return f" The file was written with {', '.join(changed)}." if changed else ""
