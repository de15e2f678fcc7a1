"""The inference problem: model, data, target, guide and random key, before a method is chosen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Block, Blocks, Data, Guide, PyTree, Target, Variables
from vijax.diagnostics.assessment import FittedGuide
from vijax.engine.all_rows import all_rows
from vijax.engine.row_schedule import RowSchedule
from vijax.model import Arguments, Remarks, fetch
from vijax.runtime.keys import fold_in

_ROWS = 512  # in a block of a pass, at least


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A model with its data, the guide to fit and the root random key.

    Attributes:
        model: the model function.
        arguments: the static part of its arguments.
        target: its log density.
        guide: the variational family.
        batch: the full data, except arrays that are not in memory.
        key: the root key.
        remarks: on the model and its data.
        final: the guide whose parameters are computed where the fit of `guide` ends, see
            `Guide.point_guide`; `None` if that is `guide`.
    """

    model: Callable[..., Any]
    arguments: Arguments
    target: Target
    guide: Guide
    batch: Batch
    key: Array
    remarks: Remarks = Remarks()
    final: Guide | None = None

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
        """The data of step 0: the full data, or the first batch of subsampled plates."""
        if not self.schedule.subsampled:
            return self.batch
        return self.schedule.batch(self.batch, 0)

    @functools.cached_property
    def sample(self) -> tuple[Target, Batch]:
        """Target and data of a single evaluation: full data if possible, else the first batch."""
        if self.arguments.sources or not self.target.subsampling.whole:
            return self.target.on_batch, self.first_batch
        return self.target, self.batch

    def passes(self) -> list[Block] | Blocks:
        """All rows once, in blocks whose weighted sum is that of all data, to be iterated.

        Rows of plates that the model itself subsamples are met in minibatches of one epoch.
        """
        plates = self.schedule.subsampled
        if not plates:
            return [Block(self.batch, 1.0, 0)]
        if self.target.subsampling.request is None or len(plates) > 1:
            steps = range(self.schedule.epoch)
            weight = 1 / len(steps)
            return [Block(self.schedule.batch(self.batch, t), weight, 0) for t in steps]
        ((name, plate),) = plates.items()
        return self._blocks(name, min(plate.size, max(plate.subsample_size, _ROWS)))

    @functools.cached_property
    def all_rows(self) -> Data | None:
        """The full data, in memory or in blocks of rows; `None` if neither is possible."""
        return all_rows(self.target, self.batch, self.arguments.sources)

    def row_blocks(self, plate: str, size: int) -> Iterator[Batch]:
        """The data with consecutive blocks of `size` rows of a plate, read if not in memory.

        The last block is padded with copies of the last row.
        """
        return (block.batch for block in self._blocks(plate, size) if block.rows)

    def _blocks(self, plate: str, size: int) -> Blocks:
        axes = self.target.subsampling.axes
        sources = {n: s for n, s in self.arguments.sources.items() if axes[n][0][0] == plate}
        return Blocks(
            self.batch,
            dataclasses.replace(self.target.subsampling.plates[plate], subsample_size=size),
            lambda rows: fetch(sources, axes, {plate: rows}),
        )

    def fitted(self, variables: Variables, mutable: dict[str, PyTree]) -> FittedGuide:
        """A fit of this problem, as `vijax.diagnostics.assessment` takes it."""
        key = fold_in(self.key, 5)
        assert self.all_rows is not None
        return FittedGuide(self.target, self.guide, variables, mutable, key, self.all_rows)
