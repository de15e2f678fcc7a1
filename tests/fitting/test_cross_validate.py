"""Cross-validation: against closed forms, brute force and PSIS; folds; what it refuses."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import logsumexp

import vijax
from vijax.auto.many.together import _stacked
from vijax.fitting.folds import make_folds

QUIET = {"progress_bar": False}
NOISE = 0.7


def regression(x, y):
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ slopes, NOISE), obs=y)


def means(group, y):
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0))
    with numpyro.plate("groups", 5):
        level = numpyro.sample("level", dist.Normal(mean, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(level[group], NOISE), obs=y)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2))
Y = X @ [1.0, -0.5] + NOISE * RNG.normal(size=30)
GROUP = np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4])
LEVELS = RNG.normal(size=5)[GROUP] + NOISE * RNG.normal(size=15)


def conditional(covariance, y, of, given):
    """Mean and covariance of some values of a normal vector with mean zero, given others."""
    gain = np.linalg.solve(covariance[np.ix_(given, given)], covariance[np.ix_(given, of)]).T
    return gain @ y[given], covariance[np.ix_(of, of)] - gain @ covariance[np.ix_(given, of)]


def closed_form(covariance, y, folds, joint=False):
    """Log predictive density of every row, or of every fold, given the other folds."""
    found = np.zeros(len(y))
    for fold in np.unique(folds):
        out = np.flatnonzero(folds == fold)
        mean, rest = conditional(covariance, y, out, np.flatnonzero(folds != fold))
        found[out] = stats.norm(mean, np.sqrt(np.diag(rest))).logpdf(y[out])
        if joint:
            found[out] = stats.multivariate_normal(mean, rest).logpdf(y[out]) / len(out)
    return np.array([found[folds == fold].sum() for fold in np.unique(folds)]) if joint else found


@pytest.fixture(scope="module")
def posterior():
    return vijax.fit(regression, X, Y, **QUIET)


COVARIANCE = X @ X.T + NOISE**2 * np.eye(30)


def test_folds_agree_with_the_closed_form(posterior):
    found = vijax.cross_validate(posterior, 5, **QUIET)
    exact = closed_form(COVARIANCE, Y, found.folds)
    assert found.reliable
    assert len(found.fits) == 5
    assert found.mcse < 0.1
    assert abs(found.elpd - exact.sum()) < 4 * found.mcse
    # the relative error of a mean of 2,000 densities of sd up to 0.5
    np.testing.assert_allclose(found.pointwise, exact, atol=0.05)
    assert found.se == pytest.approx(np.sqrt(30) * exact.std(), rel=0.02)
    precision = np.eye(2) + X.T @ X / NOISE**2
    fitted = X @ np.linalg.solve(precision, X.T @ Y) / NOISE**2
    sd = np.sqrt(NOISE**2 + np.einsum("ij,ij->i", X, np.linalg.solve(precision, X.T).T))
    given_all = stats.norm(fitted, sd).logpdf(Y)
    assert found.p == pytest.approx(given_all.sum() - exact.sum(), abs=0.3)
    table = found.summary()
    assert table["rows"].tolist() == [6] * 5
    assert table["elpd"].sum() == pytest.approx(found.elpd)
    for fold in found.labels:  # the fit of a fold is that of the other rows
        rest = found.folds != fold
        precision = np.eye(2) + X[rest].T @ X[rest] / NOISE**2
        mean = np.linalg.solve(precision, X[rest].T @ Y[rest]) / NOISE**2
        np.testing.assert_allclose(found.fits[fold].sample(4000)["slopes"].mean(0), mean, atol=0.02)
    data = found.to_elpd_data()
    assert (data.kind, data.n_folds, data.n_data_points) == ("loo_kfold", 5, 30)
    assert data.elpd == found.elpd
    assert data.elpd_i.values.sum() == pytest.approx(found.elpd)


def test_leave_one_out_by_weights_and_by_fits(posterior):
    exact = closed_form(COVARIANCE, Y, np.arange(30))
    weighted = vijax.cross_validate(posterior, 30, exact=False, **QUIET)
    assert len(weighted.fits) == 0
    assert weighted.reliable
    assert (weighted.summary()["weights_khat"] < 0.7).all()
    np.testing.assert_allclose(weighted.pointwise, exact, atol=0.05)
    psis = vijax.compare({"a": posterior, "b": posterior}).loc["a", "elpd"]
    assert weighted.elpd == pytest.approx(psis, abs=0.2)


@pytest.mark.slow
def test_leave_one_out_by_fits(posterior):
    found = vijax.cross_validate(posterior, 30, **QUIET)
    exact = closed_form(COVARIANCE, Y, np.arange(30))
    np.testing.assert_allclose(found.pointwise, exact, atol=0.05)


@pytest.mark.parametrize("joint", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_group_is_scored_as_a_whole_or_by_its_rows(joint):
    hierarchy = vijax.fit(means, GROUP, LEVELS, **QUIET)
    covariance = 4.0 + (GROUP[:, None] == GROUP) + NOISE**2 * np.eye(15)
    found = vijax.cross_validate(hierarchy, groups=GROUP, joint=joint, **QUIET)
    exact = closed_form(covariance, LEVELS, GROUP, joint)
    assert found.joint == joint
    assert len(found.labels) == 5
    assert abs(found.elpd - exact.sum()) < 4 * found.mcse < 1.5
    assert found.pointwise.shape == exact.shape
    np.testing.assert_allclose(found.pointwise, exact, atol=0.4)
    assert np.abs(found.pointwise - exact).mean() < 0.1


@pytest.mark.slow
def test_a_hierarchy_agrees_with_fits_of_cut_data():
    def model(group, num, y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 3.0))
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
        noise = numpyro.sample("noise", dist.HalfNormal(2.0))
        with numpyro.plate("groups", num):
            level = numpyro.sample("level", dist.Normal(mean, scale))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(level[group], noise), obs=y)

    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(8), 5)
    y = 1.0 + rng.normal(size=8)[group] + rng.normal(size=40)
    posterior = vijax.fit(model, group, 8, y, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vijax.VijaxWarning)  # a row in the tail is named
        found = vijax.cross_validate(posterior, groups=group, **QUIET)
    assert {*found.status} <= {"certified", "corrected"}
    rows, difference, variance = ~found.unreliable, 0.0, 0.0
    assert rows.sum() > 36
    for one in range(8):
        rest, out = group != one, (group == one) & rows
        codes = np.unique(group[rest], return_inverse=True)[1]
        draws = vijax.fit(model, codes, 7, y[rest], **QUIET).sample(1000)
        mean, scale, noise = (draws[name][:, None] for name in ("mean", "scale", "noise"))
        terms = stats.norm(mean, np.hypot(scale, noise)).logpdf(y[out])
        expected = logsumexp(terms, axis=0) - np.log(1000)
        difference += (found.pointwise[out] - expected).sum()
        variance += np.exp(terms - expected).sum(axis=1).var() / 1000
        variance += found.mcse_pointwise[out].sum() ** 2  # at most, if they were correlated
    assert abs(difference) < 4 * np.sqrt(variance) < 3.0


def test_an_unreliable_fit_of_a_fold_is_reported(posterior):
    with pytest.warns(vijax.VijaxWarning, match="approximate: folds 0, 1"):
        found = vijax.cross_validate(posterior, 2, guide="map", **QUIET)
    assert "2 approximate" in found.report()
    assert found.unreliable.all()


@pytest.mark.slow
def test_a_density_that_draws_do_not_cover_is_reported():
    y = np.append(np.zeros(6), 30.0)

    def local(y):
        with numpyro.plate("rows", len(y)):
            level = numpyro.sample("level", dist.Normal(0.0, 10.0))
            numpyro.sample("y", dist.Normal(level, 0.01), obs=y)

    posterior = vijax.fit(local, y, **QUIET)
    with pytest.warns(vijax.VijaxWarning, match="k-hat is above 0.7 at rows .*6"):
        found = vijax.cross_validate(posterior, 7, exact=False, **QUIET)
    assert len(found.fits) > 0  # weights were unreliable, too
    assert not found.reliable
    assert found.unreliable[6]


def test_models_are_compared_on_the_same_folds(posterior):
    narrow = vijax.fit(regression, X[:, :1], Y, **QUIET)
    one = vijax.cross_validate(posterior, 5, exact=False, **QUIET)
    other = vijax.cross_validate(narrow, folds=one.folds, exact=False, **QUIET)
    table = vijax.compare({"wide": one, "narrow": other})
    assert list(table.index) == ["wide", "narrow"]
    assert table.loc["narrow", "elpd_diff"] == pytest.approx(other.elpd - one.elpd)
    assert table["weight"].sum() == pytest.approx(1.0)
    assert "wide" in repr(table)
    assert "log_evidence" not in repr(table)
    with pytest.raises(vijax.VijaxError, match="cross-validations of all models"):
        vijax.compare({"wide": one, "narrow": narrow})
    with pytest.raises(vijax.VijaxError, match=r"folds=wide\.folds"):
        vijax.compare(
            {"wide": one, "narrow": vijax.cross_validate(narrow, 4, exact=False, **QUIET)}
        )


def test_data_that_sets_share_are_stored_once():
    x, other = np.zeros((4, 2)), np.zeros((4, 2))
    assert _stacked([x, x, x]).shape == (1, 4, 2)
    assert _stacked([x, other, x]).shape == (3, 4, 2)


def test_folds_are_balanced_and_keep_groups_whole():
    rng = np.random.default_rng(0)
    sizes = np.bincount(make_folds(23, None, None, None, rng).of_rows)
    assert sizes.tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    classes = np.repeat(["a", "b"], [20, 10])
    found = make_folds(30, 5, None, classes, rng).of_rows
    counts = [np.bincount(found[classes == name]).tolist() for name in "ab"]
    assert counts == [[4] * 5, [2] * 5]
    found = make_folds(15, 2, GROUP, None, rng)
    assert len(np.unique(np.stack([GROUP, found.of_rows]), axis=1).T) == 5
    named = make_folds(4, ["x", "y", "x", "y"], None, None, rng)
    assert named.labels == ("x", "y")
    assert named.of_rows.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"folds": 1}, "folds: expected a number from 2 to 30"),
        ({"folds": 31}, "folds: expected a number from 2 to 30"),
        ({"folds": np.zeros(29)}, "folds: expected one label for each of 30 rows"),
        ({"folds": np.zeros(30)}, "folds: expected two or more different labels"),
        ({"groups": np.full(30, np.nan)}, "groups: expected labels without NaN"),
        ({"groups": np.arange(30) // 3, "folds": np.arange(30) % 2}, "all rows of a group"),
        ({"groups": np.arange(30) // 3, "stratify": np.arange(30)}, "stratify"),
        ({"joint": True}, "joint: expected groups="),
        ({"plate": "people"}, "plate: expected a plate around observed sites"),
        ({"num_draws": 0}, "num_draws"),
        ({"fold": 3}, "unexpected keyword 'fold'"),
    ],
)
def test_wrong_arguments_are_named(posterior, arguments, match):
    with pytest.raises((TypeError, ValueError), match=match):
        vijax.cross_validate(posterior, **arguments, **QUIET)


def test_rows_that_cannot_be_left_out_are_refused():
    def crossed(y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        with numpyro.plate("items", 3, dim=-2), numpyro.plate("people", 4, dim=-1):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def weighted(y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)
            numpyro.factor("weight", -jnp.square(y - mean))

    posterior = vijax.fit(crossed, np.zeros((3, 4)), guide="map", **QUIET)
    with pytest.raises(vijax.ModelError, match="plate: expected the name"):
        vijax.cross_validate(posterior, 2)
    posterior = vijax.fit(weighted, np.zeros(4), guide="map", **QUIET)
    with pytest.raises(vijax.ModelError, match="site 'weight': expected observed sites"):
        vijax.cross_validate(posterior, 2)
