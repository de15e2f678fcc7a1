"""What a fit is about, before any method is chosen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Blocks, Data, Guide, PyTree, Target, Variables
from vijax.diagnostics.assessment import Fitted
from vijax.engine.all_rows import all_rows
from vijax.engine.row_schedule import RowSchedule
from vijax.model import Arguments, fetch
from vijax.runtime.keys import fold_in


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A model with its data, the guide to fit and the key that all randomness comes from.

    Attributes:
        model: the model function.
        arguments: the static part of its arguments.
        target: its log density.
        guide: the variational family.
        batch: its data, in full but for those that are not in memory.
        key: the root key.
    """

    model: Callable[..., Any]
    arguments: Arguments
    target: Target
    guide: Guide
    batch: Batch
    key: Array

    @functools.cached_property
    def schedule(self) -> RowSchedule:
        """The row schedule of subsampled plates."""
        seed = int(np.ravel(jax.random.key_data(self.key))[-1])
        return RowSchedule(
            self.target.subsampling.plates,
            seed,
            self.arguments.sources,
            self.target.subsampling.axes,
        )

    @functools.cached_property
    def first_batch(self) -> Batch:
        """What step 0 sees: everything, or the first rows of subsampled plates."""
        if not self.schedule.subsampled:
            return self.batch
        return self.schedule.batch(self.batch, 0)

    @functools.cached_property
    def sample(self) -> tuple[Target, Batch]:
        """What is evaluated at once: all data, or the first batch if some are not in memory."""
        if self.arguments.sources:
            return self.target.on_batch, self.first_batch
        return self.target, self.batch

    @functools.cached_property
    def all_rows(self) -> Data | None:
        """All data, in memory or a block of rows at a time; `None` where neither will do."""
        return all_rows(self.target, self.batch, self.arguments.sources)

    def by_rows(self, plate: str, size: int) -> Iterator[Batch]:
        """The data with all rows of a plate, `size` at a time, read if they are not in memory.

        The last rows are filled up with copies of the last one.
        """
        cut = self.target.subsampling.axes
        sources = {n: s for n, s in self.arguments.sources.items() if cut[n][0][0] == plate}
        blocks = Blocks(
            self.batch,
            dataclasses.replace(self.target.subsampling.plates[plate], subsample_size=size),
            lambda rows: fetch(sources, cut, {plate: rows}),
        )
        return (block.batch for block in blocks if block.rows)

    def fitted(self, variables: Variables, mutable: dict[str, PyTree]) -> Fitted:
        """An answer to it, for `vijax.diagnostics.assessment`."""
        key = fold_in(self.key, 5)
        assert self.all_rows is not None
        return Fitted(self.target, self.guide, variables, mutable, key, self.all_rows)
