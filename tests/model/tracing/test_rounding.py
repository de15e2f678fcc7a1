"""Data that float32 cannot distinguish are named, and nothing else is."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax import VijaxWarning
from vijax.data.arrays import MappedRows
from vijax.diagnostics.diagnosis import Diagnosis, Diagnostics
from vijax.diagnostics.status import _at_most_approximate
from vijax.model.tracing.rounding import rounding_warnings

rng = np.random.default_rng(0)
NOISE = rng.normal(size=200)

LOST = {
    "unix time": 1.7e9 + np.arange(100.0),
    "unix time in ns": 1_700_000_000_000_000_000 + np.arange(100) * 10**9,
    "integer unix time": 1_700_000_000 + np.arange(100),
    "unsigned": (4_000_000_000 + np.arange(100)).astype(np.uint32),
    "julian date": 2458000.5 + np.linspace(0.0, 3.0, 40),
    "coordinate": 5.4e6 + 10 * NOISE,
    "with gaps": np.where(NOISE > 1.0, np.nan, 1e7 + NOISE),
    "negative": -1e7 + NOISE,
    "long double": (1e7 + NOISE).astype(np.longdouble),
    "one step": np.repeat([1e9, 1e9 + 1.0], 50),
}

KEPT = {
    "standard": NOISE,
    "years": np.arange(1990.0, 2020.0),
    "constant": np.full(100, 0.1),
    "nearly constant": np.full(100, 0.1) * (1 + 1e-16 * np.arange(100)),
    "centered": 1.7e9 + np.arange(100.0) - 1.7e9,
    "large scale": 1e9 * NOISE,
    "skewed": np.exp(5 * NOISE),
    "single": (1.7e9 + np.arange(100.0)).astype(np.float32),
    "index": np.arange(100),
    "identifier": rng.integers(0, 2**31, 100),
    "one value": np.array([1.7e9]),
    "nothing": np.zeros(0),
    "scalar": np.array(1.7e9 + 1),
    "no finite value": np.full(3, np.nan),
    "flags": NOISE > 0,
    "beyond float32": np.array([1e300, -1e300]),
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_named(name):
    (text,) = rounding_warnings("t", LOST[name])
    assert text.startswith("argument 't': rounded to float32")
    assert "jax_enable_x64" in text


@pytest.mark.parametrize("name", KEPT)
def test_nothing_else_is_named(name):
    assert rounding_warnings("t", KEPT[name]) == ()


def test_columns_are_judged_by_themselves():
    columns = np.stack([NOISE, 1e6 + NOISE, 1e7 + NOISE, 100 * NOISE], axis=1)
    assert "'x', column 2 (and 1 other columns)" in rounding_warnings("x", columns)[0]
    assert "column 2" in rounding_warnings("x", MappedRows(columns))[0]
    assert rounding_warnings("x", columns[:, [0, 3]]) == ()


def test_double_precision_loses_nothing():
    with jax.enable_x64(True):
        assert rounding_warnings("t", LOST["unix time"]) == ()


def test_such_a_fit_is_never_certified(tmp_path):
    t = LOST["unix time"]

    def model(t):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        numpyro.sample("z", dist.Normal(slope, 1.0).expand([len(t)]).to_event(1), obs=t - t.min())

    with pytest.warns(VijaxWarning, match=r"argument 't': rounded to float32.*Center it before"):
        posterior = vijax.fit(model, t, progress_bar=False)
    assert posterior.status == "approximate"
    assert "argument 't': rounded to float32" in posterior.report()
    posterior.save(tmp_path / "fit")
    assert vijax.load(tmp_path / "fit", model, t).status == "approximate"


@pytest.mark.parametrize("status", ["certified", "corrected", "approximate", "failed"])
def test_the_status_is_capped(status):
    found = Diagnosis(status, ("others",), "")
    assert _at_most_approximate(found, (), "Center.") is found
    capped = _at_most_approximate(found, ("argument 't'",), "Center.")
    assert capped.status == ("failed" if status == "failed" else "approximate")
    assert capped.reasons == ("argument 't'", "others")
    assert capped.advice == "Center."


def test_a_diagnosis_names_no_data_by_default():
    assert Diagnostics(None, None).data_warnings == ()
