"""What a fit is about, before any method is chosen."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax._batches import Rows
from vijax._contracts import Batch, Guide, Target
from vijax.model import Arguments


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A model with its data, the guide to fit and the key that all randomness comes from.

    Attributes:
        model: the model function.
        arguments: the static part of its arguments.
        target: its log density.
        guide: the variational family.
        batch: its data, in full.
        key: the root key.
    """

    model: Callable[..., Any]
    arguments: Arguments
    target: Target
    guide: Guide
    batch: Batch
    key: Array

    @functools.cached_property
    def rows(self) -> Rows:
        """The row schedule of subsampled plates."""
        return Rows(self.target.plates, int(np.ravel(jax.random.key_data(self.key))[-1]))

    @functools.cached_property
    def first_batch(self) -> Batch:
        """What step 0 sees: everything, or the first rows of subsampled plates."""
        if not self.rows.subsampled:
            return self.batch
        return self.batch._replace(index=self.rows.at(0))
