"""Bridge sampling against closed forms."""

import numpy as np
from scipy.stats import norm

from vijax.diagnostics.bridge_sampling import bridge_sampling

LOG_EVIDENCE = 3.2


def ratios(draws, scale):
    """`log p - log q` of a normal posterior with evidence, and a guide with another sd."""
    return LOG_EVIDENCE + norm.logpdf(draws) - norm.logpdf(draws, 0, scale)


def test_a_guide_with_light_tails():
    """Importance weights have infinite variance below a scale of `sqrt(1/2)`."""
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        of_guide = ratios(0.5 * rng.normal(size=1000), 0.5)
        found.append(bridge_sampling(of_guide, ratios(rng.normal(size=500), 0.5), 500))
    errors = np.array([one.log_evidence - LOG_EVIDENCE for one in found])
    claimed = np.array([one.se for one in found])
    assert abs(errors.mean()) < 5 * errors.std() / np.sqrt(200)
    np.testing.assert_allclose(claimed.mean(), errors.std(), rtol=5 / np.sqrt(2 * 200))


def test_correlated_draws_of_the_posterior():
    """Every draw four times: the standard error is that of a quarter as many."""
    rng, errors, claimed = np.random.default_rng(1), [], []
    for _ in range(200):
        draws = np.repeat(rng.normal(size=200), 4)
        one = bridge_sampling(ratios(2 * rng.normal(size=800), 2.0), ratios(draws, 2.0), 200)
        errors.append(one.log_evidence - LOG_EVIDENCE)
        claimed.append(one.se)
    np.testing.assert_allclose(np.mean(claimed), np.std(errors), rtol=5 / np.sqrt(2 * 200))


def test_chains_that_hardly_move():
    """Chains of twenty draws, nearly all from their start: the error is that of the starts."""
    rng, errors, claimed = np.random.default_rng(1), [], []
    chain = np.repeat(np.arange(100), 20)
    for _ in range(200):
        draws = np.where(rng.random(2000) < 0.9, rng.normal(size=100)[chain], rng.normal(size=2000))
        of_guide = ratios(0.5 * rng.normal(size=1000), 0.5)
        one = bridge_sampling(of_guide, ratios(draws, 0.5), 100, chain)
        errors.append(one.log_evidence - LOG_EVIDENCE)
        claimed.append(one.se)
    np.testing.assert_allclose(np.mean(claimed), np.std(errors), rtol=5 / np.sqrt(2 * 200))


def test_a_guide_without_a_part_of_the_posterior_and_draws_outside_of_it():
    """A uniform guide on (-1, 1) and a uniform posterior on (0, 3): they share (0, 1)."""
    rng = np.random.default_rng(2)
    inside = np.where(rng.uniform(-1, 1, 4000) > 0, np.log(2 / 3), -np.inf)
    of_posterior = np.where(rng.uniform(0, 3, 4000) < 1, np.log(2 / 3), np.inf)
    one = bridge_sampling(inside, of_posterior, 4000)
    assert abs(one.log_evidence) < 5 * one.se
    assert one.se < 0.05


def test_equal_densities_have_no_error():
    one = bridge_sampling(np.full(100, LOG_EVIDENCE), np.full(50, LOG_EVIDENCE), 50)
    np.testing.assert_allclose(one, (LOG_EVIDENCE, 0.0), atol=1e-9)
