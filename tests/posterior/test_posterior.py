"""Every method of `Posterior`, compared with closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import Predictive
from scipy import optimize, stats

import vijax
from tests import targets
from tests.posteriors import replaced
from vijax import GuideError
from vijax.contracts import Variables
from vijax.diagnostics.assessment import FittedGuide, assess
from vijax.guides import FullRank, MeanField
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.guides.location_scale.mean_field import MeanFieldParams

RNG = np.random.default_rng(1)
X = RNG.normal(size=(8, 2)).astype(np.float32)
Y = (0.5 + X @ [1.0, -0.7] + RNG.normal(size=8)).astype(np.float32)
DESIGN = np.column_stack([np.ones(8), X]).astype(float)
COVARIANCE = np.linalg.inv(np.eye(3) + DESIGN.T @ DESIGN / 2.25)
MEAN = COVARIANCE @ DESIGN.T @ Y / 2.25
EVIDENCE = stats.multivariate_normal(np.zeros(8), 2.25 * np.eye(8) + DESIGN @ DESIGN.T).logpdf(Y)


def line(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 1.0))  # not in alphabetical order
    with numpyro.plate("rows", x.shape[0]):
        at = numpyro.deterministic("line", alpha + x @ beta)
        numpyro.sample("y", dist.Normal(at, 1.5), obs=y)


ORDER = [1, 2, 0]  # beta before alpha
MEAN, COVARIANCE = MEAN[ORDER], COVARIANCE[np.ix_(ORDER, ORDER)]


def fit(*args, **options):
    return vijax.fit(*args, **{"progress_bar": False, **options})


@pytest.fixture(scope="module")
def fitted():
    return fit(line, X, Y)


def with_gaussian(posterior, mean, covariance):
    """A posterior with a given Gaussian guide, newly assessed."""
    factor = np.linalg.cholesky(covariance)
    scale = np.diag(factor)
    params = FullRankParams(
        *(jnp.asarray(part, jnp.float32) for part in (mean, np.log(scale), factor / scale[:, None]))
    )
    variables = Variables(params)
    key, batch = jax.random.key(9), posterior._result.batch
    assessment = assess(
        FittedGuide(posterior._result.target, FullRank(), variables, {}, key, batch), True
    )
    return replaced(posterior, guide=FullRank(), variables=variables, assessment=assessment)


@pytest.fixture(scope="module")
def wrong(fitted):
    """Shifted by 0.7 standard deviations in `beta[1]` and 1.3 times too wide."""
    shift = np.array([0.0, 0.7, 0.0]) * np.sqrt(np.diag(COVARIANCE))
    return with_gaussian(fitted, MEAN + shift, 1.69 * COVARIANCE)


@pytest.fixture(scope="module")
def positive():
    problem = targets.problem("gamma_poisson")
    return problem, fit(problem.model, *problem.args)


def flat(draws):
    return np.column_stack([draws["beta"], draws["alpha"]]).astype(float)


def assert_mean(draws, expected, effective=None):
    """Column means within five standard errors."""
    effective = len(draws) if effective is None else effective
    error = draws.std(0, ddof=1) / np.sqrt(effective)
    np.testing.assert_array_less(np.abs(draws.mean(0) - expected), 5 * error + 1e-6)


def test_draws_have_the_exact_moments(fitted):
    draws = fitted.sample(4000)
    assert list(draws) == ["beta", "alpha", "line"]
    assert draws["beta"].shape == (4000, 2)
    vectors = flat(draws)
    assert_mean(vectors, MEAN)
    centered = vectors - MEAN
    assert_mean(centered[:, :, None] * centered[:, None, :], COVARIANCE)
    line_of_draws = draws["alpha"][:, None] + draws["beta"] @ X.T
    np.testing.assert_allclose(draws["line"], line_of_draws, rtol=1e-4, atol=1e-4)


def test_the_key_determines_the_draws(fitted):
    first, again = fitted.sample(50, rng_key=3), fitted.sample(50, rng_key=jax.random.key(3))
    legacy, other = fitted.sample(50, rng_key=jax.random.PRNGKey(3)), fitted.sample(50, rng_key=4)
    np.testing.assert_array_equal(first["beta"], again["beta"])
    np.testing.assert_array_equal(first["beta"], legacy["beta"])
    assert not np.array_equal(first["beta"], other["beta"])
    np.testing.assert_array_equal(fitted.sample(300, rng_key=3)["beta"][:50], first["beta"])


def test_correction_of_an_inaccurate_guide_has_the_exact_moments(wrong):
    assert wrong.status == "corrected"
    raw, default = flat(wrong.sample(4000, corrected=False)), flat(wrong.sample(4000))
    bias = np.abs(raw.mean(0) - MEAN) / (raw.std(0) / np.sqrt(4000))
    assert bias[1] > 20
    # effective size of the pool of 16,000 proposals, in addition to the noise of the draws
    pool = (
        4
        * 4000
        * wrong._result.assessment.importance.ess
        / len(wrong._result.assessment.draws.log_p)
    )
    assert_mean(default, MEAN, 1 / (1 / 4000 + 1 / pool))
    centered = default - MEAN
    assert_mean(centered**2, np.diag(COVARIANCE), 1 / (1 / 4000 + 1 / pool))
    np.testing.assert_array_equal(default, flat(wrong.sample(4000, corrected=True)))


def test_corrections_weight_draws_by_the_data_of_the_fit_also_at_other_rows(wrong):
    x, y = X[:3] + 1, Y[:3] - 4
    design = np.column_stack([x, np.ones(3)]).astype(float)
    variance = 2.25 + np.einsum("ni,ij,nj->n", design, COVARIANCE, design)
    exact = stats.norm.logpdf(y, design @ MEAN, np.sqrt(variance))
    got = wrong.log_predictive_density(x, y, num_draws=8000)["y"]
    np.testing.assert_allclose(got, exact, atol=0.15)


def test_log_prob_is_the_density_of_the_guide_in_the_models_space(fitted):
    params = fitted.params
    values = fitted.sample(5, rng_key=1, corrected=False)
    given = {name: values[name] for name in ("beta", "alpha")}
    exact = stats.multivariate_normal(
        np.asarray(params.loc, float),
        np.asarray(fitted.guide.covariance(params, fitted.space), float),
    ).logpdf(flat(values))
    np.testing.assert_allclose(fitted.log_prob(given), exact, rtol=1e-4, atol=1e-4)
    one = fitted.log_prob({name: value[2] for name, value in given.items()})
    assert np.shape(one) == ()
    np.testing.assert_allclose(one, exact[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "site", "exact"),
    [
        ("gamma_poisson", "rate", lambda x, m, s: stats.lognorm(s, scale=np.exp(m)).logpdf(x)),
        (
            "beta_binomial",
            "p",
            lambda x, m, s: (
                stats.norm(m, s).logpdf(np.log(x) - np.log1p(-x)) - np.log(x) - np.log1p(-x)
            ),
        ),
    ],
)
def test_log_prob_includes_the_jacobian(name, site, exact):
    problem = targets.problem(name)
    fitted = fit(problem.model, *problem.args, guide="meanfield", num_steps=20)
    loc, scale = jnp.asarray(0.3), jnp.asarray(0.6)
    params = MeanFieldParams({site: loc}, {site: jnp.log(scale)})
    posterior = replaced(fitted, variables=Variables(params), guide=MeanField())
    x = np.array([0.05, 0.3, 0.7, 0.95])
    np.testing.assert_allclose(
        posterior.log_prob({site: x}), exact(x, 0.3, 0.6), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 0.0}, "exactly the sites"),
        ({"alpha": 0.0, "beta": np.zeros(3)}, r"site 'beta'.*\(2,\).*\(3,\)"),
        ({"alpha": np.zeros(4), "beta": np.zeros((5, 2))}, "same number of draws"),
        ({"alpha": np.zeros(4), "beta": np.zeros(2)}, "same number of draws"),
    ],
)
def test_log_prob_rejects_invalid_values(fitted, values, message):
    with pytest.raises(GuideError, match=message):
        fitted.log_prob(values)


def test_predictions_at_new_inputs_have_the_exact_moments(fitted):
    x = np.array([[0.2, -1.0], [3.0, 0.5], [0.0, 0.0]], np.float32)
    out = fitted.predict(x, rng_key=5, num_draws=4000)
    assert {name: value.shape for name, value in out.items()} == {
        "line": (4000, 3),
        "y": (4000, 3),
    }
    design = np.column_stack([x, np.ones(3)]).astype(float)
    assert_mean(out["line"], design @ MEAN)
    assert_mean(out["y"], design @ MEAN)
    variance = np.einsum("ij,jk,ik->i", design, COVARIANCE, design) + 2.25
    assert_mean((out["y"] - design @ MEAN) ** 2, variance)
    residual = out["y"] - out["line"]
    assert_mean(residual**2, 2.25)
    assert abs(np.corrcoef(residual[:, 0], residual[:, 1])[0, 1]) < 5 / np.sqrt(4000)


def test_predictions_are_repeatable_and_default_to_the_fits_inputs(fitted):
    default = fitted.predict(rng_key=5, num_draws=300)
    assert default["y"].shape == (300, 8)
    np.testing.assert_array_equal(default["y"], fitted.predict(X, Y, rng_key=5, num_draws=300)["y"])
    np.testing.assert_array_equal(
        default["y"], fitted.predict(X, rng_key=5, y=Y, num_draws=300)["y"]
    )
    assert not np.array_equal(default["y"], fitted.predict(rng_key=6, num_draws=300)["y"])
    assert not np.any(default["y"] == Y)


def test_a_prediction_with_other_latent_shapes_names_the_site(fitted):
    with pytest.raises(vijax.ModelError, match="site 'beta'"):
        fitted.predict(np.zeros((4, 3), np.float32))


def test_missing_values_in_new_inputs_are_refused_where_they_are_read(fitted):
    x = np.array([[0.2, np.nan], [3.0, 0.5]], np.float32)
    expected = r"'x': expected numbers.*1 of 4 that are NaN, the first at index \[0, 1\]"
    with pytest.raises(vijax.ModelError, match=expected):
        fitted.predict(x)
    ignored = fitted.predict(X, np.full(8, np.nan, np.float32), num_draws=5)["y"]
    np.testing.assert_array_equal(ignored, fitted.predict(X, Y, num_draws=5)["y"])


def test_log_likelihood_is_the_density_of_each_datum_at_the_draws_of_sample(fitted):
    found, draws = fitted.log_likelihood(300, rng_key=7), fitted.sample(300, rng_key=7)
    assert list(found) == ["y"]
    exact = stats.norm(draws["line"].astype(float), 1.5).logpdf(Y)
    np.testing.assert_allclose(found["y"], exact, rtol=1e-4, atol=1e-4)


def test_summary_rows_are_the_exact_numbers(wrong):
    summary = wrong.summary(num_draws=8000, rng_key=2, ci_prob=0.8)
    assert list(summary.index[:3]) == ["beta[0]", "beta[1]", "alpha"]
    sd = np.sqrt(np.diag(COVARIANCE))
    rows = summary.head(3)
    assert np.all(np.abs(rows["mean"] - MEAN) < 5 * rows["mcse"])
    np.testing.assert_allclose(rows["sd"], sd, rtol=0.08)
    np.testing.assert_allclose(rows["guide_sd"], 1.3 * sd, rtol=5 / np.sqrt(2 * 8000))
    shifted = MEAN + 0.7 * sd * np.array([0.0, 1.0, 0.0])
    assert np.all(np.abs(rows["guide_mean"] - shifted) < 5 * rows["guide_sd"] / np.sqrt(8000))
    for name, prob in (("10%", 0.1), ("90%", 0.9)):
        exact = stats.norm(MEAN, sd).ppf(prob)
        # the error of a 10 % quantile is 1.7 times that of a mean
        assert np.all(np.abs(rows[name] - exact) < 5 * 1.71 * rows["mcse"])
    assert str(summary).splitlines()[0].split() == list(summary.columns)
    assert "status: corrected" in str(summary)


def test_the_report_has_the_largest_change_first(wrong):
    lines = wrong.report().splitlines()
    first = lines[next(i for i, text in enumerate(lines) if "psis_shift" in text) + 1]
    name, shift, ratio, by_chains, *_, chain_ratio, _, _ = first.split()
    assert name == "beta[1]"
    # in sds of the inaccurate guide: a shift of 0.7 / 1.3, a ratio of 1 / 1.3
    assert float(shift) == pytest.approx(-0.7 / 1.3, abs=0.1)
    assert float(ratio) == pytest.approx(1 / 1.3, abs=0.1)
    # shifts by chains are in sds of the posterior
    assert float(by_chains) == pytest.approx(-0.7, abs=0.1)
    assert float(chain_ratio) == pytest.approx(1 / 1.3, abs=0.05)
    assert lines[0] == "status: corrected"


def test_covariances_are_exact_by_every_method(fitted, wrong):
    sd = np.sqrt(np.diag(COVARIANCE))
    scale = np.outer(sd, sd)
    np.testing.assert_allclose(fitted.covariance() / scale, COVARIANCE / scale, atol=0.02)
    np.testing.assert_allclose(wrong.covariance() / scale, 1.69 * COVARIANCE / scale, rtol=1e-4)
    corrected = wrong.covariance("importance", num_draws=20_000)
    np.testing.assert_allclose(corrected / scale, COVARIANCE / scale, atol=0.1)
    with pytest.raises(ValueError, match="method"):
        fitted.covariance("exact")


def exact_share():
    """`1 / E[w^2]` of the wrong Gaussian: 1.69 times the variance, shifted in one direction."""
    wide, moved = 1.69, np.array([0.0, 0.7, 0.0]) * np.sqrt(np.diag(COVARIANCE))
    square = moved @ np.linalg.solve(COVARIANCE, moved)
    curvature = 1 - 1 / (2 * wide)
    exponent = square / (4 * wide**2 * curvature) + square / (2 * wide)
    return (wide / (2 * curvature)) ** -1.5 * np.exp(-exponent)


def test_importance_finds_the_evidence(wrong, positive):
    found = wrong.importance(8000, rng_key=3)
    assert abs(found.log_evidence - EVIDENCE) < 5 * found.log_evidence_se
    assert 0.003 < found.log_evidence_se < 0.03
    assert wrong.elbo < EVIDENCE - 5 * wrong.elbo_se  # a loose bound
    np.testing.assert_allclose(np.exp(found.log_weights).sum(), 1.0, rtol=1e-6)
    assert found.khat < 0.5
    assert found.ess / 8000 == pytest.approx(exact_share(), rel=0.05)
    problem, posterior = positive
    found = posterior.importance(4000)
    assert abs(found.log_evidence - problem.log_evidence) < 5 * found.log_evidence_se


def test_corrected_draws_of_a_positive_site_have_the_exact_moments(positive):
    problem, posterior = positive
    draws = posterior.sample(4000, corrected=True)["rate"].astype(float)
    assert_mean(draws[:, None], problem.mean)
    assert_mean((draws[:, None] - problem.mean) ** 2, problem.covariance[0])


def test_numpyro_predicts_with_the_guide(fitted):
    guide, params = fitted.as_numpyro()
    x = np.array([[0.2, -1.0], [3.0, 0.5]], np.float32)
    latents = Predictive(guide, params=params, num_samples=2000)(jax.random.key(0), x)
    assert_mean(flat(latents), MEAN)
    predictive = Predictive(line, guide=guide, params=params, num_samples=2000)
    out = predictive(jax.random.key(1), x)
    assert_mean(np.asarray(out["y"]), np.column_stack([x, np.ones(2)]) @ MEAN)


def test_median_of_every_site(fitted):
    center = fitted.median()
    assert set(center) == {"alpha", "beta"}
    vector = np.append(center["beta"], center["alpha"])
    error = 1.26 * np.sqrt(np.diag(COVARIANCE) / 500)  # of a median of 500 draws
    np.testing.assert_array_less(np.abs(vector - MEAN), 5 * error)


def noise(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    sigma = numpyro.param("sigma", 2.0, constraint=dist.constraints.positive)
    numpyro.sample("y", dist.Normal(mu, sigma).expand([len(y)]).to_event(1), obs=y)


def test_model_params_maximize_the_evidence():
    y = (0.4 + 0.7 * np.random.default_rng(3).normal(size=30)).astype(np.float32)
    posterior = fit(noise, y, guide="fullrank", algorithm="gradient")

    def negative_evidence(sigma):
        covariance = sigma**2 * np.eye(30) + 1.0
        return -stats.multivariate_normal(np.zeros(30), covariance).logpdf(y)

    best = optimize.minimize_scalar(negative_evidence, bounds=(0.2, 3.0), method="bounded").x
    assert posterior.model_params["sigma"] == pytest.approx(best, rel=0.03)
    assert posterior.model_params["sigma"] == pytest.approx(
        float(np.exp(posterior._result.variables.model["sigma"])), rel=1e-6
    )


def test_a_point_estimate_has_no_density():
    problem = targets.problem("regression")
    posterior = fit(problem.model, *problem.args, guide="map", num_steps=30)
    assert np.isnan(posterior.khat)
    for call in (
        lambda: posterior.sample(corrected=True),
        lambda: posterior.importance(),
        lambda: posterior.log_prob(posterior.median()),
    ):
        with pytest.raises(GuideError, match=r"density.*Delta"):
            call()
    np.testing.assert_array_equal(posterior.covariance(), np.zeros((3, 3)))
    assert posterior.summary(num_draws=10)["sd"].iloc[0] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.sample(num_draws=0), "num_draws"),
        (lambda p: p.sample(num_draws=2.5), "num_draws"),
        (lambda p: p.summary(ci_prob=89), "ci_prob"),
        (lambda p: p.summary(round_to="2g"), "round_to: expected a number of decimals"),
        (lambda p: p.predict(X, new_groups="row"), r"plates of \['rows'\], got 'row'.*mean 'rows'"),
        (lambda p: p.predict(X, from_prior=["beta"], do={"beta": 0}), "do: .* not in from_prior"),
        (lambda p: p.discrete_probs(), "discrete_probs: expected discrete latent sites.*got none"),
        (lambda p: p.resume(0), "num_steps|direct solver"),
        (lambda p: p.resume(10), "direct solver"),
    ],
)
def test_invalid_arguments_are_rejected(fitted, call, message):
    with pytest.raises(ValueError, match=message):
        call(fitted)


def test_sites_can_be_set(fitted):
    line = fitted.predict(X[:5], num_draws=3, do={"alpha": 0.0, "beta": [1.0, 2.0]})["line"]
    np.testing.assert_allclose(line, np.tile(X[:5] @ [1.0, 2.0], (3, 1)), rtol=1e-5)
    with pytest.raises(TypeError, match="do: expected a mapping"):
        fitted.predict(X, do=["alpha"])


def test_losses_and_steps_are_those_of_the_run():
    posterior = fit(line, X, Y, guide="meanfield", num_steps=40, num_restarts=3)
    assert posterior.num_steps == 40
    assert posterior.losses.shape == (40, 3)
    resumed = posterior.resume(10, progress_bar=False)
    np.testing.assert_array_equal(resumed.losses[:40], posterior.losses)
    assert resumed.num_steps == 50
    assert resumed.stop_reason == "num_steps=50 reached"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.sample(num_samples=10), "sample: .*'num_samples'. Did you mean 'num_draws'"),
        (lambda p: p.summary(hdi_prob=0.9), "Did you mean 'ci_prob'"),
        (lambda p: p.importance(seed=1), "Did you mean 'rng_key'"),
        (lambda p: p.predict(X, redraw=["beta"]), "Did you mean 'from_prior'"),
        (lambda p: p.predict(X, draws=9), "Did you mean 'num_draws'.*Arguments of the model: x, y"),
        (lambda p: p.log_predictive_density(X, yy=Y), "Did you mean 'y'"),
        (lambda p: p.sample(jax.random.key(0)), "sample: pass the key by name"),
        (lambda p: p.predict(jax.random.key(0), X), "predict: pass the key by name"),
        (lambda p: p.predict(X, model_kwargs={"y": Y}, y=Y), "'y' was given twice"),
        (lambda p: vijax.compare({"a": p, "b": p}, n_draws=9), "Did you mean 'num_draws'"),
    ],
)
def test_a_misread_call_is_explained(fitted, call, message):
    with pytest.raises(TypeError, match=message):
        call(fitted)


def test_a_number_by_position_is_the_number_of_draws(fitted):
    assert fitted.sample(200)["beta"].shape[0] == 200
    given = fitted.predict(x=X, y=Y, num_draws=5, model_kwargs={})["y"]
    np.testing.assert_array_equal(
        given, fitted.predict(model_kwargs={"x": X, "y": Y}, num_draws=5)["y"]
    )
