"""Fits that are killed: what is left on disk, and where the next process ends."""

import os
import random
import signal
import subprocess
import sys
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


def fit(path=None, num_steps=3000, seconds=0.0, callbacks=(), y=Y, rng_key=0, **options):
    checkpoint = None if path is None else vijax.Checkpoint(path, seconds)
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


def stop_at(step):
    def callback(run, losses, now):
        if now >= step:
            raise StopIteration

    return (callback,)


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one.run), jax.tree.leaves(other.run), strict=True):
        if isinstance(a, (np.ndarray, jax.Array)):
            np.testing.assert_array_equal(a, b)


def parameters(posterior):
    return jax.tree.leaves(jax.device_get(posterior.params))


def test_a_fit_that_was_cut_short_ends_where_it_would_have_ended(tmp_path):
    whole = fit()
    path = tmp_path / "fit"
    cut = fit(path, callbacks=stop_at(500))
    assert 500 <= cut.num_steps < 3000
    resumed = fit(path)
    assert resumed.num_steps == 3000
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert_same(resumed, whole)
    for a, b in zip(parameters(resumed), parameters(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fit_that_has_ended_takes_no_more_steps(tmp_path):
    first = fit(tmp_path / "fit", num_steps=300)
    seen = []
    again = fit(tmp_path / "fit", num_steps=300, callbacks=[lambda *state: seen.append(state)])
    assert not seen
    np.testing.assert_array_equal(first.losses, again.losses)
    longer = fit(tmp_path / "fit", num_steps=600)
    np.testing.assert_array_equal(longer.losses, fit(num_steps=600).losses)


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
    before = path.read_bytes()
    with pytest.raises(VijaxError, match=f"{what}.*Give each fit a path of its own"):
        fit(path, num_steps=100, **other)
    assert path.read_bytes() == before


def test_optimizers_are_told_apart_by_their_settings(tmp_path):
    path = tmp_path / "fit"
    fit(path, num_steps=100, optimizer=optax.adam(0.01))
    with pytest.raises(VijaxError, match="another setting of the algorithm"):
        fit(path, num_steps=100, optimizer=optax.adam(0.011))
    assert fit(path, num_steps=110, optimizer=optax.adam(0.01)).num_steps == 110


def test_the_one_before_is_used_if_the_file_is_damaged(tmp_path):
    path = tmp_path / "fit"
    fit(path, num_steps=1000)
    assert (tmp_path / "fit.previous").exists()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(VijaxWarning, match="cut short.*The one before is used"):
        resumed = fit(path, num_steps=1000)
    assert_same(resumed, fit(num_steps=1000))


@pytest.mark.parametrize("content", [b"", b"not an archive at all", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "fit"
    path.write_bytes(content)
    with pytest.raises(VijaxError, match=r"checkpoint.*Delete it to start over"):
        fit(path, num_steps=100)


def test_the_file_of_a_posterior_is_no_checkpoint(tmp_path):
    fit(num_steps=100).save(tmp_path / "posterior")
    with pytest.raises(VijaxError, match="the file of a fit in progress"):
        fit(tmp_path / "posterior", num_steps=100)


def test_a_checkpoint_is_a_path():
    with pytest.raises(TypeError, match="checkpoint: expected a path"):
        vijax.fit(hierarchy, Y, checkpoint=3)
    with pytest.raises(ValueError, match="seconds: expected zero or more"):
        vijax.Checkpoint("fit", -1.0)


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

    whole = run(None)
    run(tmp_path / "fit", stop_at(whole.num_steps // 2))
    resumed = run(tmp_path / "fit")
    assert resumed.converged
    assert_same(resumed, whole)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from tests.test_crash import fit, parameters
posterior = fit(sys.argv[1], num_steps=int(sys.argv[3]))
np.savez(sys.argv[1] + ".end.npz", *parameters(posterior))
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    steps, kills, path = 1_200_000, 0, str(tmp_path / "fit")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    moments = random.Random(0)
    while not os.path.exists(path + ".end.npz"):
        command = [sys.executable, "-c", PROGRAM, path, root, str(steps)]
        process = subprocess.Popen(command)
        # the start takes seconds; what is killed is anything from there to the last step
        wait = moments.uniform(2.0, 7.0) if kills < 20 else 600
        deadline = time.monotonic() + wait
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        assert process.returncode in (0, -signal.SIGKILL)
    assert kills >= 20
    whole = fit(num_steps=steps)
    with np.load(path + ".end.npz") as end:
        for name, expected in zip(end.files, parameters(whole), strict=True):
            np.testing.assert_array_equal(end[name], expected)
