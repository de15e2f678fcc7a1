"""Which rows of a subsampled plate each step sees: epochs of seeded permutations.

Step `t` reads rows `[t * B, (t + 1) * B)` of the endless sequence of permutations of `range(N)`,
one an epoch. Rows are a function of the seed and the step alone, so that a resumed fit sees what
the uninterrupted one would; a step costs O(B), an epoch one permutation on the host.
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
            first, last = start * plate.subsample_size, stop * plate.subsample_size
            epochs = range(first // plate.size, (last - 1) // plate.size + 1)
            stream = np.concatenate([self._permutation(number, plate.size, e) for e in epochs])
            offset = first - epochs[0] * plate.size
            rows = stream[offset : offset + last - first].reshape(-1, plate.subsample_size)
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
