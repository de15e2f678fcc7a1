"""A pass by `partial_fit`: `python -m bench.conjugacy.documents_on_disk FOLDER HOW`.

FOLDER has a matrix in CSR form as indptr.npy, indices.npy and data.npy. HOW is "disk", where files
are mapped, or "memory". A process of its own, so that its memory can be measured. The last line is
JSON: seconds, the growth of anonymous memory in MB, and a checksum of the topics.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from bench.conjugacy.on_disk import Watch
from vijax.estimators import LatentDirichletAllocation

_TOPICS, _BATCH, _WORDS = 100, 4096, 8000


def main(folder: str, how: str) -> dict[str, Any]:
    mode: Any = "r" if how == "disk" else None
    watch, started = Watch(), time.perf_counter()
    with watch:
        names = ("indptr", "indices", "data")
        indptr, words, counts = (np.load(Path(folder) / f"{n}.npy", mmap_mode=mode) for n in names)
        count = len(indptr) - 1
        model = LatentDirichletAllocation(
            _TOPICS, total_samples=count, topic_word_prior=0.01, random_state=0
        )
        for start in range(0, count, _BATCH):
            ends = indptr[start : start + _BATCH + 1]
            own = slice(ends[0], ends[-1])
            shape = (len(ends) - 1, _WORDS)
            model.partial_fit(csr_matrix((counts[own], words[own], ends - ends[0]), shape))
    return {
        "": how,
        "documents": count,
        "seconds": time.perf_counter() - started,
        "memory, MB": watch.most - watch.before,
        "checksum of topics": zlib.crc32(model.components_.tobytes()),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
