"""One model fitted to many data sets: the same answers as one by one, each set for itself."""

import signal
import time

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import vijax
from vijax.fitting import many
from vijax.guides import Mixture
from vijax.posterior.many.datasets import calls_of
from vijax.runtime import deadline
from vijax.runtime.deadline import stop_if_overdue

TRUSTED = {"certified", "corrected"}


def regression(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 2.0).expand([x.shape[1]]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ slopes, noise), obs=y)


def schools(sd, y):
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    scale = numpyro.sample("scale", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        effect = numpyro.sample("effect", dist.Normal(mean, scale))
        numpyro.sample("y", dist.Normal(effect, sd), obs=y)


def square(y):
    """Two modes, at either sign of the root of `y`."""
    root = numpyro.sample("root", dist.Normal(0.3, 3.0))
    numpyro.sample("y", dist.Normal(root**2, 0.5), obs=y)


def rows(number, size=40):
    rng = np.random.default_rng(number)
    x = rng.normal(size=(size, 2))
    return x, x @ rng.normal(size=2) + 0.5 * rng.normal(size=size)


def groups(number):
    rng = np.random.default_rng(number)
    sd = rng.uniform(9.0, 18.0, 8)
    return sd, 8.0 + 5.0 * rng.normal(size=8) + sd * rng.normal(size=8)


SETS = [rows(i) for i in range(6)]


@pytest.fixture(scope="module")
def fits():
    return vijax.fit_many(regression, SETS, rng_key=3, progress_bar=False)


@pytest.mark.parametrize(
    ("model", "sets"),
    [
        (regression, SETS[:2]),
        pytest.param(schools, [groups(i) for i in (4, 9, 12)], marks=pytest.mark.slow),
    ],
)
def test_as_good_as_single_fits(model, sets):
    fits = vijax.fit_many(model, sets, progress_bar=False)
    assert {*fits.status} <= TRUSTED
    drawn = fits.sample(4000)
    for i, (posterior, data) in enumerate(zip(fits, sets, strict=True)):
        key = jax.random.fold_in(jax.random.key(0), i)
        alone = vijax.fit(model, *data, rng_key=key, progress_bar=False)
        assert alone.status in TRUSTED
        assert fits.log_evidence[i] == pytest.approx(alone.log_evidence().value, abs=0.05)
        expected = alone.sample(4000)
        for name, values in expected.items():
            low, middle, high = np.quantile(values, (0.16, 0.5, 0.84), axis=0)
            found = np.quantile(drawn[name][i], (0.16, 0.5, 0.84), axis=0)
            for one, other in zip(found, (low, middle, high), strict=True):
                # standard errors of quantiles of 1,000 states are below 0.05 sd
                assert np.max(np.abs(one - other) / (high - low)) < 0.12
            again = posterior.sample(500)[name]
            assert np.max(np.abs(np.median(again, 0) - middle) / (high - low)) < 0.15


def test_a_bad_set_leaves_the_others_alone(fits):
    x, y = SETS[4]
    broken = [*SETS[:4], (x, np.where(np.arange(40) == 7, np.nan, y)), *SETS[5:]]
    found = vijax.fit_many(regression, broken, rng_key=3, progress_bar=False)
    assert found.status[4] == "error"
    assert list(found.errors) == [4]
    assert "'y'" in str(found.errors[4])
    assert "index [7]" in found.report()
    with pytest.raises(vijax.VijaxError, match=r"data set 4: .*'y'"):
        found[4]
    one, other = fits.sample(50), found.sample(50)
    for name, values in one.items():
        same = [np.array_equal(values[i], other[name][i]) for i in range(len(SETS))]
        assert same == [i != 4 for i in range(len(SETS))]
        assert np.isnan(other[name][4]).all()


def test_labels_and_kinds_of_data_sets(fits):
    named = {f"store {i}": {"x": x, "y": y} for i, (x, y) in enumerate(SETS)}
    found = vijax.fit_many(regression, named, rng_key=3, progress_bar=False)
    assert found.labels == tuple(named)
    np.testing.assert_array_equal(found.status, fits.status)
    np.testing.assert_array_equal(found.elbo, fits.elbo)
    shared = {"y": SETS[0][1]}
    for pairs in ([*named.items()], named):
        assert calls_of(pairs, shared) == ([((), one) for one in named.values()], [*named])
    (frame,) = pd.DataFrame({"store": ["a", "a"], "y": [1.0, 2.0]}).groupby("store")
    calls, labels = calls_of(pd.concat([frame[1]]).groupby("store"), {})
    assert labels == ["a"]
    assert calls[0][0][0].equals(frame[1])
    np.testing.assert_array_equal(found["store 5"].summary()["mean"], fits[5].summary()["mean"])
    table = found.summary("noise")
    assert list(table.index) == [(label, "noise") for label in named]
    assert list(table["status"]) == list(fits.status)
    with pytest.raises(KeyError, match="'store 77': expected a label"):
        found["store 77"]
    with pytest.raises(vijax.ModelError, match=r"datasets: expected .*, got none"):
        vijax.fit_many(regression, [])


def pressed(times, monkeypatch):
    """Presses Ctrl-C as soon as the first set is finished, which waits for no clock."""
    finished = many.ManyFits._finished

    def press(self, number, *args):
        finished(self, number, *args)
        for _ in range(times * (self.done == 1)):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(many.ManyFits, "_finished", press)
    monkeypatch.setattr(many, "_SETS", (8, 8))
    monkeypatch.setattr(many, "_WORKERS", 1)  # the third group is not begun before the first ends
    sets = [*SETS, *[rows(i) for i in range(6, 32)]]
    return vijax.fit_many(regression, sets, rng_key=3, progress_bar=False)


def test_ctrl_c_returns_the_sets_that_are_finished(fits, monkeypatch):
    with pytest.warns(vijax.VijaxWarning, match="fit_many: interrupted by Ctrl-C"):
        found = pressed(1, monkeypatch)
    assert {*found.status[:8]} <= TRUSTED
    assert {*found.status[8:16]} <= {*TRUSTED, "unfinished"}
    assert {*found.status[16:]} == {"unfinished"}
    np.testing.assert_array_equal(found.elbo[:6], fits.elbo)  # as if nothing had happened
    draws = found.sample(20)["slopes"]
    np.testing.assert_array_equal(draws[:6], fits.sample(20)["slopes"])
    assert np.isnan(draws[16:]).all()
    with pytest.raises(vijax.VijaxError, match=r"data set 31: .* before the time was up"):
        found[31]
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        pressed(2, monkeypatch)


@pytest.mark.parametrize("guide", ["auto", "meanfield"])
def test_without_time_nothing_is_finished_and_nothing_raised(guide):
    found = vijax.fit_many(regression, SETS, guide=guide, max_seconds=1e-3, progress_bar=False)
    assert [*found.status] == ["unfinished"] * len(SETS)
    assert found.sample(10) == {}
    assert len(found.summary()) == 0
    assert "6 unfinished" in found.report()


def test_overdue_sets_are_unfinished(fits, monkeypatch):
    def compiles(*args):
        time.sleep(1.0)  # longer than the time
        stop_if_overdue()

    monkeypatch.setattr(deadline, "_OVERTIME", 0.0)
    monkeypatch.setattr(many, "fit_together", compiles)
    found = vijax.fit_many(regression, SETS, max_seconds=0.9, progress_bar=False)
    assert [*found.status] == ["unfinished"] * len(SETS)


def test_a_posterior_is_where_the_first_path_of_all_sets_starts(fits, monkeypatch):
    starts, fit_together = [], many.fit_together

    def spy(problems, words, size, first):
        starts.append(first)
        return fit_together(problems, words, size, first)

    monkeypatch.setattr(many, "fit_together", spy)
    found = vijax.fit_many(regression, SETS, rng_key=3, init=fits[0], progress_bar=False)
    for first in starts:  # here: the log of the noise, and the slopes
        np.testing.assert_allclose(first, fits[0].params.loc)
    assert [*found.status] == [*fits.status]
    np.testing.assert_allclose(found.log_evidence, fits.log_evidence, atol=0.02)
    vijax.fit_many(regression, SETS[:1], progress_bar=False)
    assert starts.pop() is None


def test_double_precision_within_a_block(fits):
    with jax.enable_x64(True):  # of this thread only; sets are fitted in others
        found = vijax.fit_many(regression, SETS, rng_key=3, progress_bar=False)
        drawn = found.sample(4000)
    assert {*found.status} <= TRUSTED
    assert drawn["noise"].dtype == np.float64
    np.testing.assert_allclose(found.log_evidence, fits.log_evidence, atol=0.05)
    for name, expected in fits.sample(4000).items():
        difference = drawn[name].mean(axis=1) - expected.mean(axis=1)
        assert np.max(np.abs(difference) / expected.std(axis=1)) < 0.12


@pytest.mark.slow
def test_shapes_may_differ_and_other_guides_are_fitted_one_by_one():
    sets = [rows(0), rows(1, size=30)]
    found = vijax.fit_many(regression, sets, progress_bar=False)
    assert {*found.status} <= TRUSTED
    assert found.sample(10)["slopes"].shape == (2, 10, 2)
    mean_field = vijax.fit_many(regression, sets, guide="meanfield", progress_bar=False)
    key = jax.random.fold_in(jax.random.key(0), 1)
    alone = vijax.fit(regression, *sets[1], guide="meanfield", rng_key=key)
    assert mean_field.elbo[1] == alone.elbo
    assert mean_field[1].status == alone.status


def test_other_modes_are_not_missed():
    found = vijax.fit_many(square, [np.array(4.0), np.array(9.0)], progress_bar=False)
    for posterior, root in zip(found, (2.0, 3.0), strict=True):
        assert isinstance(posterior.guide, Mixture)
        draws = posterior.sample(2000)["root"]
        assert abs(np.abs(draws).mean() - root) < 0.1
        assert 0.2 < np.mean(draws > 0) < 0.8


def test_saved_and_loaded(fits, tmp_path):
    fits.save(tmp_path / "fits.npz")
    with_data = vijax.load(tmp_path / "fits.npz", regression, SETS)
    without = vijax.load(tmp_path / "fits.npz", regression)
    expected = fits.sample(20)
    for loaded in (with_data, without):
        np.testing.assert_array_equal(loaded.status, fits.status)
        np.testing.assert_array_equal(loaded.log_evidence, fits.log_evidence)
        for name, values in loaded.sample(20).items():
            np.testing.assert_array_equal(values, expected[name])
    assert (tmp_path / "fits.npz").stat().st_size < 60_000 * len(SETS)
    assert with_data[2].log_evidence().value == pytest.approx(fits.log_evidence[2], abs=0.01)


def test_labels_and_errors_are_saved(tmp_path):
    x, y = SETS[1]
    stores = {"north": SETS[0], 7: (x, np.where(np.arange(40) == 3, np.nan, y)), ("a", 2): SETS[2]}
    fits = vijax.fit_many(regression, stores, progress_bar=False)
    fits.save(tmp_path / "stores.npz")
    loaded = vijax.load(tmp_path / "stores.npz", regression, stores)
    assert loaded.labels == fits.labels == ("north", 7, ("a", 2))
    assert [*loaded.status] == [*fits.status]
    assert str(loaded.errors[7]) == str(fits.errors[7])
    pd.testing.assert_frame_equal(loaded.summary(), fits.summary())
    np.testing.assert_array_equal(
        loaded["a", 2].sample(20)["slopes"], fits["a", 2].sample(20)["slopes"]
    )
    with pytest.raises(vijax.VijaxError, match="datasets: expected the 3 data sets, got 2"):
        vijax.load(tmp_path / "stores.npz", regression, SETS[:2])


def test_a_second_call_compiles_nothing(fits):
    target = fits._results[0].target
    programs = target.programs.compiled.values()
    before = {id(one): len(one._compiled) for one in programs}
    vijax.fit_many(regression, [rows(i) for i in range(20, 26)], progress_bar=False)
    assert {id(one): len(one._compiled) for one in programs} == before


def test_options_of_single_fits_are_refused():
    with pytest.raises(ValueError, match="checkpoint: it belongs to a single fit"):
        vijax.fit_many(regression, SETS, checkpoint="folder")
    with pytest.raises(TypeError, match="'gide', which is neither"):
        vijax.fit_many(regression, SETS, gide="meanfield")
