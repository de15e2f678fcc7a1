"""Rows that are held out of a fit, to check its predictions: some of the data, or others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from vijax.contracts import Target
from vijax.model import Arguments, Call, build, split
from vijax.runtime.errors import ArgumentError, ModelError, mismatch
from vijax.runtime.keys import RngKey, as_key, fold_in, host_rng

_OPTION = "a share of the rows between 0 and 1, or the model's arguments at other rows"
_MIN_ROWS = 2
_KEY = 0x801D  # of the choice of rows


def held_out_rows(
    holdout: Any, model: Callable[..., Any], call: Call, rng_key: RngKey
) -> tuple[Call, Call | None]:
    """The arguments of the fit without the rows that are held out, and those at these rows.

    Args:
        holdout: a share of the rows; or the model's arguments at other rows, a tuple of the first
            ones or a mapping by name, where others are those of the fit; `None` for no rows.
        model: the model function.
        call: its arguments, all rows.
        rng_key: of the fit.

    Raises:
        ArgumentError: it names no rows, too few, or unknown arguments.
    """
    if holdout is None:
        return call, None
    if isinstance(holdout, (tuple, Mapping)):
        return call, _other_rows(holdout, model, call)
    if isinstance(holdout, (int, float)) and not isinstance(holdout, bool) and 0 < holdout < 1:
        return _split_rows(holdout, call, fold_in(as_key(rng_key), _KEY))
    raise ArgumentError(mismatch("holdout", _OPTION, repr(holdout)))


def check_held_out(
    rows: Call | None, model: Callable[..., Any], arguments: Arguments, target: Target
) -> None:
    """Checks that a model can predict the held-out rows with the latents of the fit.

    Raises:
        ModelError: it has latents of the rows' own, or no outcomes, or several observed sites.
    """
    if rows is None:
        return
    known = arguments.known(may_grow=False)
    at_rows, _ = split(model, *arguments.complete(*rows), False, arguments.by_content, known)
    found = build(model, at_rows, sampled=frozenset(target.space.discrete.names))
    sites = {site.name: site.shape for site in found.space.sites}
    expected = {site.name: site.shape for site in target.space.sites}
    if sites != expected:
        own = sorted(name for name in expected if sites.get(name) != expected[name]) or sites
        raise ModelError(
            f"holdout: expected latent sites that all rows share, got {own}, which differ at the "
            "held-out rows. Compare predictions of new groups with posterior.predict."
        )
    if len(found.structure.observed) != 1:
        names = list(found.structure.observed)
        raise ModelError(mismatch("holdout", "outcomes of one observed site", names))


def _other_rows(holdout: Any, model: Callable[..., Any], call: Call) -> Call:
    """The call with arguments replaced, all by name."""
    signature = inspect.signature(model)
    given = dict(signature.bind_partial(*call[0], **call[1]).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ArgumentError(f"holdout: expected a model with named arguments, got *{name}.")
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    names = list(signature.parameters)
    if isinstance(holdout, tuple):
        if not 0 < len(holdout) <= len(names):
            expected = f"at most the arguments {names}"
            raise ArgumentError(mismatch("holdout", expected, f"{len(holdout)} of them"))
        holdout = dict(zip(names, holdout, strict=False))
    unknown = sorted(set(holdout) - {*names, *given})
    if unknown:
        raise ArgumentError(mismatch("holdout", f"arguments of the model {names}", repr(unknown)))
    total = _first(_rows(leaf) for leaf in jax.tree.leaves(given))
    by_row = {n for n, x in given.items() if total in map(_rows, jax.tree.leaves(x))}
    if total and not by_row <= set(holdout):
        expected = f"all arrays of rows, {sorted(by_row)}"
        raise ArgumentError(mismatch("holdout", expected, f"only {sorted(holdout)}"))
    return (), given | dict(holdout)


def _split_rows(share: float, call: Call, key: jax.Array) -> tuple[Call, Call]:
    """Both parts of the arrays that are as long as the first one."""
    leaves, tree = jax.tree.flatten(call)
    lengths = [_rows(leaf) for leaf in leaves]
    total = _first(lengths)
    number = round(share * total)
    if number < _MIN_ROWS or total - number < _MIN_ROWS:
        expected = f"a share with {_MIN_ROWS} rows or more, and as many left, or other rows"
        what = f"{share:g} of {total} rows of arrays"
        raise ArgumentError(mismatch("holdout", expected, what))
    chosen = np.zeros(total, bool)
    chosen[host_rng(key).choice(total, number, replace=False)] = True
    parts = []
    for rows in (np.flatnonzero(~chosen), np.flatnonzero(chosen)):
        pairs = zip(leaves, lengths, strict=True)
        parts.append([leaf[rows] if length == total else leaf for leaf, length in pairs])
    return jax.tree.unflatten(tree, parts[0]), jax.tree.unflatten(tree, parts[1])


def _first(lengths: Iterable[int | None]) -> int:
    """The first length, 0 without any."""
    return next((length for length in lengths if length is not None), 0)


def _rows(leaf: Any) -> int | None:
    """Length of an array; `None` of what is no array."""
    if isinstance(leaf, (np.ndarray, jax.Array)):
        return leaf.shape[0] if leaf.ndim else None
    if getattr(leaf, "shape", ()):
        remedy = "Pass the model's arguments at the held-out rows: holdout=(x, y)."
        raise ArgumentError(
            mismatch("holdout", "arrays, of which to take a share", type(leaf).__name__, remedy)
        )
    return None
