"""Fits that are killed: what is left on disk, and where the next process ends."""

import functools
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from tests.groups import hierarchy
from vijax import VijaxError, VijaxWarning

rng = np.random.default_rng(0)
Y = (rng.normal(1.0, 2.0, (200, 1)) + rng.normal(size=(200, 3))).astype(np.float32)


def fit(path=None, num_steps=3000, seconds=0.0, keep=2, callbacks=(), y=Y, rng_key=0, **options):
    checkpoint = None if path is None else vijax.Checkpoint(path, seconds, keep)
    return vijax.fit(
        hierarchy,
        y,
        batch_size={"rows": 20},
        num_steps=num_steps,
        rng_key=rng_key,
        checkpoint=checkpoint,
        callbacks=callbacks,
        progress_bar=False,
        **options,
    )


@functools.cache
def whole(num_steps):
    """What a fit of so many steps comes to that nothing interrupts."""
    return fit(num_steps=num_steps)


def stop_at(step):
    def callback(run, losses, now):
        if now >= step:
            raise StopIteration

    return (callback,)


def assert_same(one, other):
    for a, b in zip(
        jax.tree.leaves(one._result.run), jax.tree.leaves(other._result.run), strict=True
    ):
        if isinstance(a, (np.ndarray, jax.Array)):
            np.testing.assert_array_equal(a, b)


def contents(path):
    """All files below a directory."""
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def steps(path):
    """The checkpoints in a directory that are complete."""
    numbers = [one.name.removeprefix("step_") for one in path.glob("step_*")]
    return sorted(int(number) for number in numbers if number.isdigit())


def parameters(posterior):
    return jax.tree.leaves(jax.device_get(posterior.params))


def test_a_fit_that_was_cut_short_ends_where_it_would_have_ended(tmp_path):
    path = tmp_path / "fit"
    stopped = fit(path, callbacks=stop_at(500))
    assert 500 <= stopped.num_steps < 3000
    resumed = fit(path)
    assert resumed.num_steps == 3000
    np.testing.assert_array_equal(resumed.losses, whole(3000).losses)
    assert_same(resumed, whole(3000))
    for a, b in zip(parameters(resumed), parameters(whole(3000)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fit_that_has_ended_takes_no_more_steps(tmp_path):
    first = fit(tmp_path / "fit", num_steps=300)
    seen = []
    again = fit(tmp_path / "fit", num_steps=300, callbacks=[lambda *state: seen.append(state)])
    assert not seen
    np.testing.assert_array_equal(first.losses, again.losses)
    longer = fit(tmp_path / "fit", num_steps=600)
    np.testing.assert_array_equal(longer.losses, whole(600).losses)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"rng_key": 1}, "another rng_key"),
        ({"y": Y + 1}, "another data set"),
        ({"y": Y[:100]}, "another model argument"),
        ({"guide": "meanfield"}, "another guide"),
        ({"num_restarts": 2}, "another number of restarts"),
    ],
)
def test_the_checkpoint_of_another_fit_is_refused_and_kept(tmp_path, other, what):
    path = tmp_path / "fit"
    fit(path, num_steps=100)
    before = contents(path)
    with pytest.raises(VijaxError, match=f"{what}.*Give each fit a path of its own"):
        fit(path, num_steps=100, **other)
    assert contents(path) == before


@pytest.mark.slow
def test_optimizers_are_told_apart_by_their_settings(tmp_path):
    path = tmp_path / "fit"
    fit(path, num_steps=100, optimizer=optax.adam(0.01))
    with pytest.raises(VijaxError, match="another setting of the algorithm"):
        fit(path, num_steps=100, optimizer=optax.adam(0.011))
    assert fit(path, num_steps=110, optimizer=optax.adam(0.01)).num_steps == 110


def largest(path, step):
    """The file of a step that holds its numbers."""
    files = [file for file in (path / f"step_{step}").rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "fit"
    for num_steps in (500, 1000):
        fit(path, num_steps=num_steps, seconds=60)
    assert steps(path) == [500, 1000]
    return path


@pytest.fixture
def two(once, tmp_path):
    """A directory with the last two checkpoints of a fit of 1,000 steps."""
    return shutil.copytree(once, tmp_path / "fit")


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda path: flip(largest(path, 1000)), "ValueError: the checksum of its"),
        (lambda path: flip(path / "step_1000/run/metadata"), "step 1000 is damaged"),
        (lambda path: cut(largest(path, 1000)), "OUT_OF_RANGE"),
        (lambda path: cut(path / "step_1000/run/metadata"), "JSONDecodeError"),
        (lambda path: (path / "step_1000/float32/manifest.ocdbt").unlink(), "NOT_FOUND"),
        (lambda path: shutil.rmtree(path / "step_1000/run"), "step 1000 is damaged"),
    ],
    ids=["a bit", "a bit of the JSON", "cut short", "JSON cut short", "no index", "no JSON"],
)
def test_the_one_before_is_used_if_the_last_is_damaged(two, harm, what):
    harm(two)
    with pytest.warns(VijaxWarning, match=rf"{what}.*The one before, of step 500, is") as warned:
        resumed = fit(two, num_steps=1200)
    assert len(warned) == 1
    assert_same(resumed, whole(1200))
    assert 1200 in steps(two)
    assert 1000 not in steps(two)  # it would pass for the one before


def test_without_one_that_is_whole_nothing_is_done(two):
    for step in (500, 1000):
        flip(largest(two, step))
    before = contents(two)
    message = r"step 1000 is damaged.*step 500 is damaged.*Delete the directory to start over"
    with pytest.raises(VijaxError, match=message):
        fit(two, num_steps=1200)
    assert contents(two) == before


def test_as_many_are_kept_as_wanted(tmp_path):
    path = tmp_path / "fit"
    for num_steps in range(100, 600, 100):
        fit(path, num_steps=num_steps, seconds=60, keep=3)
    assert steps(path) == [300, 400, 500]


def test_what_a_kill_has_left_half_written_is_cleared_away(two):
    draft = two / "step_1100.orbax-checkpoint-tmp"
    shutil.copytree(two / "step_1000", draft)
    resumed = fit(two, num_steps=1200, seconds=60)
    assert_same(resumed, whole(1200))
    assert steps(two) == [1000, 1200]


def test_a_path_that_holds_something_else_is_refused(tmp_path):
    file = tmp_path / "file"
    fit(num_steps=100).save(file)
    before = contents(tmp_path)
    with pytest.raises(VijaxError, match=r"file'.*a directory.*got a file\. Delete it or name"):
        fit(file, num_steps=100)
    with pytest.raises(VijaxError, match=r"a directory for checkpoints alone, got one with .*file"):
        fit(tmp_path, num_steps=100)
    with pytest.raises(VijaxError, match=r"a directory to write to, got NotADirectoryError"):
        fit(file / "below", num_steps=100)
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_path_that_cannot_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(VijaxError, match="a directory to write to, got PermissionError"):
        fit(tmp_path / "fit", num_steps=100)


def test_a_full_disk_costs_checkpoints_but_not_the_fit(tmp_path):
    path = tmp_path / "fit"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes of a file
    try:
        with pytest.warns(VijaxWarning, match="could not be written, the fit goes on") as warned:
            posterior = fit(path, num_steps=3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(warned) == 1
    assert_same(posterior, whole(3000))
    assert fit(path, num_steps=100).num_steps == 100
    assert steps(path)[-1] == 100


@pytest.mark.slow
def test_ctrl_c_at_any_moment_leaves_a_complete_checkpoint(tmp_path):
    total = 100_000  # takes much longer than the timers
    path, expected = tmp_path / "fit", whole(total)
    moments, threads = random.Random(0), threading.enumerate()
    for _ in range(2):
        wait = moments.uniform(0.02, 0.15)
        timer = threading.Timer(wait, signal.raise_signal, [signal.SIGINT])
        ended = fit(path, num_steps=total, callbacks=[lambda *state, t=timer: begin(t)])
        timer.join()
        assert ended.stop_reason == "interrupted by Ctrl-C"
        assert steps(path)[-1] == ended.num_steps
        assert threading.enumerate() == threads
    assert_same(fit(path, num_steps=total), expected)


def begin(timer):
    if not (timer.is_alive() or timer.finished.is_set()):
        timer.start()


def test_orbax_is_not_heard_of(two, caplog, capfd):
    flip(largest(two, 1000))
    with caplog.at_level(logging.DEBUG), pytest.warns(VijaxWarning):
        fit(two, num_steps=1200)
    assert {record.name for record in caplog.records} <= {"jax._src.dispatch"}
    assert capfd.readouterr() == ("", "")


ALONE = """
import logging, sys, threading
sys.path.insert(0, sys.argv[2])
import vijax
assert not {"orbax", "tensorstore"} & {name.partition(".")[0] for name in sys.modules}
from tests.storage.test_checkpoint import fit

def callback(*state):
    logging.getLogger("own").warning("heard")

fit(num_steps=100)
assert "orbax" not in sys.modules
threads = threading.enumerate()
fit(sys.argv[1], num_steps=100, callbacks=[callback])
assert "orbax.checkpoint" in sys.modules
assert not logging.getLogger().handlers
assert threading.enumerate() == threads
"""


@pytest.mark.slow
def test_orbax_is_imported_for_checkpoints_alone_and_leaves_the_log_as_it_was(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-W", "error", "-c", ALONE, str(tmp_path / "fit"), root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert set(done.stderr.splitlines()) == {"heard"}


def test_a_checkpoint_is_a_path():
    with pytest.raises(TypeError, match="checkpoint: expected a path"):
        vijax.fit(hierarchy, Y, checkpoint=3)
    with pytest.raises(ValueError, match="seconds: expected zero or more"):
        vijax.Checkpoint("fit", -1.0)
    with pytest.raises(ValueError, match="keep: expected a whole number from 1 on"):
        vijax.Checkpoint("fit", keep=0)


def normal(y):
    mu = numpyro.sample("mu", dist.Normal())
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_fit_until_convergence_goes_on_as_well(tmp_path):
    def run(path, callbacks=()):
        where = None if path is None else vijax.Checkpoint(path, 0.0)
        return vijax.fit(
            lambda y: numpyro.sample(
                "y", dist.Normal(numpyro.sample("mu", dist.Normal()), 1), obs=y
            ),
            np.float32(0.7) * np.ones(()),
            guide="meanfield",
            optimizer=optax.adam(0.05),
            checkpoint=where,
            callbacks=callbacks,
            progress_bar=False,
        )

    expected = run(None)
    run(tmp_path / "fit", stop_at(expected.num_steps // 2))
    resumed = run(tmp_path / "fit")
    assert resumed.converged
    assert_same(resumed, expected)


PROGRAM = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from tests.storage.test_checkpoint import fit, parameters, steps

path = pathlib.Path(sys.argv[1])
before = steps(path)[-1] if path.exists() and steps(path) else 0

def callback(*state):
    if steps(path)[-1:] > [before]:
        path.with_name("further").touch()

posterior = fit(path, int(sys.argv[3]), callbacks=[callback])
np.savez(path.with_name("end.npz"), *parameters(posterior))
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    num_steps, kills, path = 600_000, 0, tmp_path / "fit"
    further, end = tmp_path / "further", tmp_path / "end.npz"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    moments = random.Random(0)
    while not end.exists():
        further.unlink(missing_ok=True)
        command = [sys.executable, "-c", PROGRAM, str(path), root, str(num_steps)]
        process = subprocess.Popen(command)
        while process.poll() is None and not further.exists():
            time.sleep(0.01)
        try:  # from here on a checkpoint is always being written, or an old one deleted
            process.wait(moments.uniform(0.0, 0.5) if kills < 20 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills >= 20
    with np.load(end) as found:
        for name, expected in zip(found.files, parameters(whole(num_steps)), strict=True):
            np.testing.assert_array_equal(found[name], expected)
