"""The columns of a data frame as a pytree: what a model gets where a data frame is passed."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vijax.runtime.errors import ArgumentError, mismatch

Labels = tuple[Any, ...]  # of a categorical column; its codes are their positions


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a data frame by name.

    Categorical columns are integer codes 0, 1, ... of their labels. A column that is neither
    numbers nor labels raises an error only where the model reads it.

    >>> import numpy as np, pandas as pd, vijax
    >>> frame = pd.DataFrame({"school": ["B", "A", "B"], "x": [0.5, 1.5, 2.0]})
    >>> data = vijax.data.columns(frame)
    >>> data["school"], data.num_levels("school"), data.levels["school"]
    (array([1, 0, 1], dtype=int32), 2, ('A', 'B'))
    >>> len(data), "x" in data, data.get("y")
    (3, True, None)

    Attributes:
        arrays: by column, `(rows,)`.
        levels: the labels of each categorical column, in the order of their codes.
        problems: why a column cannot be read.
        label: name of the argument, for errors.
    """

    arrays: Mapping[Hashable, Any]
    levels: Mapping[Hashable, Labels] = dataclasses.field(default_factory=dict)
    problems: Mapping[Hashable, str] = dataclasses.field(default_factory=dict)
    label: str = "data"

    def __getitem__(self, name: Any) -> Any:
        """A column `(rows,)`, or the numeric columns of a list as a matrix `(rows, columns)`.

        Raises:
            ArgumentError: there is no such column, or it is neither numbers nor labels.
        """
        if isinstance(name, list):
            return self._matrix(name)
        if name in self.arrays:
            return self.arrays[name]
        if name in self.problems:
            raise ArgumentError(self.problems[name])
        expected = f"a column {name!r}, which the model reads"
        raise ArgumentError(
            mismatch(
                f"argument {self.label!r}",
                expected,
                f"the columns {self.columns}",
                f"{self.label}.get({name!r}) is None where a column may be missing.",
            )
        )

    def _matrix(self, names: list[Any]) -> Any:
        for name in names:
            if name in self.levels:
                raise ArgumentError(
                    mismatch(
                        f"argument {self.label!r}, columns {names}",
                        "numbers",
                        f"the labels of {name!r}",
                        "Index a coefficient for each label by the column's codes: "
                        f"effect[data[{name!r}]].",
                    )
                )
        return jnp.stack([jnp.asarray(self[name]) for name in names], axis=-1)

    def get(self, name: Hashable, default: Any = None) -> Any:
        """A column, or `default` if there is none of this name."""
        known = name in self
        return self[name] if known else default

    def num_levels(self, name: Hashable) -> int:
        """The number of labels of a categorical column, the size of a plate.

        At new inputs labels that the fit did not have are counted, too.
        """
        if name not in self.levels:
            self[name]
            raise ArgumentError(
                mismatch(
                    f"argument {self.label!r}, column {name!r}",
                    "labels",
                    "numbers",
                    f"Convert them before the fit: frame[{name!r}].astype('category').",
                )
            )
        return len(self.levels[name])

    @property
    def columns(self) -> list[Any]:
        """The names of all columns."""
        return [*self.arrays, *self.problems]

    def __contains__(self, name: object) -> bool:
        return name in self.arrays or name in self.problems

    def __iter__(self) -> Iterator[Any]:
        return iter(self.columns)

    def __len__(self) -> int:
        """The number of rows."""
        return int(next(iter(self.arrays.values())).shape[0])

    def __getattr__(self, name: str) -> Any:
        known = "" if name.startswith("_") or name not in self else f"[{name!r}]"
        if known or name == "shape":
            remedy = (
                f"read the column as {self.label}{known}" if known else "use len() for its rows"
            )
            raise AttributeError(f"{self.label}.{name}: {remedy}.")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise ArgumentError(
            mismatch(
                f"argument {self.label!r}",
                "one of its columns in a computation",
                "the whole data frame",
                f"{self.label}[['a', 'b']] is a matrix of columns; numpy.asarray(frame) as an "
                "argument of fit is one of all.",
            )
        )

    __array__ = __jax_array__ = __matmul__ = __rmatmul__ = _refuse

    # ---- as a pytree

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], _Schema]:
        """The arrays with their names, and all else."""
        children = tuple((jax.tree_util.DictKey(name), one) for name, one in self.arrays.items())
        return children, _Schema(tuple(self.arrays), self.levels, self.problems, self.label)

    @classmethod
    def tree_unflatten(cls, schema: _Schema, arrays: Any) -> Columns:
        """The inverse of `tree_flatten_with_keys`."""
        named = dict(zip(schema.names, arrays, strict=True))
        return cls(named, schema.levels, schema.problems, schema.label)


@dataclasses.dataclass(frozen=True)
class _Schema:
    """What is static of `Columns`; equal for the same numbers and labels by name.

    The labels do not count: columns of other labels are the same program, unless the model reads
    something of the labels, which is then in its traced program, by which models are compared.
    """

    names: tuple[Hashable, ...]
    levels: Mapping[Hashable, Labels] = dataclasses.field(compare=False)
    problems: Mapping[Hashable, str] = dataclasses.field(compare=False)
    label: str = dataclasses.field(compare=False)
