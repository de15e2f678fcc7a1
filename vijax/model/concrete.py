"""Models that compute sizes from the values of their arrays.

Arrays are abstract while a model is traced. Where a model needs the values of one, as in
`int(group.max()) + 1` or `len(numpy.unique(group))`, that argument becomes static by content: the
model sees a NumPy array, and other values of it are another model, with programs of their own.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from jax import Array

from vijax.contracts import Target
from vijax.model.build import build_marginalized
from vijax.model.minibatch.subsampling import BatchRequest
from vijax.model.tracing.arguments import Arguments, split
from vijax.model.tracing.checks import needs_values
from vijax.model.tracing.run import SampledSites
from vijax.runtime.errors import ModelError, warn
from vijax.runtime.fingerprint import fingerprint

_CACHE_SIZE = 64
_known: collections.OrderedDict[Hashable, frozenset[str]] = collections.OrderedDict()


def split_and_build(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: BatchRequest | None,
    sampled: SampledSites = frozenset(),
    build: Callable[..., Target] = build_marginalized,
) -> tuple[Arguments, dict[str, Array], Target]:
    """The arguments of a call, its data, and the target of the model at them.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        request: the minibatches of a model that is written for all rows.
        sampled: as for `build_marginalized`.
        build: the target of a model, as `build_marginalized` does.

    Raises:
        ArgumentError, ModelError: as `split` and `build_marginalized`.
    """
    arguments, data = split(model, args, kwargs, request is not None)
    if request is not None:  # rows of a static array could not be subsampled
        return arguments, data, build(model, arguments, request, sampled)
    first = arguments
    names = _known.get(_lookup(model, first), frozenset()) if _known else frozenset()
    failure: ModelError | None = None
    while True:
        if names:
            arguments, data = split(model, args, kwargs, False, names)
        try:
            target = build(model, arguments, request, sampled)
            break
        except ModelError as error:
            failure = failure or error
            found = _needed(error, arguments)
            if not found:
                raise failure from failure.__cause__
            names |= found
    if failure is not None:
        _remember(_lookup(model, first), names)
    return arguments, data, target


def _lookup(model: Callable[..., Any], arguments: Arguments) -> Hashable:
    """What a hint is kept by, which arguments to try as static first."""
    return fingerprint(model, opaque_by_identity=True), arguments.lookup


def _needed(error: ModelError, arguments: Arguments) -> frozenset[str]:
    """The arguments whose values are needed, none for another error.

    JAX names them in most of its messages; else all integers are, then all arrays.
    """
    if not needs_values(error):
        return frozenset()
    # in double quotes if it contains quotes itself, as a column "data['x']"
    named = re.findall(r"data\[('[^']*'|\"[^\"]*\")\]", str(error.__cause__))
    found = frozenset(name[1:-1] for name in named) & arguments.avals.keys()
    integers = {name for name, (_, dtype) in arguments.avals.items() if _is_integer(dtype)}
    return found or frozenset(integers) or frozenset(arguments.avals)


def _is_integer(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "iub"


def _remember(lookup: Hashable, names: frozenset[str]) -> None:
    """Keeps the names for the next fit, and says it once."""
    _known[lookup] = names
    while len(_known) > _CACHE_SIZE:
        _known.popitem(last=False)
    listed = ", ".join(map(repr, sorted(names)))
    warn(
        f"argument {listed}: the model reads its values while it is traced, so that it is static: "
        "a fit with other values compiles anew. To avoid that, pass sizes as Python numbers "
        "(J=int(J))."
    )
