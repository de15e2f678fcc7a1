"""Short chains estimate the target's moments, and detect when they have not converged."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from tests.solvers.problems import case, gaussian
from vijax.diagnostics import short_chains as markov
from vijax.diagnostics.chain_check import check, evaluation_budget, tail_shapes
from vijax.diagnostics.psis import tail_shape


def uniform(num):
    return np.full(num, -np.log(num))


def checked(kernel, draws, labels=None, correct=True, seed=0, tolerance=0.05):
    rng, budget = np.random.default_rng(seed), evaluation_budget(kernel, correct)
    return check(kernel, draws, uniform(len(draws)), labels, rng, tolerance, correct, budget)


def test_agrees_with_an_exact_guide():
    known = gaussian(6, 30.0)
    rng = np.random.default_rng(1)
    draws = rng.multivariate_normal(known.mean, known.covariance, 4000)
    found, _ = checked(known.case.kernel(), draws, correct=False)
    assert found.converged
    assert found.agrees(0.05)
    assert found.error < 0.02


@pytest.mark.parametrize(("shift", "stretch"), [(0.5, 1.0), (0.0, 0.6), (1.0, 1.5)])
def test_corrects_an_inaccurate_guide(shift, stretch):
    known = gaussian(6, 30.0)
    rng = np.random.default_rng(2)
    sd = np.sqrt(np.diag(known.covariance))
    draws = rng.multivariate_normal(known.mean + shift * sd, stretch**2 * known.covariance, 4000)
    found, states = checked(known.case.kernel(), draws)
    assert found.converged
    assert not found.agrees(0.05)
    error = 5 * np.maximum(found.mean_se, 1 / np.sqrt(len(states.points)))
    assert np.all(np.abs(states.points.mean(0) - known.mean) / sd < error)
    assert np.all(np.abs(np.log(states.points.std(0) / sd)) < 5 * np.maximum(found.log_sd_se, 0.01))
    np.testing.assert_allclose(
        found.mean, (states.points.mean(0) - draws.mean(0)) / states.points.std(0), atol=1e-9
    )


def test_standard_errors_match_the_variation_of_repeats():
    known = gaussian(3, 30.0)
    rng = np.random.default_rng(3)
    draws = rng.multivariate_normal(known.mean, known.covariance, 4000)
    kernel = known.case.kernel()
    runs = [checked(kernel, draws, seed=seed)[0] for seed in range(12)]
    means = np.array([run.mean for run in runs])
    stated = np.array([run.mean_se for run in runs]).mean(0)
    ratio = means.std(0, ddof=1) / stated
    assert np.all((ratio > 0.5) & (ratio < 1.7))


def test_chains_on_a_long_ridge_have_not_converged():
    def banana():
        x = numpyro.sample("x", dist.Normal(1.0, 10.0**0.5))
        numpyro.sample("y", dist.Normal(x**2, 0.1**0.5))

    rng = np.random.default_rng(4)
    draws = rng.normal([0.2, 0.2], 0.3, (4000, 2))
    found, _ = checked(case(banana).kernel(), draws)
    assert not found.converged


def two_modes(center, share):
    """A kernel of equal unit normals at -center and center; draws with a share of the second."""

    def two(center):
        x = numpyro.sample("x", dist.Normal(0.0, 100.0).expand([2]).to_event(1))
        parts = [dist.Normal(s * center, 1.0).log_prob(x).sum() for s in (-1, 1)]
        numpyro.factor("target", jnp.logaddexp(parts[0], parts[1]))

    rng = np.random.default_rng(5)
    labels = (rng.random(4000) < share).astype(int)
    draws = np.where(labels[:, None], center, -center) + rng.normal(size=(4000, 2))
    return case(two, center).kernel(), draws, labels


def test_modes_are_not_expected_to_mix():
    kernel, draws, labels = two_modes(np.array([3.0, 4.0]), 0.5)
    assert checked(kernel, draws, labels)[0].agrees(0.05)
    assert not checked(kernel, draws)[0].converged


@pytest.mark.parametrize("crossed", [0, 2, 20])
def test_modes_between_which_chains_cross_are_expected_to_mix(crossed):
    """Of 200 chains, half of them in each mode, some are in the other one at the end."""
    kernel, draws, labels = two_modes(np.array([3.0, 4.0]), 0.5)
    order = np.argsort(labels, kind="stable")
    rows = np.concatenate([order[:100], order[-100:]])
    state = markov.initialize(kernel, draws[rows], labels[rows])
    # they forget where in its mode they have started, not in which one
    ends = np.concatenate([state.states[:100][::-1], state.states[100:][::-1]])
    ends[:crossed] *= -1
    state = markov.join_modes(state._replace(states=ends))
    assert np.all(state.modes == labels[rows]) == (crossed < 10)
    assert (markov.start_correlation(state).max() > 0.5) == (crossed >= 10)


def test_chains_that_cannot_start_are_dropped():
    def half():
        numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("wall", jnp.where(numpyro.sample("y", dist.Normal(0, 1)) > 0, 0, -jnp.inf))

    rng = np.random.default_rng(6)
    kernel = case(half).kernel()
    starts = rng.normal(size=(300, 2))
    state = markov.initialize(kernel, starts, np.zeros(300, int))
    assert len(state.states) == np.sum(starts[:, 1] > 0)
    assert checked(kernel, np.concatenate([starts[:, :1], -np.abs(starts[:, 1:])], 1)) is None


def test_tail_shapes_distinguish_heavy_from_light():
    rng = np.random.default_rng(7)
    points = np.column_stack([rng.normal(size=4000), rng.standard_t(1.5, 4000)])
    light, heavy = tail_shapes(points)
    assert light < 0.2
    assert heavy > 0.5
    assert tail_shape(np.ones(100)) == -np.inf


def test_chains_within_a_small_budget_are_inconclusive():
    known = gaussian(6, 30.0)
    kernel = known.case.kernel()
    draws = np.random.default_rng(4).multivariate_normal(known.mean, known.covariance, 4000)
    rng, weights = np.random.default_rng(0), uniform(4000)
    found, _ = check(kernel, draws, weights, None, rng, 0.05, True, 64 * 64)
    assert (found.num_chains, found.too_short, found.converged) == (64, True, False)
    assert not found.agrees(0.05)
    assert found.consistent(0.05)  # as the guide is exact
    sd = np.sqrt(np.diag(known.covariance))
    found, _ = check(kernel, draws + sd, weights, None, rng, 0.05, True, 64 * 64)
    assert not found.consistent(0.05)
    assert check(kernel, draws, weights, None, rng, 0.05, True, 64 * 63) is None


def test_the_budget_is_larger_where_draws_need_correction():
    class Large:
        num_elements = 2**22

    assert evaluation_budget(Large, True) > evaluation_budget(Large, False) >= 2**10
