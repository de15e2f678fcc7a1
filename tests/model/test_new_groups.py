"""New members of plates beside fitted ones, longer series, and sites with a set value."""

import contextlib

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam

from tests.model.test_predictive import Fit
from vijax.model import Growing
from vijax.model.interventions import check_values
from vijax.runtime.errors import ModelError

NUM = 4000
GROUPS = Growing(frozenset({"groups"}))
COVARIANCE = np.array([[1.0, 0.6], [0.6, 0.5]], np.float32)


def assert_standard(draws):
    """Independent standard normals `(NUM, ...)`, within five standard errors."""
    flat = np.asarray(draws).reshape(NUM, -1)
    moments = flat.T @ flat / NUM - np.eye(flat.shape[1])
    assert np.abs(flat.mean(0)).max() < 5 / np.sqrt(NUM)
    assert np.abs(moments).max() < 5 * np.sqrt(2 / NUM)


@handlers.reparam(config={"shift": LocScaleReparam(0.0)})
def nested(groups, members, y=None):
    mu = numpyro.sample("mu", dist.Normal())
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 0.3))
    with numpyro.plate("groups", groups, dim=-2):
        group = numpyro.sample("group", dist.Normal(mu, tau))
        slope = numpyro.sample("slope", dist.MultivariateNormal(group[..., None], COVARIANCE))
        shift = numpyro.sample("shift", dist.Normal(mu, tau))  # non-centred
        with numpyro.plate("members", members, dim=-1):
            member = numpyro.sample("member", dist.Normal(group, tau))
            at = numpyro.deterministic("at", member + shift + slope.sum(-1))
            numpyro.sample("y", dist.Normal(at, 1.0), obs=y)


@pytest.fixture(scope="module")
def fit():
    return Fit(nested, 2, 3, np.zeros((2, 3), np.float32), num_draws=NUM)


def test_fitted_members_keep_their_draws_and_new_ones_are_drawn_given_the_others(fit):
    draws = fit.predict(4, 3, growing=GROUPS)
    x, mu, tau = fit.x, fit.x["mu"], fit.x["tau"]
    assert draws["y"].shape == (NUM, 4, 3)
    shift = mu[:, None, None] + tau[:, None, None] * x["shift_decentered"]
    known = x["member"] + shift + x["slope"].sum(-1)
    np.testing.assert_allclose(draws["at"][:, :2], known, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(draws["shift"][:, :2], shift, rtol=1e-4, atol=1e-5)
    assert_standard((draws["shift"][:, 2:] - mu[:, None, None]) / tau[:, None, None])
    # var(at) = var(group sum: 3 group) + member + shift + slope noise, given mu and tau
    variance = (9 + 1 + 1) * tau**2 + COVARIANCE.sum()
    new = draws["at"][:, 2:] - 4 * mu[:, None, None]
    scaled = new[:, :, 0] / np.sqrt(variance)[:, None]
    assert_standard(scaled)
    within = new[:, 0, 0] - new[:, 0, 1]  # of members of one new group: they share all else
    assert_standard(within / tau / np.sqrt(2))


def test_a_larger_plate_is_refused_with_the_remedy(fit):
    with pytest.raises(
        ModelError, match=r"'group': .*\(2, 1\).*\(4, 1\).*new_groups='groups'.*=\['group'\]"
    ):
        fit.predict(4, 3)
    with pytest.raises(ModelError, match=r"'member': .*\(2, 3\).*\(4, 5\).*new_groups=\['gr.*'mem"):
        fit.predict(4, 5, growing=GROUPS)
    with pytest.raises(ModelError, match=r"'group': .*\(1, 1\).*with the same plate sizes"):
        fit.predict(1, 3, growing=GROUPS)


def test_plates_of_known_old_and_new_sizes_may_grow(fit):
    draws = fit.predict(2, 5, growing=Growing(sizes=frozenset({(3, 5)})))
    np.testing.assert_allclose(draws["at"][..., :3], fit.predict(2, 3)["at"], rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match="'group'"):
        fit.predict(3, 3, growing=Growing(sizes=frozenset({(3, 5)})))


@pytest.mark.slow
def test_a_series_grows_in_steps_and_rows_at_once():
    def model(steps, rows, y=None):
        decay = numpyro.sample("decay", dist.Normal(0.5, 0.1))

        def step(level, y):
            with numpyro.plate("rows", rows):
                level = numpyro.sample("level", dist.Normal(decay * level, 1.0))
                numpyro.sample("y", dist.Normal(level, 0.1), obs=y)
            return level, level

        levels = scan(step, np.zeros(rows, np.float32), y, length=steps)[1]
        numpyro.deterministic("levels", levels)

    fit = Fit(model, 3, 2, np.zeros((3, 2), np.float32), num_draws=NUM)
    levels = np.asarray(fit.predict(5, 3, growing=Growing(frozenset({"rows"})))["levels"])
    np.testing.assert_allclose(levels[:, :3, :2], fit.x["level"], rtol=1e-5)
    noise = (
        levels
        - np.asarray(fit.x["decay"])[:, None, None]
        * np.pad(levels, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    )
    assert_standard(np.concatenate([noise[:, 3:].reshape(NUM, -1), noise[:, :3, 2]], 1))


def test_a_random_walk_goes_on_from_its_last_step():
    def model(steps, rows, y=None):
        with numpyro.plate("rows", rows):
            walk = numpyro.sample("walk", dist.GaussianRandomWalk(0.5, steps))
        numpyro.deterministic("copy", walk)
        numpyro.sample("y", dist.Normal(walk, 1.0), obs=y)

    fit = Fit(model, 4, 2, np.zeros((2, 4), np.float32), num_draws=NUM)
    walk = np.asarray(fit.predict(6, 3, growing=Growing(frozenset({"rows"})))["copy"])
    np.testing.assert_array_equal(walk[:, :2, :4], fit.x["walk"])
    steps = np.diff(walk, axis=-1, prepend=0) / 0.5
    assert_standard(np.concatenate([steps[:, :2, 4:].reshape(NUM, -1), steps[:, 2]], 1))


def causal(z=None, y=None):
    """`a -> b -> z -> c -> y` with `a -> y`; `z` is data."""
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal(a, 1.0))
    twice = numpyro.deterministic("twice", 2 * b)
    z = numpyro.sample("z", dist.Normal(twice, 1.0), obs=z)
    c = numpyro.sample("c", dist.Normal(z, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(a + c.sum(), 1.0), obs=y)


@pytest.fixture(scope="module")
def chain():
    return Fit(causal, np.float32([0.3]), np.float32([0.1]), num_draws=NUM)


@pytest.mark.parametrize(
    ("do", "drawn"),
    [
        pytest.param({"c": 5.0}, set(), marks=pytest.mark.slow),
        ({"twice": 10}, {"c"}),
        ({"a": np.float64(1)}, {"b", "c"}),
    ],
)
def test_what_depends_on_a_set_value_is_drawn_anew_and_nothing_else(chain, do, drawn):
    draws = {name: np.asarray(x, float) for name, x in chain.predict(do=do).items()}
    assert set(draws) == {"twice", "z", "y", *do, *drawn}
    x = {n: np.asarray(v, float) for n, v in chain.x.items()} | draws
    z = draws["z"].ravel()
    if "twice" not in do:
        np.testing.assert_allclose(draws["twice"], 2 * x["b"], rtol=1e-6)
    assert_standard(z - draws["twice"])
    assert_standard(draws["y"].ravel() - x["a"] - x["c"].sum(-1))
    if "c" in drawn:
        assert_standard(x["c"] - z[:, None])
    if "b" in drawn:
        assert_standard(x["b"] - 1.0)
        assert (draws["a"] == 1).all()


def test_an_observed_site_can_be_set(chain):
    draws = chain.predict(do={"z": 3.0})
    np.testing.assert_array_equal(draws["z"], np.full((NUM, 1), 3.0))
    np.testing.assert_allclose(draws["twice"], 2 * chain.x["b"], rtol=1e-6)
    assert_standard(draws["c"] - 3.0)


def test_sites_inside_a_scan_can_be_set():
    def model(y=None):
        def step(level, y):
            drift = numpyro.sample("drift", dist.Normal())
            level = numpyro.deterministic("level", level + drift)
            numpyro.sample("y", dist.Normal(level, 0.01), obs=y)
            return level, None

        scan(step, 0.0, y, length=3)

    fit = Fit(model, np.zeros(3, np.float32))
    drift = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        fit.predict(do={"drift": drift})["level"], np.tile(np.cumsum(drift), (4, 1)), rtol=1e-6
    )
    found = fit.predict(do={"level": [5.0, 6.0, 7.0]})
    np.testing.assert_allclose(found["y"], np.tile([5, 6, 7], (4, 1)), atol=0.1)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ({"twise": 1.0}, r"do: expected some of the sites \['a'.*'twise'.*mean 'twice'"),
        ({"z": np.nan}, r"do\['z'\]: expected a value in the site's support, Real.*got nan"),
        ({"z": None}, r"do\['z'\]: expected numbers, got None"),
        ({"c": np.ones(3)}, r"do\['c'\]: expected a value that broad.*\(2,\), got shape \(3,\)"),
    ],
)
def test_wrong_interventions_are_named(chain, do, message):
    with pytest.raises(ModelError, match=message):
        chain.predict(do=do)


@pytest.mark.parametrize(("value", "possible"), [(0.0, True), (2.0, True), (-1.0, False)])
def test_a_set_value_may_be_at_the_boundary_of_the_support(value, possible):
    trace = {"tau": {"type": "sample", "value": np.ones(()), "fn": dist.HalfNormal(), "infer": {}}}
    expectation = contextlib.nullcontext() if possible else pytest.raises(ModelError, match="'tau'")
    with expectation:
        check_values(trace, {"tau": value})
