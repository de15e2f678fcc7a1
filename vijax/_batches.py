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

import numpy as np

from vijax._contracts import Plate


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

    def table(self, start: int, stop: int, capacity: int | None = None) -> dict[str, np.ndarray]:
        """Rows of steps `start..stop-1`, `(capacity, batch)` by plate, zero beyond `stop`."""
        out = {}
        for number, (name, plate) in enumerate(self.subsampled.items()):
            batch = plate.subsample_size
            per_epoch = plate.size // batch
            epochs = range(start // per_epoch, (stop - 1) // per_epoch + 1)
            whole = [self._permutation(number, plate.size, e)[: per_epoch * batch] for e in epochs]
            offset = start - epochs[0] * per_epoch
            rows = np.concatenate(whole).reshape(-1, batch)[offset : offset + stop - start]
            padded = np.zeros((capacity or len(rows), plate.subsample_size), np.int32)
            padded[: len(rows)] = rows
            out[name] = padded
        return out

    def _permutation(self, plate: int, size: int, epoch: int) -> np.ndarray:
        return _permutation(self.seed, plate, size, epoch)


@functools.lru_cache(maxsize=4)  # a chunk straddles two epochs at most times
def _permutation(seed: int, plate: int, size: int, epoch: int) -> np.ndarray:
    generator = np.random.default_rng(np.random.SeedSequence((seed, plate, epoch)))
    return generator.permutation(size).astype(np.int32)
