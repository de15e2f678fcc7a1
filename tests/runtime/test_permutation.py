"""Pseudo-random permutations: bijective, random access, as random as a shuffle."""

import numpy as np
import pytest

from vijax.runtime.permutation import permute


def part(seed, size, start, stop):
    return permute(seed, size, np.arange(start, stop))


SIZES = (1, 2, 5, 1000, 2**16, 2**16 + 1, 100_003, 2**17, 300_000)


@pytest.mark.parametrize("size", SIZES)
def test_every_row_occurs_once(size):
    np.testing.assert_array_equal(np.sort(part((1, 2), size, 0, size)), np.arange(size))


@pytest.mark.parametrize("size", [1000, 100_003])
def test_a_part_can_be_computed_separately(size):
    whole = part((1, 2), size, 0, size)
    np.testing.assert_array_equal(part((1, 2), size, 400, 900), whole[400:900])
    assert np.mean(part((1, 3), size, 0, size) == whole) < 0.01  # another seed


def test_a_part_of_many_rows_takes_no_memory_for_the_others():
    rows = part((0,), 2**31 - 1, 2**30, 2**30 + 50_000)
    assert len(np.unique(rows)) == 50_000
    assert abs(rows.mean() / 2**31 - 0.5) < 5 * np.sqrt(1 / 12 / 50_000)


def test_batches_are_as_random_as_draws_without_replacement():
    size, batch, epochs = 2**16 + 1, 1000, 100
    rows = np.stack([part((epoch,), size, 0, 65 * batch) for epoch in range(epochs)])
    each = rows.reshape(epochs * 65, batch)
    error = np.sqrt(2 / len(each))  # of a variance over its expectation
    for marked in (each < size // 2, each % 2 == 0, each // 256 % 2 == 0):
        share = marked.mean()
        hypergeometric = batch * share * (1 - share) * (size - batch) / (size - 1)
        assert abs(marked.sum(1).var() / hypergeometric - 1) < 5 * error


def test_neighboring_positions_have_independent_rows():
    size, num = 100_003, 4000
    first, second = np.stack([part((i,), size, 7, 9) for i in range(num)]).T / size
    difference = (second - first) % 1
    for uniform in (first, second, difference):
        counts = np.histogram(uniform, 20, (0, 1))[0]
        chi_square = ((counts - num / 20) ** 2 / (num / 20)).sum()
        assert chi_square < 19 + 5 * np.sqrt(2 * 19)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(num)


@pytest.mark.parametrize("lag", [1, 256, 257])  # in a row of the table, or in a column
def test_lagged_positions_have_uncorrelated_rows(lag):
    size, num = 2**16 + 1, 60
    correlations = []
    for i in range(num):
        rows = part((i, 5), size, 0, size).astype(float)
        rows = (rows - rows.mean()) / rows.std()
        correlations.append((rows[lag:] * rows[:-lag]).mean() * np.sqrt(size))
    assert abs(np.mean(correlations)) < 5 / np.sqrt(num)
    assert abs(np.std(correlations) - 1) < 5 / np.sqrt(2 * num)
