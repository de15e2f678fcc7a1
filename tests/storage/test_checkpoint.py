"""Checkpoints: interrupted fits continue exactly; corrupt or foreign checkpoints are detected."""

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


def reflected(y):
    """Another model with the same sites."""
    return hierarchy(-y)


def fit(path=None, num_steps=3000, seconds=0.0, keep=2, callbacks=(), y=Y, rng_key=0, **options):
    model = options.pop("model", hierarchy)
    checkpoint = None if path is None else vijax.Checkpoint(path, seconds, keep)
    return vijax.fit(
        model,
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
def uninterrupted(num_steps):
    """An uninterrupted fit."""
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


def test_an_interrupted_fit_continues_exactly(tmp_path):
    path = tmp_path / "fit"
    stopped = fit(path, callbacks=stop_at(500))
    assert 500 <= stopped.num_steps < 3000
    resumed = fit(path)
    assert resumed.num_steps == 3000
    np.testing.assert_array_equal(resumed.losses, uninterrupted(3000).losses)
    assert_same(resumed, uninterrupted(3000))
    for a, b in zip(parameters(resumed), parameters(uninterrupted(3000)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_finished_fit_takes_no_more_steps(tmp_path):
    first = fit(tmp_path / "fit", num_steps=300)
    seen = []
    again = fit(tmp_path / "fit", num_steps=300, callbacks=[lambda *state: seen.append(state)])
    assert not seen
    np.testing.assert_array_equal(first.losses, again.losses)
    longer = fit(tmp_path / "fit", num_steps=600)
    np.testing.assert_array_equal(longer.losses, uninterrupted(600).losses)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"y": Y + 1}, "another data set"),
        ({"model": reflected}, "another model."),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ({"rng_key": 1}, "another rng_key"),
                ({"y": Y[:100]}, "another model argument"),
                ({"guide": "meanfield"}, "another guide"),
                ({"num_restarts": 2}, "another number of restarts"),
            ]
        ),
    ],
)
def test_the_checkpoint_of_another_fit_is_rejected_and_kept(tmp_path, other, what):
    path = tmp_path / "fit"
    fit(path, num_steps=100)
    before = contents(path)
    with pytest.raises(VijaxError, match=f"{what}.*Use another path for this fit"):
        fit(path, num_steps=100, **other)
    assert contents(path) == before


@pytest.mark.slow
def test_optimizers_are_distinguished_by_their_settings(tmp_path):
    path = tmp_path / "fit"
    fit(path, num_steps=100, optimizer=optax.adam(0.01))
    with pytest.raises(VijaxError, match="another setting of the algorithm"):
        fit(path, num_steps=100, optimizer=optax.adam(0.011))
    assert fit(path, num_steps=110, optimizer=optax.adam(0.01)).num_steps == 110


def largest(path, step):
    """The file of a checkpoint with its array values."""
    files = [file for file in (path / f"step_{step}").rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def truncate(file):
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
    ("corrupt", "what"),
    [
        (lambda path: flip(largest(path, 1000)), "ValueError: wrong checksum of its"),
        (lambda path: truncate(path / "step_1000/run/metadata"), "JSONDecodeError"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (lambda path: flip(path / "step_1000/run/metadata"), "step 1000 is corrupt"),
                (lambda path: truncate(largest(path, 1000)), "OUT_OF_RANGE"),
                (lambda path: (path / "step_1000/float32/manifest.ocdbt").unlink(), "NOT_FOUND"),
                (lambda path: shutil.rmtree(path / "step_1000/run"), "step 1000 is corrupt"),
            ]
        ),
    ],
    ids=["bit", "truncated JSON", "JSON bit", "truncated", "no index", "no JSON"],
)
def test_the_previous_checkpoint_is_used_if_the_last_is_corrupt(two, corrupt, what):
    corrupt(two)
    with pytest.warns(
        VijaxWarning, match=rf"{what}.*The previous checkpoint, of step 500, is"
    ) as warned:
        resumed = fit(two, num_steps=1200)
    assert len(warned) == 1
    assert_same(resumed, uninterrupted(1200))
    assert 1200 in steps(two)
    assert 1000 not in steps(two)  # otherwise it would count as the previous one


def test_without_an_intact_checkpoint_nothing_is_changed(two):
    for step in (500, 1000):
        flip(largest(two, step))
    before = contents(two)
    message = r"step 1000 is corrupt.*step 500 is corrupt.*Delete the directory to start over"
    with pytest.raises(VijaxError, match=message):
        fit(two, num_steps=1200)
    assert contents(two) == before


@pytest.mark.slow
def test_the_last_checkpoints_are_kept(tmp_path):
    path = tmp_path / "fit"
    for num_steps in range(100, 600, 100):
        fit(path, num_steps=num_steps, seconds=60, keep=3)
    assert steps(path) == [300, 400, 500]


def test_incomplete_checkpoints_are_removed(two):
    incomplete = two / "step_1100.orbax-checkpoint-tmp"
    shutil.copytree(two / "step_1000", incomplete)
    resumed = fit(two, num_steps=1200, seconds=60)
    assert_same(resumed, uninterrupted(1200))
    assert steps(two) == [1000, 1200]


def test_a_path_with_other_contents_is_rejected(tmp_path):
    file = tmp_path / "file"
    fit(num_steps=100).save(file)
    before = contents(tmp_path)
    with pytest.raises(VijaxError, match=r"file'.*a directory.*got a file\. Delete it or use"):
        fit(file, num_steps=100)
    with pytest.raises(VijaxError, match=r"a directory with checkpoints only, got one with .*file"):
        fit(tmp_path, num_steps=100)
    with pytest.raises(VijaxError, match=r"a writable directory, got NotADirectoryError"):
        fit(file / "below", num_steps=100)
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_path_that_is_not_writable_is_rejected(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(VijaxError, match="a writable directory, got PermissionError"):
        fit(tmp_path / "fit", num_steps=100)


@pytest.mark.slow
def test_a_full_disk_does_not_end_the_fit(tmp_path):
    path = tmp_path / "fit"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # bytes of a file
    try:
        with pytest.warns(VijaxWarning, match="could not be written, the fit continues") as warned:
            posterior = fit(path, num_steps=3000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(warned) == 1
    assert_same(posterior, uninterrupted(3000))
    assert fit(path, num_steps=100).num_steps == 100
    assert steps(path)[-1] == 100


@pytest.mark.slow
def test_ctrl_c_at_any_moment_leaves_a_complete_checkpoint(tmp_path):
    total = 100_000  # takes much longer than the timers
    path, expected = tmp_path / "fit", uninterrupted(total)
    times, threads = random.Random(0), threading.enumerate()
    for _ in range(2):
        wait = times.uniform(0.02, 0.15)
        timer = threading.Timer(wait, signal.raise_signal, [signal.SIGINT])
        with pytest.warns(VijaxWarning, match="interrupted by Ctrl-C"):
            ended = fit(path, num_steps=total, callbacks=[lambda *state, t=timer: start_once(t)])
        timer.join()
        assert ended.stop_reason == "interrupted by Ctrl-C"
        assert steps(path)[-1] == ended.num_steps
        assert threading.enumerate() == threads
    assert_same(fit(path, num_steps=total), expected)


def start_once(timer):
    if not (timer.is_alive() or timer.finished.is_set()):
        timer.start()


def test_orbax_logs_and_prints_nothing(two, caplog, capfd):
    flip(largest(two, 1000))
    with caplog.at_level(logging.DEBUG), pytest.warns(VijaxWarning):
        fit(two, num_steps=1200)
    assert {record.name for record in caplog.records} <= {"jax._src.dispatch", "vijax"}
    assert capfd.readouterr() == ("", "")


IMPORTS = """
import logging, sys, threading
sys.path.insert(0, sys.argv[2])
import vijax
assert not {"orbax", "tensorstore"} & {name.partition(".")[0] for name in sys.modules}
from tests.storage.test_checkpoint import fit

def callback(*state):
    logging.getLogger("own").warning("logged")

fit(num_steps=100)
assert "orbax" not in sys.modules
threads = threading.enumerate()
fit(sys.argv[1], num_steps=100, callbacks=[callback])
assert "orbax.checkpoint" in sys.modules
assert not logging.getLogger().handlers
assert threading.enumerate() == threads
"""


@pytest.mark.slow
def test_orbax_is_imported_for_checkpoints_only_and_logging_is_restored(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-W", "error", "-c", IMPORTS, str(tmp_path / "fit"), root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert set(done.stderr.splitlines()) == {"logged"}


def test_invalid_checkpoints_are_rejected():
    with pytest.raises(TypeError, match="checkpoint: expected a path"):
        vijax.fit(hierarchy, Y, checkpoint=3)
    with pytest.raises(ValueError, match="seconds: expected a nonnegative number"):
        vijax.Checkpoint("fit", -1.0)
    with pytest.raises(ValueError, match="keep: expected a positive integer"):
        vijax.Checkpoint("fit", keep=0)


def normal(y):
    mu = numpyro.sample("mu", dist.Normal())
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_fit_until_convergence_continues_exactly(tmp_path):
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
        path.with_name("progressed").touch()

posterior = fit(path, int(sys.argv[3]), callbacks=[callback])
np.savez(path.with_name("end.npz"), *parameters(posterior))
"""


@pytest.mark.slow
def test_twenty_kills_at_random_times_change_nothing(tmp_path):
    num_steps, kills, path = 600_000, 0, tmp_path / "fit"
    progressed, end = tmp_path / "progressed", tmp_path / "end.npz"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    times = random.Random(0)
    while not end.exists():
        progressed.unlink(missing_ok=True)
        command = [sys.executable, "-c", PROGRAM, str(path), root, str(num_steps)]
        process = subprocess.Popen(command)
        while process.poll() is None and not progressed.exists():
            time.sleep(0.01)
        try:  # from here on a checkpoint is always being written or deleted
            process.wait(times.uniform(0.0, 0.5) if kills < 20 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills >= 20
    with np.load(end) as found:
        for name, expected in zip(found.files, parameters(uninterrupted(num_steps)), strict=True):
            np.testing.assert_array_equal(found[name], expected)
