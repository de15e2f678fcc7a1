import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from tests.solvers import problems
from vijax.contracts import Variables
from vijax.guides import FullRank
from vijax.runtime.errors import GuideError, VijaxError
from vijax.solvers import BatchAndMatch, Pathfinder
from vijax.solvers.gaussians.dense import Gaussian, antithetic, estimate_elbo
from vijax.solvers.pathfinder.pathfinder import mixture_log_prob, weighted_gaussian


def run(case, seed=0, **options):
    return Pathfinder(**options).run(case.kernel(), np.random.default_rng(seed))


def exact_elbo(gaussian, known):
    """`log Z - KL(q || p)` between Gaussians."""
    precision = np.linalg.inv(known.covariance)
    residual = gaussian.mean - known.mean
    kl = 0.5 * (
        np.trace(precision @ gaussian.covariance)
        + residual @ precision @ residual
        - len(residual)
        + np.linalg.slogdet(known.covariance)[1]
    )
    return known.log_evidence - kl + gaussian.log_det


def test_elbo_estimates_and_their_standard_errors_are_unbiased():
    known = problems.gaussian(3, 10.0)
    rng = np.random.default_rng(5)
    gaussian = Gaussian(known.mean + 0.1, 0.8 * np.diag(known.sd))
    kernel = known.case.kernel()
    estimates = [estimate_elbo(kernel, gaussian, antithetic(rng, 32, 3)) for _ in range(300)]
    elbos = np.array([estimate.elbo for estimate in estimates])
    error = elbos.std(ddof=1) / np.sqrt(len(elbos))
    assert abs(elbos.mean() - exact_elbo(gaussian, known)) < 5 * error
    # the relative standard error of the sd of 300 estimates is 4 percent
    typical = np.sqrt(np.mean([estimate.se**2 for estimate in estimates]))
    assert typical == pytest.approx(elbos.std(ddof=1), rel=0.2)


@pytest.mark.parametrize(("dim", "condition"), [(2, 100.0), (5, 50.0), (20, 1e3)])
def test_reports_the_elbo_of_the_gaussian_it_returns(dim, condition):
    known = problems.gaussian(dim, condition)
    result = run(known.case)
    exact = exact_elbo(result.gaussian, known)
    assert abs(result.elbo - exact) < 5 * result.elbo_se + 1e-3
    assert exact <= known.log_evidence + 1e-6
    assert result.num_modes == 1
    assert (result.path_elbos > -np.inf).all()


def test_is_exact_if_the_history_spans_the_space():
    known = problems.gaussian(4, 30.0)
    result = run(known.case)
    np.testing.assert_allclose(result.gaussian.mean, known.mean, atol=0.02 * known.sd.max())
    np.testing.assert_allclose(result.gaussian.sd, known.sd, rtol=0.05)
    assert result.elbo == pytest.approx(known.log_evidence, abs=0.01)


def test_mixture_weights_estimate_the_evidence():
    result = run(problems.two_modes(), num_final_draws=128)
    assert result.num_modes == 2
    weights = np.exp(result.log_weights)
    error = weights.std() / np.sqrt(len(weights))
    # both modes contribute, each once: per-path weights would give the mass of one, or a blend
    exact = 2 * np.pi * (1 + np.exp(-3))
    assert abs(weights.mean() - exact) < 5 * error
    assert error < 0.1 * exact
    assert sorted(set(result.path_modes.tolist())) == [0, 1]
    assert "2 separate modes" in result.reason


def test_the_mode_of_greater_mass_is_returned():
    result = run(problems.two_modes())
    np.testing.assert_allclose(result.gaussian.mean, [4, 4], atol=0.3)
    modes = [result.components.mean[result.path_modes == b].mean(axis=0) for b in (0, 1)]
    np.testing.assert_allclose(modes, [[4, 4], [-4, -4]], atol=0.3)


def test_what_no_component_covers_is_found_where_modes_are_connected():
    """A row of normals: all paths end in one mode, since the density between them hardly dips."""
    centers = np.array([-4.0, 0.0, 4.0], np.float32)

    def row(centers):
        x = problems.flat("x", 2)
        squares = (x[0] - centers) ** 2 + x[1] ** 2
        numpyro.factor("density", jax.nn.logsumexp(-0.5 * squares))

    case = problems.case(row, centers)
    ends = Pathfinder(num_paths=32).run(case.kernel(), np.random.default_rng(0))
    assert ends.num_modes == 1
    known, elbo = [], np.log(2 * np.pi)
    for _ in centers:
        found = ends.uncovered(known, elbo) if known else ends.modes(elbo)[0][0]
        known.append(Gaussian(found.mean, np.eye(2)))
    means = np.sort([one.mean[0] for one in known])
    np.testing.assert_allclose(means, centers, atol=0.5)
    assert ends.uncovered(known, elbo) is None


def test_mixture_density_is_the_average_of_its_components():
    components = run(problems.two_modes()).components
    points = np.random.default_rng(0).normal(size=(5, 2))
    dense = [components.component(i).log_prob(points) for i in range(len(components.mean))]
    expected = np.log(np.mean(np.exp(dense), axis=0))
    np.testing.assert_allclose(mixture_log_prob(components, points), expected)


def test_moments_of_too_few_effective_draws_are_not_used():
    draws = np.random.default_rng(0).normal(size=(100, 3))
    even = weighted_gaussian(draws, np.zeros(100))
    np.testing.assert_allclose(even.mean, draws.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(even.covariance, np.cov(draws.T, bias=True), atol=1e-12)
    assert weighted_gaussian(draws, np.where(np.arange(100) < 5, 50.0, 0.0)) is None
    assert weighted_gaussian(draws, np.full(100, -np.inf)) is None


def test_non_finite_regions_do_not_affect_the_result():
    result = run(problems.fenced())
    np.testing.assert_allclose(result.gaussian.mean, [1.0, -2.0, 0.5], atol=0.05)
    np.testing.assert_allclose(result.gaussian.sd, 0.5, rtol=0.1)
    assert np.isfinite(result.elbo)


def never_finite_model():
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.factor("nothing", x * np.nan)


def test_without_a_finite_point_it_reports_failure_and_changes_nothing():
    case = problems.case(never_finite_model)
    variables = case.variables(FullRank())
    solution = Pathfinder().solve(jax.random.key(0), case.target, FullRank(), variables, case.batch)
    assert not solution.converged
    assert "no starting point" in solution.reason
    assert solution.variables is variables


def test_the_guides_location_is_the_first_start():
    # from U(-2, 2) every path ends in one of the modes at random; ten times narrower, near zero
    case = problems.two_modes()
    kernel = case.kernel()
    solver = Pathfinder(num_paths=1)
    for start in ([3.0, 3.0], [-3.0, -3.0]):
        result = solver.run(kernel, np.random.default_rng(0), np.array([start]))
        np.testing.assert_allclose(result.gaussian.mean, np.sign(start) * 4.0, atol=0.3)


def test_a_guide_without_a_gaussian_is_rejected():
    case = problems.logistic(dim=3)
    with pytest.raises(GuideError, match=r"FullRank.*got parameters of type dict"):
        Pathfinder().solve(
            jax.random.key(0), case.target, FullRank(), Variables({"w": 1.0}), case.batch
        )


@pytest.mark.parametrize("solver", [Pathfinder, BatchAndMatch])
@pytest.mark.parametrize("num_draws", [2, 5, -4])
def test_draws_must_come_in_pairs(solver, num_draws):
    with pytest.raises(VijaxError, match=f"num_draws: expected an even.*got {num_draws}"):
        solver(num_draws=num_draws)
