"""Folds of rows: at random, with equal shares of classes, of groups, or as given."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vijax.runtime.errors import VijaxError, mismatch

_FOLDS = 10


class Folds(NamedTuple):
    """Which rows are left out together.

    Attributes:
        of_rows: the number of the fold of each row, `(num_rows,)`.
        labels: of the folds.
        groups: the number of the group of each row, `None` without groups.
        group_labels: of the groups.
    """

    of_rows: np.ndarray
    labels: tuple[Any, ...]
    groups: np.ndarray | None = None
    group_labels: np.ndarray | None = None


def make_folds(
    num_rows: int, folds: Any, groups: Any, stratify: Any, rng: np.random.Generator
) -> Folds:
    """The folds that `vijax.cross_validate` asks for.

    Args:
        num_rows: number of rows.
        folds: a number, a label for each row, or `None`.
        groups: a label for each row; rows of a group are left out together.
        stratify: a label for each row; every fold has about the same share of each.
        rng: of the order of rows.

    Raises:
        VijaxError: labels have another length, or there are too few or too many folds.
        TypeError: arguments exclude each other.
    """
    group_labels, of_groups = None, None
    if groups is not None:
        if stratify is not None:
            raise TypeError(mismatch("stratify", "None beside groups=", "labels"))
        group_labels, of_groups = _codes("groups", groups, num_rows)
    number = folds is None or (isinstance(folds, (int, np.integer)) and not _is_bool(folds))
    if not number:
        if stratify is not None:
            raise TypeError(mismatch("stratify", "None beside labels of the folds", "labels"))
        labels, of_rows = _codes("folds", folds, num_rows)
        if of_groups is not None:
            _check_groups_are_whole(of_rows, of_groups, group_labels)
        return Folds(of_rows, tuple(labels.tolist()), of_groups, group_labels)
    if of_groups is not None and folds is None:
        assert group_labels is not None
        return Folds(of_groups, tuple(group_labels.tolist()), of_groups, group_labels)
    num = num_rows if group_labels is None else len(group_labels)
    wanted = min(_FOLDS, num) if folds is None else int(folds)
    if not 2 <= wanted <= num:
        what = "rows" if of_groups is None else "groups"
        raise VijaxError(mismatch("folds", f"a number from 2 to {num}, that of {what}", folds))
    order = rng.permutation(num)
    if stratify is not None:  # the folds take turns along the classes
        _, classes = _codes("stratify", stratify, num_rows)
        order = order[np.argsort(classes[order], kind="stable")]
    found = np.empty(num, int)
    found[order] = np.arange(num) % wanted
    of_rows = found if of_groups is None else found[of_groups]
    return Folds(of_rows, tuple(range(wanted)), of_groups, group_labels)


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _codes(name: str, given: Any, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The different labels, and the number of that of each row."""
    labels = np.asarray(given)
    if labels.shape != (num_rows,):
        expected = f"one label for each of {num_rows} rows"
        raise VijaxError(mismatch(name, expected, f"shape {labels.shape}"))
    missing = labels != labels  # NaN
    if np.any(missing):
        at = np.flatnonzero(missing)[0]
        raise VijaxError(mismatch(name, "labels without NaN", f"NaN at row {at}"))
    different, codes = np.unique(labels, return_inverse=True)
    if len(different) < 2 and name != "stratify":
        raise VijaxError(mismatch(name, "two or more different labels", repr(given)))
    return different, codes


def _check_groups_are_whole(of_rows: np.ndarray, of_groups: np.ndarray, labels: Any) -> None:
    pairs = np.unique(np.stack([of_groups, of_rows]), axis=1)
    counts = np.bincount(pairs[0])
    if (counts > 1).any():
        group = labels[counts.argmax()]
        expected = "all rows of a group in one fold"
        raise VijaxError(mismatch("folds", expected, f"group {group!r} in {counts.max()} folds"))
