"""The automatic fit on non-Gaussian posteriors, against exact results."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import vijax
from tests.solvers.problems import SCHOOLS, SCHOOLS_SD, centered_schools_model, schools_moments
from vijax.auto.candidate import Candidate, StartingPoint, check_with_chains
from vijax.auto.stages import AUTO, CENTERING, FLOW, GAUSSIAN, MODES, flow, restart
from vijax.contracts import Batch, Solution, Variables
from vijax.diagnostics.assessment import FittedGuide, assess
from vijax.diagnostics.importance import importance
from vijax.engine.problem import Problem
from vijax.guides import Flow, FullRank, Mixture
from vijax.guides.mixture import MixtureParams
from vijax.model import split_and_build
from vijax.runtime.keys import as_key
from vijax.solvers import FlowDescent

CENTER = np.array([3.0, 4.0])


def two_modes(log_odds):
    """Unit normals at -CENTER and CENTER; `log_odds` favors the first."""
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), (2,)))
    modes = [dist.Normal(sign * jnp.asarray(CENTER), 1.0).log_prob(x).sum() for sign in (-1, 1)]
    numpyro.factor("target", jnp.logaddexp(modes[0] + log_odds, modes[1]))


def banana():
    x = numpyro.sample("x", dist.Normal(1.0, 10.0**0.5))
    numpyro.sample("y", dist.Normal(x**2, 0.1**0.5))


def funnel():
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)).expand([4]).to_event(1))


def cauchy():
    numpyro.sample("x", dist.Cauchy(0.0, 1.0).expand([3]).to_event(1))


def groups(count):
    """Groups whose means are determined much more precisely than their standard deviation."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = numpyro.sample("tau", dist.HalfNormal(5.0))
        with numpyro.plate("groups", count):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, 0.1), obs=y)

    return model


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


@pytest.fixture(scope="module")
def schools():
    return fit(centered_schools_model, SCHOOLS_SD, SCHOOLS)


def test_a_centered_hierarchy_is_fitted_accurately(schools):
    assert schools.status == "corrected"
    draws = schools.sample(4000)
    mu, tau, theta = (draws[name].astype(float) for name in ("mu", "tau", "theta"))
    effect = (theta - mu[:, None]) / tau[:, None]
    mean, sd = schools_moments()
    found = np.column_stack([mu, np.log(tau), effect])
    check = schools._result.assessment.check
    error = 5 * max(check.error, 1 / np.sqrt(4000))
    assert np.all(np.abs(found.mean(0) - mean) / sd < error)
    assert np.all(np.abs(np.log(found.std(0) / sd)) < 2 * error)  # log tau has a heavy left tail


def test_the_history_lists_the_stages(schools):
    stages = [attempt.stage for attempt in schools.history]
    assert stages[0] == GAUSSIAN
    assert set(stages) <= {GAUSSIAN, CENTERING, MODES}  # chains correct it: no flow is tried
    assert schools.history[0].kept
    assert all(attempt.seconds >= 0 for attempt in schools.history)
    best = [attempt for attempt in schools.history if attempt.kept][-1]
    np.testing.assert_allclose(best.elbo, schools.elbo, atol=5 * schools.elbo_se + 0.01)


def test_centering_weights_are_learned_from_the_data():
    """Precisely measured groups stay centered."""
    known = fit(groups(30), np.linspace(-5, 5, 30).astype(np.float32))
    assert np.all(np.asarray(known.centering["theta"]) > 0.9)
    assert known.status in ("certified", "corrected")
    theta = known.sample(2000)["theta"]
    np.testing.assert_allclose(theta.mean(0), np.linspace(-5, 5, 30), atol=0.02)
    np.testing.assert_allclose(theta.std(0), 0.1, rtol=0.1)


def test_a_funnel_is_fitted_accurately():
    posterior = fit(funnel)
    assert posterior.status in ("certified", "corrected")
    draws = posterior.sample(4000)
    v = draws["v"].astype(float)
    assert abs(v.mean()) < 0.3
    assert abs(np.log(v.std() / 3)) < 0.08
    unit = draws["x"] / np.exp(v / 2)[:, None]
    np.testing.assert_allclose(unit.std(0), 1.0, atol=0.08)


def test_two_modes_become_a_mixture():
    log_odds = float(np.log(0.7 / 0.3))
    posterior = fit(two_modes, log_odds)
    assert posterior.guide == Mixture((FullRank(), FullRank()))
    assert posterior.status == "certified"
    x = posterior.sample(4000)["x"]
    share = np.mean(x[:, 0] < 0)
    assert abs(share - 0.7) < 5 * np.sqrt(0.21 / 4000)
    evidence = posterior.importance().log_evidence
    np.testing.assert_allclose(evidence, np.log1p(0.7 / 0.3), atol=1e-3)


@pytest.mark.slow
def test_all_label_permutations_of_three_components_are_found():
    """Eight paths find only four or five of the six modes."""

    def mixture(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
        with numpyro.plate("rows", len(y)):
            which = numpyro.sample("which", dist.Categorical(jnp.ones(3) / 3))
            numpyro.sample("y", dist.Normal(mu[which], 1.0), obs=y)

    rng = np.random.default_rng(0)
    y = rng.normal(size=60) + 6 * rng.integers(3, size=60)
    posterior = fit(mixture, y.astype(np.float32))
    assert posterior.status == "certified"
    orders = np.argsort(posterior.sample(4000)["mu"], axis=1)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts / 4000 - 1 / 6).max() < 5 * np.sqrt(5 / 36 / 4000)


def test_a_mode_of_negligible_weight_is_left_out():
    posterior = fit(two_modes, 12.0)
    assert posterior.guide == FullRank()
    assert posterior.status == "certified"
    np.testing.assert_allclose(posterior.sample(4000)["x"].mean(0), -CENTER, atol=0.08)


@pytest.mark.slow
def test_a_banana_is_fitted_by_a_flow():
    posterior = fit(banana)
    kept = [attempt.stage for attempt in posterior.history if attempt.kept]
    assert kept[0] == GAUSSIAN
    assert kept[-1] == FLOW
    assert isinstance(posterior.guide, Flow)
    assert posterior.status in ("certified", "corrected")
    assert posterior.elbo > -0.05
    draws = posterior.sample(4000)
    x, y = draws["x"].astype(float), draws["y"].astype(float)
    assert abs(x.mean() - 1) < 0.3
    assert abs(np.log(x.std() / 10**0.5)) < 0.1
    assert abs(np.log(y.std() / (np.sqrt(240 + 0.1)))) < 0.3  # dominated by the far tail
    np.testing.assert_allclose((y - x**2).std(), 0.1**0.5, rtol=0.1)


@pytest.mark.parametrize("connected", [False, True])
def test_a_flow_starts_at_a_mixture_only_along_one_mode(monkeypatch, connected):
    """It would not reach a separate mode, but might have a higher ELBO without it."""
    arguments, data, target = split_and_build(two_modes, (0.0,), {}, None)
    guide = Mixture((FullRank(), FullRank()))
    problem = Problem(two_modes, arguments, target, guide, Batch(data), as_key(0))
    parts = [
        FullRank().init(as_key(0), target.space, {"x": jnp.full(2, location)})
        for location in (1.0, 2.0)
    ]
    variables = Variables(MixtureParams(jnp.array([0.0, 1.0]), tuple(parts)))
    best = Candidate(problem, Solution(variables, "", True, 0), None, connected)

    class Started(Exception):
        """The flow is fitted."""

    def solve(self, key, target, guide, variables, batch):
        np.testing.assert_array_equal(variables.guide.base.loc, parts[1].loc)
        raise Started

    monkeypatch.setattr(FlowDescent, "solve", solve)
    if connected:
        with pytest.raises(Started):
            flow(None, best)
    else:
        assert flow(None, best) is None


def test_the_evidence_is_as_uncertain_as_the_shares_of_modes_that_chains_do_not_leave():
    """Components half as wide as the modes: chains mend these, but do not cross between them."""
    _, data, target = split_and_build(two_modes, (0.0,), {}, None)
    part = FullRank(init_scale=0.5)
    parts = [
        part.init(as_key(0), target.space, {"x": jnp.asarray(sign * CENTER, jnp.float32)})
        for sign in (-1, 1)
    ]
    variables = Variables(MixtureParams(jnp.zeros(2), tuple(parts)))
    fitted = FittedGuide(target, Mixture((part, part)), variables, {}, as_key(1), Batch(data))
    assessment = assess(fitted, converged=True, chains="correct")
    found = assessment.importance
    assert assessment.diagnosis.status == "corrected"
    assert assessment.check.separate
    assert found.method == "bridge"
    assert found.log_evidence_se == importance(assessment.draws.log_weights).log_evidence_se
    assert found.log_evidence_se > 0.2
    np.testing.assert_allclose(found.log_evidence, np.log(2), atol=0.1)


def test_heavy_tails_are_reported_as_approximate(monkeypatch):
    monkeypatch.setattr("vijax.auto.stages._FLOW_DIM", 1)  # a flow takes long, and has no such tail
    posterior = fit(cauchy)
    assert posterior.status == "approximate"
    assert posterior._result.assessment.diagnosis.advice


def test_chain_states_are_saved_and_loaded(schools, tmp_path):
    path = tmp_path / "schools.vijax"
    schools.save(path)
    again = vijax.load(path, centered_schools_model)
    assert again.status == schools.status
    assert again.history == schools.history
    for name, value in schools.sample(500, rng_key=3).items():
        np.testing.assert_array_equal(again.sample(500, rng_key=3)[name], value)
    raw = schools.sample(500, rng_key=3, corrected=False)
    np.testing.assert_allclose(again.sample(500, rng_key=3, corrected=False)["theta"], raw["theta"])


def test_density_and_draws_are_of_the_models_own_sites(schools):
    """`log_prob` integrates to one over theta and mu, tau: importance weights average to it."""
    draws = schools.sample(400, rng_key=1, corrected=False)
    values = {name: draws[name] for name in ("mu", "tau", "theta")}
    log_q = schools.log_prob(values)
    mu, tau, theta = (values[name].astype(float) for name in ("mu", "tau", "theta"))
    normal = lambda x, m, s: -0.5 * ((x - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi)  # noqa: E731
    log_p = normal(mu, 0, 5) + np.log(2 / np.pi / 5) - np.log1p((tau / 5) ** 2)
    log_p += normal(theta, mu[:, None], tau[:, None]).sum(1)
    log_p += normal(SCHOOLS, theta, SCHOOLS_SD).sum(1)
    np.testing.assert_allclose(np.mean(log_p - log_q), schools.elbo, atol=0.25)


def test_summary_is_of_the_corrected_draws(schools):
    tau = schools.sample(2000)["tau"]
    np.testing.assert_allclose(schools.summary().loc["tau", "mean"], tau.mean(), rtol=0.1)


@pytest.mark.slow
def test_given_centering_weights_are_used():
    posterior = fit(
        centered_schools_model, SCHOOLS_SD, SCHOOLS, guide="meanfield", centering={"theta": 0.0}
    )
    np.testing.assert_array_equal(posterior.centering["theta"], np.zeros(8))
    centered = fit(centered_schools_model, SCHOOLS_SD, SCHOOLS, guide="meanfield")
    assert posterior.elbo > centered.elbo + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["meanfield", "lowrank", "plates"])
def test_centering_is_learned_for_a_named_guide(guide):
    """Precisely determined groups: the centered parametrization is best."""
    model, y = groups(8), np.linspace(-5, 5, 8).astype(np.float32)
    posterior = fit(model, y, guide=guide, centering="learned")
    assert [attempt.stage for attempt in posterior.history] == [GAUSSIAN, CENTERING]
    (weights,) = posterior.centering.values()
    assert np.all(np.asarray(weights) > 0.9)
    tau = posterior.sample(4000, corrected=False)["tau"]
    # given all else tau hardly depends on the data's noise: its exact moments by quadrature
    grid = np.linspace(0.01, 30, 3000)
    square = np.sum((y - y.mean()) ** 2)
    log_density = -0.5 * (grid / 5) ** 2 - 7 * np.log(grid) - 0.5 * square / grid**2
    weights = np.exp(log_density - log_density.max())
    mean = np.sum(grid * weights) / np.sum(weights)
    sd = np.sqrt(np.sum((grid - mean) ** 2 * weights) / np.sum(weights))
    assert abs(tau.mean() - mean) < 0.15 * sd
    assert abs(np.log(tau.std() / sd)) < 0.25


@pytest.mark.parametrize("options", [{"guide": "map"}, {"guide": "fullrank", "num_steps": 10}])
def test_centering_is_learned_from_gaussians_by_solvers_only(options):
    with pytest.raises(
        vijax.GuideError, match="centering: expected a Gaussian guide with its default solver"
    ):
        fit(centered_schools_model, SCHOOLS_SD, SCHOOLS, centering="learned", **options)


@pytest.mark.parametrize(
    ("centering", "message"),
    [
        ({"mu": 0.0}, r"centering.*theta.*'mu'"),
        ({"theta": 1.5}, r"centering\['theta'\].*between 0 and 1.*1.5"),
        ({"theta": np.zeros(3)}, r"centering\['theta'\].*shape.*\(3,\)"),
        ("yes", "centering: expected"),
    ],
)
def test_invalid_centering_weights_are_rejected(centering, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(centered_schools_model, SCHOOLS_SD, SCHOOLS, centering=centering)


def test_max_seconds_ends_the_search():
    posterior = fit(centered_schools_model, SCHOOLS_SD, SCHOOLS, max_seconds=1e-6)
    assert [attempt.stage for attempt in posterior.history] == [GAUSSIAN]


def test_ctrl_c_keeps_the_best_so_far(monkeypatch):
    def interrupted(start, best):
        raise KeyboardInterrupt

    monkeypatch.setitem(AUTO.stages, CENTERING, interrupted)
    with pytest.warns(vijax.VijaxWarning, match="interrupted by Ctrl-C"):
        posterior = fit(centered_schools_model, SCHOOLS_SD, SCHOOLS)
    assert posterior.stop_reason.startswith("interrupted by Ctrl-C; ")
    assert posterior.status == "approximate"
    assert [attempt.stage for attempt in posterior.history] == [GAUSSIAN]
    assert posterior.elbo > -32
    monkeypatch.setitem(AUTO.stages, GAUSSIAN, interrupted)
    with pytest.warns(vijax.VijaxWarning, match="interrupted by Ctrl-C"):
        posterior = fit(centered_schools_model, SCHOOLS_SD, SCHOOLS)
    assert posterior.stop_reason == "interrupted by Ctrl-C"
    assert posterior.status == "failed"


def test_the_search_starts_again_where_chains_ended_far_from_the_guide():
    """A Gaussian at the origin, of a posterior at 30 with another scale."""

    def far():
        numpyro.sample("x", dist.Normal(30.0, 2.0).expand([2]).to_event(1))

    arguments, data, target = split_and_build(far, (), {}, None)
    problem = Problem(far, arguments, target, FullRank(), Batch(data), as_key(0))
    params = FullRank().init(as_key(0), target.space, {"x": jnp.zeros(2)}, problem.batch)
    start = StartingPoint(problem, Variables(params, {}), {})
    first = start.candidate(problem, Solution(start.variables, "", True, 0))
    check = check_with_chains(first, {}, correct=True).assessment.check
    assert restart(start, first) is None
    diagnostics = first.assessment.diagnostics._replace(check=check)
    ended = first._replace(assessment=first.assessment._replace(diagnostics=diagnostics))
    assert check.far
    found = restart(start, ended)
    assert found.assessment.diagnosis.status == "certified"
    mean = FullRank().mean(found.solution.variables.guide, target.space)
    np.testing.assert_allclose(mean, 30.0, atol=0.1)


def test_modes_are_not_searched_for_where_the_density_is_unbounded():
    """In learned coordinates paths ran into the spike where all effects are equal."""
    rng = np.random.default_rng(4)
    sd = rng.uniform(9.0, 18.0, 8)
    y = 8.0 + 5.0 * rng.normal(size=8) + sd * rng.normal(size=8)
    key = jax.random.fold_in(jax.random.key(0), 4)
    posterior = vijax.fit(centered_schools_model, sd, y, rng_key=key)
    assert posterior.status == "corrected"
