"""Chains over discrete sites find values that a guide does not cover, and no others."""

import types

import numpy as np
import pytest
from scipy import stats

from vijax.contracts import Site, Space
from vijax.diagnostics.discrete_chains import missed_values

UNIFORM = np.full(4000, -np.log(4000))


class Function:
    """A kernel of a log density of `(num, dim)` indices."""

    def __init__(self, log_density, dim, cardinality, num_elements=100):
        site = Site("x", (dim,), (dim,), cardinality=cardinality)
        self.target = types.SimpleNamespace(space=Space((site,)))
        self.dim, self.num_elements, self.function = dim, num_elements, log_density

    def log_density(self, points):
        assert (points >= 0).all()
        with np.errstate(divide="ignore"):
            return self.function(points)

    def label(self, coordinate):
        return f"x[{coordinate}]"


def found(log_density, draw, dim, cardinality, keys=3, prior=None):
    kernel = Function(log_density, dim, cardinality)
    rngs = map(np.random.default_rng, range(keys))
    draws = ((rng, draw(rng).astype(float)) for rng in rngs)
    return [
        missed_values(kernel, at, UNIFORM, at[:0] if prior is None else prior, rng)
        for rng, at in draws
    ]


def bernoulli(p):
    def log_density(x):
        return x @ np.log(p) + (1 - x) @ np.log1p(-p)

    def draw(rng):
        return rng.random((4000, len(p))) < p

    return log_density, draw


@pytest.mark.parametrize("p", [[0.5], [0.1, 0.5, 0.9], [0.001, 0.999, 0.3, 0.3]], ids=str)
def test_an_exact_guide_misses_nothing(p):
    assert found(*bernoulli(np.array(p)), len(p), 2, keys=5) == [""] * 5


def test_a_rare_value_that_the_guide_never_draws_is_missed():
    log_density, _ = bernoulli(np.array([0.4, 0.01]))

    def draw(rng):
        return np.stack([rng.random(4000) < 0.4, np.zeros(4000)], axis=1)

    reasons = found(log_density, draw, 2, 2)
    assert all("'x[1]'" in reason and "probability of 1 %" in reason for reason in reasons)


def test_a_mode_far_from_the_guide_is_missed():
    def log_density(x):  # all zero or all one
        return -4.0 * np.minimum(x.sum(axis=1), 6 - x.sum(axis=1))

    texts = found(log_density, lambda rng: rng.random((4000, 6)) < 0.018, 6, 2)
    assert all("differ from the guide" in text for text in texts)


def test_a_swap_that_the_guide_misses_is_found():
    """One of two near-duplicates is in the model: neither leaves before the other has entered."""
    others, draw_others = bernoulli(np.full(4, 0.2))

    def log_density(x):
        return np.where(x[:, 0] + x[:, 1] == 1, 0.0, -30.0) + others(x[:, 2:])

    def draw(share):
        def of(rng):
            first = rng.random((4000, 1)) < share
            return np.concatenate([first, ~first, draw_others(rng)], axis=1)

        return of

    assert all("differ from the guide" in text for text in found(log_density, draw(1), 6, 2))
    assert found(log_density, draw(0.5), 6, 2) == [""] * 3


def test_unordered_values_are_compared_too():
    p = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])

    def log_density(x):
        return np.log(p)[np.arange(2), x.astype(int)].sum(axis=1)

    def draw(p):
        return lambda rng: np.stack([rng.choice(3, 4000, p=one) for one in p], axis=1)

    assert found(log_density, draw(p), 2, 3) == [""] * 3
    swapped = np.array([[0.2, 0.5, 0.3], [0.45, 0.4, 0.15]])  # the same mean
    assert all("x[1]" in text for text in found(log_density, draw(swapped), 2, 3))


COUNTS = np.arange(2000)
BROAD = stats.nbinom(2, 0.02)  # mean 98
LOW, HIGH = stats.poisson(5), stats.poisson(50)


@pytest.mark.parametrize(
    ("log_density", "guide", "agrees"),
    [
        (BROAD.logpmf(COUNTS), BROAD, True),
        (BROAD.logpmf(COUNTS), stats.poisson(98), False),
        (np.logaddexp(LOW.logpmf(COUNTS), HIGH.logpmf(COUNTS)), LOW, False),
    ],
    ids=["exact", "narrow", "two modes"],
)
def test_counts(log_density, guide, agrees):
    def drawn(rng):
        return guide.rvs((4000, 1), random_state=rng)

    texts = found(lambda x: log_density[np.minimum(x[:, 0].astype(int), 1999)], drawn, 1, 0)
    assert all((not text) == agrees for text in texts)


def test_a_count_that_the_guide_takes_for_a_constant():
    """All draws are 0, half of the mass is around 50: only the prior's draws show it."""
    table = np.logaddexp(np.where(COUNTS == 0, 0.0, -np.inf), HIGH.logpmf(COUNTS))
    prior = np.random.default_rng(0).choice([0, 48, 52], (64, 1))
    texts = found(
        lambda x: table[np.minimum(x[:, 0].astype(int), 1999)],
        lambda rng: np.zeros((4000, 1)),
        1,
        0,
        prior=prior,
    )
    assert all("differ from the guide" in text for text in texts)


def test_counts_with_a_known_sum_move_together():
    guide = stats.binom(100, 0.3)
    table = guide.logpmf(np.arange(101))

    def log_density(x):
        other = 50.0 * np.abs(x.sum(axis=1) - 100)
        return table[np.minimum(x[:, 0].astype(int), 100)] - other

    def drawn(rng):
        first = guide.rvs((4000, 1), random_state=rng)
        return np.concatenate([first, 100 - first], axis=1)

    assert found(log_density, drawn, 2, 0) == [""] * 3


def test_what_is_not_known_is_said():
    log_density, draw = bernoulli(np.full(8, 0.3))
    draws, rng = draw(np.random.default_rng(0)).astype(float), np.random.default_rng(1)
    costly = Function(log_density, 8, 2, num_elements=2**22)
    assert "takes too long" in missed_values(costly, draws, UNIFORM, draws[:0], rng)

    def parity(x):  # no single change or swap leads from one possible state to another
        return np.where((x == x[:, :1]).all(axis=1), 0.0, -np.inf)

    assert "possible" in missed_values(Function(parity, 8, 2), draws * 0, UNIFORM, draws[:0], rng)
