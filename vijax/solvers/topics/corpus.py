"""A corpus as blocks of whole documents, all of one shape, that stay in the processor's cache.

The entries of a document (distinct words and their counts) fill pieces of eight; its last piece is
padded with words of count zero. A block has a fixed number of pieces and of documents, so that one
compiled program serves documents of every length, and padding is a few words a document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

_PIECE = 8  # words
_CACHE = 1 << 20  # bytes for a block's rows of the topics
_FEWEST, _MOST = 1024, 8192  # words of a block, unless a document is longer
_CAPACITY = 16  # blocks of a group, which is what a call of a compiled program takes


class Counts(NamedTuple):
    """Rows of a sparse matrix of counts, documents by words, in CSR form.

    Attributes:
        indptr: where a document's entries start, `(D + 1,)`.
        words: `(nnz,)`.
        counts: `(nnz,)`, positive.
    """

    indptr: np.ndarray
    words: np.ndarray
    counts: np.ndarray

    @property
    def num_documents(self) -> int:
        """`D`."""
        return len(self.indptr) - 1

    @property
    def tokens(self) -> np.ndarray:
        """Of every document, `(D,)`."""
        rows = np.repeat(np.arange(self.num_documents), np.diff(self.indptr))
        return np.bincount(rows, self.counts, self.num_documents)

    @classmethod
    def of(cls, matrix: Any) -> Counts:
        """Of a scipy sparse matrix, or of a dense one `(D, V)`; zeros are left out."""
        if not hasattr(matrix, "tocsr"):
            dense = np.asarray(matrix)
            rows, words = np.nonzero(dense)
            lengths = np.bincount(rows, minlength=len(dense))
            return cls(_starts(lengths), words, dense[rows, words])
        sparse = matrix.tocsr()
        if not sparse.has_canonical_format or np.any(sparse.data == 0):
            sparse = sparse.copy()
            sparse.sum_duplicates()
            sparse.eliminate_zeros()
        return cls(sparse.indptr, sparse.indices, sparse.data)

    def take(self, documents: np.ndarray) -> Counts:
        """Some of the documents, in that order."""
        lengths = np.diff(self.indptr)[documents]
        indptr = _starts(lengths)
        entries = np.repeat(self.indptr[documents] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return Counts(indptr, self.words[entries], self.counts[entries])

    def with_counts(self, counts: np.ndarray) -> Counts:
        """Other counts of the same entries, `(nnz,)`; entries that become zero are left out."""
        kept = counts > 0
        indptr = _starts(kept)[self.indptr]
        return Counts(indptr, self.words[kept], counts[kept])


class Shape(NamedTuple):
    """Of the blocks of a corpus.

    Attributes:
        pieces: of a block.
        documents: most documents of a block.
    """

    pieces: int
    documents: int

    @classmethod
    def of(cls, corpus: Counts, num_topics: int) -> Shape:
        """For documents as these.

        Args:
            corpus: all documents, or a sample of them.
            num_topics: `K`.
        """
        pieces = np.maximum(-(-np.diff(corpus.indptr) // _PIECE), 1)
        words = np.clip(_CACHE // (4 * num_topics), _FEWEST, _MOST)
        size = 1 << (int(words).bit_length() - 1)
        longest = 1 << int(max(pieces.max(initial=1) - 1, 0)).bit_length()
        count = max(size // _PIECE, longest)
        documents = count / pieces.mean() if len(pieces) else 1
        step = 1 << max(int(documents).bit_length() - 2, 0)  # few values, few programs
        return cls(count, min(int(-(-documents // step) * step), count))


class Group(NamedTuple):
    """Up to `G` blocks of up to `B` documents; what does not exist has count zero.

    Attributes:
        words: by block and piece, `(G, P, 8)`, int32.
        counts: alike, float32.
        owners: the document within the block that a piece belongs to, `(G, P)`, in ascending order.
        documents: numbers of the documents, -1 for none, `(G, B)`.
        num_blocks: those that have documents.
    """

    words: Any
    counts: Any
    owners: Any
    documents: Any
    num_blocks: Any


def groups_of(corpus: Counts, shape: Shape) -> Iterator[Group]:
    """Documents in groups, in their order.

    Args:
        corpus: of `D` documents.
        shape: of the blocks; large enough for the longest document.
    """
    pieces = np.maximum(-(-np.diff(corpus.indptr) // _PIECE), 1)
    first = _first_documents(pieces, shape)
    for start in range(0, len(first) - 1, _CAPACITY):
        bounds = first[start : start + _CAPACITY + 1]
        yield _group(corpus, bounds, pieces[bounds[0] : bounds[-1]], shape)


def _first_documents(pieces: np.ndarray, shape: Shape) -> np.ndarray:
    """The documents with which the blocks start, and `D`."""
    ends = np.cumsum(pieces)
    found = [0]
    while found[-1] < len(pieces):
        start = found[-1]
        room = shape.pieces + (ends[start - 1] if start else 0)
        fit = int(np.searchsorted(ends, room, side="right"))
        found.append(min(fit, start + shape.documents))
    return np.array(found)


def _group(corpus: Counts, bounds: np.ndarray, pieces: np.ndarray, shape: Shape) -> Group:
    chosen = np.arange(bounds[0], bounds[-1])
    block = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    before = _starts(pieces)
    within = before[:-1] - before[bounds - bounds[0]][block]  # first piece of a document
    first = block * shape.pieces + within
    words = np.zeros((_CAPACITY, shape.pieces, _PIECE), np.int32)
    counts = np.zeros(words.shape, np.float32)
    owners = np.full((_CAPACITY, shape.pieces), shape.documents - 1, np.int32)
    documents = np.full((_CAPACITY, shape.documents), -1)
    number = chosen - bounds[block]
    documents[block, number] = chosen
    places = np.repeat(first - before[:-1], pieces) + np.arange(before[-1])
    owners.reshape(-1)[places] = np.repeat(number, pieces)
    lengths = np.diff(corpus.indptr)[chosen]
    begin, end = corpus.indptr[bounds[0]], corpus.indptr[bounds[-1]]
    places = np.repeat(first * _PIECE - corpus.indptr[chosen], lengths) + np.arange(begin, end)
    words.reshape(-1)[places] = corpus.words[begin:end]
    counts.reshape(-1)[places] = corpus.counts[begin:end]
    return Group(words, counts, owners, documents, len(bounds) - 1)


def by_document(group: Group, values: np.ndarray) -> np.ndarray:
    """Sums of values of pieces, `(G, P)`, over the pieces of every document, `(G, B)`."""
    blocks, most = group.documents.shape
    index = np.arange(blocks)[:, None] * most + group.owners
    return np.bincount(index.ravel(), values.ravel(), blocks * most).reshape(blocks, most)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])
