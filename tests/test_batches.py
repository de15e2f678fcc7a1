"""Row schedules: every row once an epoch, a function of the step alone."""

import numpy as np

from vijax._batches import Rows
from vijax._contracts import Plate


def rows(size=10, batch=3, seed=0):
    return Rows({"n": Plate("n", -1, size, batch), "full": Plate("full", -2, 4, 4)}, seed)


def test_only_subsampled_plates_are_scheduled():
    assert set(rows().table(0, 5)) == {"n"}


def test_every_epoch_is_a_permutation():
    stream = rows(12, 4).table(0, 9)["n"].reshape(-1)
    epochs = stream.reshape(3, 12)
    assert (np.sort(epochs, axis=1) == np.arange(12)).all()
    assert not (epochs[0] == epochs[1]).all()


def test_no_batch_has_a_row_twice_when_the_batch_does_not_divide_the_plate():
    table = np.sort(rows(10, 3).table(0, 99)["n"], axis=1)
    assert (np.diff(table, axis=1) > 0).all()
    epochs = np.sort(table.reshape(-1, 9), axis=1)
    assert (np.diff(epochs, axis=1) > 0).all()


def test_rows_left_over_are_others_in_every_epoch():
    stream = rows(10, 3).table(0, 3000)["n"].reshape(-1)
    counts = np.bincount(stream, minlength=10)
    # each of 1,000 epochs leaves a row out with probability 0.1
    assert np.abs(counts - 900).max() < 5 * np.sqrt(1000 * 0.1 * 0.9)


def test_a_table_does_not_depend_on_where_it_is_cut():
    whole = rows().table(0, 20)["n"]
    parts = np.concatenate([rows().table(0, 7)["n"], rows().table(7, 20)["n"]])
    np.testing.assert_array_equal(whole, parts)


def test_capacity_pads_with_valid_rows():
    table = rows().table(3, 5, capacity=8)["n"]
    assert table.shape == (8, 3)
    np.testing.assert_array_equal(table[:2], rows().table(3, 5)["n"])
    assert (table[2:] == 0).all()


def test_the_seed_changes_the_order():
    assert not (rows(seed=0).table(0, 20)["n"] == rows(seed=1).table(0, 20)["n"]).all()
