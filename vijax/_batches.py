"""Which rows of a subsampled plate each step sees: epochs of seeded permutations.

An epoch is a permutation of `range(N)` cut into `N // B` batches; the few rows that are left over
wait for the next one, so that no batch has a row twice. Rows are a function of the seed and the
step alone, so that a resumed fit sees what the uninterrupted one would; a step costs O(B), an epoch
one permutation on the host.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vijax._contracts import Plate

CHUNK = 512  # steps whose rows are chosen, and sent to the device, at once


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The row schedule of every subsampled plate.

    Args:
        plates: plates by name; those used in full are left alone.
        seed: fixes the permutations.
    """

    plates: Mapping[str, Plate]
    seed: int

    @functools.cached_property
    def subsampled(self) -> dict[str, Plate]:
        """The plates that are not used in full."""
        return {
            name: plate for name, plate in self.plates.items() if plate.size != plate.subsample_size
        }

    @property
    def epoch(self) -> int:
        """Steps until every row has been seen once, or could have been; 1 for full batches."""
        plates = self.subsampled.values()
        return max((plate.size // plate.subsample_size for plate in plates), default=1)

    def at(self, step: int) -> dict[str, Any]:
        """Rows of one step, `(batch,)` by plate."""
        return {name: rows[step % CHUNK] for name, rows in self.chunk(step).items()}

    def chunk(self, step: int) -> dict[str, np.ndarray]:
        """Rows of the chunk that `step` lies in, `(CHUNK, batch)` by plate.

        Those of step `t` stand at `t % CHUNK`.
        """
        return {
            name: _chunk(self.seed, i, plate.size, plate.subsample_size, step // CHUNK)
            for i, (name, plate) in enumerate(self.subsampled.items())
        }

    def end(self, step: int) -> int | None:
        """The first step of the next chunk; `None` where every step sees all rows."""
        return (step // CHUNK + 1) * CHUNK if self.subsampled else None


@functools.lru_cache(maxsize=64)
def _chunk(seed: int, plate: int, size: int, batch: int, number: int) -> np.ndarray:
    """Rows of `CHUNK` steps, `(CHUNK, batch)`."""
    per_epoch = size // batch
    step, parts = number * CHUNK, []
    while step < (number + 1) * CHUNK:
        epoch, done = divmod(step, per_epoch)
        stop = min(per_epoch, done + (number + 1) * CHUNK - step)
        parts.append(_permutation(seed, plate, size, epoch)[done * batch : stop * batch])
        step += stop - done
    return np.concatenate(parts).reshape(CHUNK, batch)


@functools.lru_cache(maxsize=4)  # a chunk straddles two epochs at most times
def _permutation(seed: int, plate: int, size: int, epoch: int) -> np.ndarray:
    generator = np.random.default_rng(np.random.SeedSequence((seed, plate, epoch)))
    return generator.permutation(np.arange(size, dtype=np.int32))
