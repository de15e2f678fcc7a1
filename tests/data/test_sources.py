"""Sources of rows return the rows of their array, in any order."""

import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse

from vijax import ModelError, data
from vijax.data.arrays import MappedRows, SparseRows, StackedRows, _from_jax, as_row_sources

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 3))
ROWS = np.array([7, 0, 19, 7, 12])


def save_parts(folder, cuts=(5, 11)):
    for number, part in enumerate(np.split(X, cuts)):
        np.save(folder / f"{number}.npy", part)
    return folder


def save_table(folder, extra=None):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    columns = {f"x{i}": X[:, i] for i in range(3)} | {"n": np.arange(20)} | (extra or {})
    parquet.write_table(pyarrow.table(columns), folder / "a.parquet", row_group_size=6)
    return folder


class Batches:
    """Ragged batches that count iterations."""

    iterations = 0

    def __iter__(self):
        self.iterations += 1
        yield from ({"x": x, "n": n} for x, n in zip(np.split(X, (4, 5)), NUMBERS, strict=True))


NUMBERS = np.split(np.arange(20), (4, 5))

SOURCES = {
    "memory map": lambda folder: data.npy(save_parts(folder) / "1.npy"),
    "files": lambda folder: data.npy(save_parts(folder)),
    "sparse": lambda _: SparseRows(X),
    "table": lambda folder: data.table(save_table(folder), ["x0", "x1", "x2"]),
    "records": lambda _: data.records([(row, i) for i, row in enumerate(X)])[0],
    "stream": lambda _: data.stream(Batches(), 20)["x"],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_rows_are_those_of_the_array(kind, tmp_path):
    source = SOURCES[kind](tmp_path)
    whole = X[5:11] if kind == "memory map" else X
    rows = ROWS % len(whole)
    assert (source.shape, source.dtype, len(source)) == (whole.shape, whole.dtype, len(whole))
    for some in (rows, np.arange(len(whole)), rows[:1]):
        np.testing.assert_array_equal(source.take(some), whole[some])
    np.testing.assert_array_equal(np.asarray(source), whole)


@pytest.mark.parametrize("kind", ["BCOO", "BCSR", "padded", "rows of entries"])
def test_sparse_arrays_of_jax_are_read_by_row(kind):
    thin = np.where(np.abs(X) > 0.5, X, 0).astype(np.float32)
    matrix = sparse.BCSR.fromdense(thin) if kind == "BCSR" else sparse.BCOO.fromdense(thin)
    if kind == "padded":
        matrix = sparse.BCOO.fromdense(thin, nse=70)
    if kind == "rows of entries":
        matrix = sparse.BCOO.fromdense(thin, n_batch=1)
    found = as_row_sources({"x": matrix, "y": ROWS}, by_batch=True)
    np.testing.assert_array_equal(found["x"], thin)
    assert isinstance(found["x"], np.ndarray)  # small: read into memory
    if kind in ("BCOO", "padded"):
        source = SparseRows(_from_jax(matrix))
        np.testing.assert_array_equal(source.take(ROWS), thin[ROWS])
    assert as_row_sources({"x": matrix}, by_batch=False)["x"] is matrix


def test_sources_of_several_arrays_are_consistent(tmp_path):
    _, numbers = data.records([(row, i) for i, row in enumerate(X)])
    np.testing.assert_array_equal(numbers.take(ROWS), ROWS)
    np.testing.assert_array_equal(data.stream(Batches(), 20)["n"].take(ROWS), ROWS)
    np.testing.assert_array_equal(data.table(save_table(tmp_path), "n").take(ROWS), ROWS)


def test_a_stream_is_restarted_only_to_go_back():
    batches = Batches()
    sources = data.stream(batches, 20)
    assert sources["n"].take(np.arange(1)) == [0]
    before = batches.iterations
    for start in (0, 5, 10):  # both arrays of the same rows are read once
        rows = np.arange(start, start + 5)
        np.testing.assert_array_equal(sources["n"].take(rows), rows)
        np.testing.assert_array_equal(sources["x"].take(rows), X[rows])
    assert batches.iterations == before
    np.testing.assert_array_equal(sources["x"].take(np.arange(3)), X[:3])  # goes back
    assert batches.iterations == before + 1


def test_any_source_can_be_saved(tmp_path):
    written = data.save_npy(data.stream(Batches(), 20)["x"], tmp_path / "x.npy")
    np.testing.assert_array_equal(written.take(ROWS), X[ROWS])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), X)


def test_only_large_arrays_stay_on_disk(tmp_path):
    path = tmp_path / "x.npy"
    large = np.lib.format.open_memmap(path, "w+", np.float32, (2**19, 9))  # sparse on disk
    large[-1] = 3.0
    sparse = scipy.sparse.csr_array((2**20, 9), dtype=np.float32)
    given = (large, X, {"s": sparse}, "text", None, StackedRows([MappedRows(X)]))
    assert as_row_sources(given, by_batch=False) is given
    found = as_row_sources(given, by_batch=True)
    assert isinstance(found[0], MappedRows)
    assert (found[0].take(np.array([2**19 - 1])) == 3).all()
    assert found[1] is X
    assert isinstance(found[2]["s"], SparseRows)
    assert found[3:5] == ("text", None)
    np.testing.assert_array_equal(found[5], X)


def test_inconsistent_files_raise(tmp_path):
    save_parts(tmp_path)
    np.save(tmp_path / "9.npy", np.zeros((4, 2)))
    with pytest.raises(ModelError, match=r"9\.npy': expected float64 rows of shape \(3,\) as in"):
        data.npy(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected \.npy files"):
        data.npy(tmp_path / "none")


def test_non_numeric_columns_raise(tmp_path):
    pytest.importorskip("pyarrow")
    folder = save_table(tmp_path, {"s": ["a"] * 20, "gap": [None, *range(19)]})
    with pytest.raises(ModelError, match="columns: expected some of"):
        data.table(folder, ["x0", "z"])
    with pytest.raises(ModelError, match="columns: expected numbers"):
        data.table(folder, ["x0", "s"])
    with pytest.raises(ModelError, match="column 'gap': expected a number in every row"):
        data.table(folder, "gap").take(ROWS)


def test_files_of_different_types_lose_nothing(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parts = [np.arange(3), np.array([0.5, 1.7, -2.9]), np.array([1, 2], np.int8)]
    for number, part in enumerate(parts):
        parquet.write_table(pyarrow.table({"x": part}), tmp_path / f"{number}.parquet")
    np.testing.assert_array_equal(
        data.table(tmp_path, "x").take(np.arange(8)), np.concatenate(parts)
    )
    parquet.write_table(pyarrow.table({"y": parts[0]}), tmp_path / "9.parquet")
    with pytest.raises(ModelError, match=r"9\.parquet': expected a column 'x'"):
        data.table(tmp_path, "x")


def test_records_and_batches_of_different_types_lose_nothing():
    mixed = [0, 1, 2.5]
    with pytest.raises(ModelError, match=r"expected numbers of int64, .* got float64\. Give all"):
        data.records(mixed).take(np.arange(3))
    batches = [np.arange(2), np.array([2.5])]
    with pytest.raises(ModelError, match="expected numbers of int64"):
        data.stream(batches, 3).take(np.arange(3))


def test_a_table_without_pyarrow_raises(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        data.table("x.parquet", "a")


def test_invalid_streams_raise():
    with pytest.raises(TypeError, match="can be restarted, got an iterator"):
        data.stream(iter([X]), 20)
    with pytest.raises(ModelError, match="at least one batch"):
        data.stream([], 20)
    with pytest.raises(ModelError, match="equal numbers of rows"):
        data.stream([(X, X[:3])], 20)
    with pytest.raises(ModelError, match="rows=30 in total, got 20"):
        data.stream([X], 30).take(np.arange(30))


def test_invalid_records_raise():
    with pytest.raises(ModelError, match="at least one"):
        data.records([])
    with pytest.raises(ModelError, match="expected numbers"):
        data.records([("a", 1)])
    source = data.records([np.zeros(2), np.zeros(2)])
    assert source.take(np.array([1])).shape == (1, 2)


def test_a_grain_dataset_and_its_loader():
    grain = pytest.importorskip("grain")
    dataset = grain.MapDataset.source([{"x": row, "n": i} for i, row in enumerate(X)])
    np.testing.assert_array_equal(data.records(dataset)["x"].take(ROWS), X[ROWS])
    loader = dataset.to_iter_dataset().batch(8)
    np.testing.assert_array_equal(data.stream(loader, 20)["x"].take(np.arange(20)), X)
