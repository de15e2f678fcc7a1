"""Digests of data see every number that can be read cheaply."""

import hashlib

import numpy as np
import pytest
import scipy.sparse

from vijax.contracts import RowSource
from vijax.data.arrays import MappedRows, SparseRows
from vijax.storage import checks


def test_every_number_of_a_large_array_counts():
    values = np.zeros(2 * checks._CHUNK + 5, np.int8)
    seen = {checks.digest(values)}
    for place in (1, checks._CHUNK - 1, checks._CHUNK, 2 * checks._CHUNK + 4):
        values[place] = 1
        seen.add(checks.digest(values))
    assert len(seen) == 5


def test_the_digest_of_a_small_array_is_that_of_its_bytes():
    values = np.arange(6.0).reshape(2, 3)[:, ::2]
    expected = hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()
    assert checks.digest(values) == expected
    assert checks.digest(np.zeros(0)) != expected


@pytest.mark.parametrize(
    "source",
    [lambda x: MappedRows(x), lambda x: SparseRows(scipy.sparse.csr_array(x))],
    ids=["mapped", "sparse"],
)
def test_every_row_of_a_source_counts(source, monkeypatch):
    monkeypatch.setattr(checks, "_CHUNK", 64)
    values = np.arange(2000.0).reshape(1000, 2)
    before = checks.digest(source(values))
    assert checks.digest(source(values)) == before
    values[777, 1] = -1.0
    assert checks.digest(source(values)) != before


def test_of_a_source_too_large_to_be_read_some_rows_count(monkeypatch):
    class Counted(RowSource):
        shape, dtype = (10_000, 2), np.dtype(float)
        read = 0

        def take(self, rows):
            self.read += len(rows)
            return np.zeros((len(rows), 2))

    monkeypatch.setattr(checks, "_MAX_SOURCE_ELEMENTS", 100)
    source = Counted()
    checks.digest(source)
    assert source.read == checks._MAX_DIGEST_ROWS
