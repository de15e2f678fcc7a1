"""Row schedules: every row once an epoch, a function of the step alone."""

import numpy as np

from vijax.contracts import Plate
from vijax.engine.row_schedule import CHUNK, RowSchedule


def rows(size=10, batch=3, seed=0):
    return RowSchedule({"n": Plate("n", -1, size, batch), "full": Plate("full", -2, 4, 4)}, seed)


def table(schedule, steps):
    return np.stack([schedule.index(step)["n"] for step in range(steps)])


def test_only_subsampled_plates_are_scheduled():
    assert set(rows().index(0)) == {"n"}


def test_every_epoch_is_a_permutation():
    stream = table(rows(12, 4), 9).reshape(-1)
    epochs = stream.reshape(3, 12)
    assert (np.sort(epochs, axis=1) == np.arange(12)).all()
    assert not (epochs[0] == epochs[1]).all()


def test_no_batch_has_a_row_twice_when_the_batch_does_not_divide_the_plate():
    batches = np.sort(table(rows(10, 3), 99), axis=1)
    assert (np.diff(batches, axis=1) > 0).all()
    epochs = np.sort(batches.reshape(-1, 9), axis=1)
    assert (np.diff(epochs, axis=1) > 0).all()


def test_each_epoch_skips_different_rows():
    stream = table(rows(10, 3), 3000).reshape(-1)
    counts = np.bincount(stream, minlength=10)
    # each of 1,000 epochs leaves a row out with probability 0.1
    assert np.abs(counts - 900).max() < 5 * np.sqrt(1000 * 0.1 * 0.9)


def test_a_chunk_contains_the_rows_of_its_steps():
    schedule = rows()
    for step in (0, 7, CHUNK - 1, CHUNK, 3 * CHUNK + 5):
        assert 0 < schedule.chunk_end(step) - step <= CHUNK
        np.testing.assert_array_equal(
            schedule.index(step)["n"], schedule.chunk(step).index["n"][step % CHUNK]
        )


def test_steps_of_one_epoch_in_two_chunks_have_different_rows():
    stream = table(rows(2 * CHUNK, 2), 2 * CHUNK)
    assert (np.sort(stream.reshape(2, -1), axis=1) == np.arange(2 * CHUNK)).all()


def test_full_batches_have_no_schedule():
    schedule = RowSchedule({"full": Plate("full", -2, 4, 4)}, 0)
    assert schedule.index(3) == {}
    assert schedule.chunk_end(3) is None


def test_the_seed_changes_the_order():
    assert not (table(rows(seed=0), 20) == table(rows(seed=1), 20)).all()
