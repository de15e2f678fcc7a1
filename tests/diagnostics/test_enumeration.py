"""Few joint values of discrete sites are evaluated exhaustively: fits are exact."""

import itertools

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp

import vijax
from vijax.contracts import Site, Space
from vijax.diagnostics.enumeration import enumerate_states
from vijax.runtime.errors import GuideError

FIELDS = np.array([1.0, -0.5, 0.2], np.float32)
COUPLING = 2.5


def ising(fields):
    """Three coupled spins, of which the first two are nearly equal."""
    with numpyro.plate("spins", 3):
        up = numpyro.sample("up", dist.Bernoulli(0.5))
    spin = 2 * up - 1
    numpyro.factor("energy", fields @ spin + COUPLING * spin[0] * spin[1])


def exact():
    states = np.array(list(itertools.product((0, 1), repeat=3)))
    spins = 2 * states - 1
    joint = spins @ FIELDS + COUPLING * spins[:, 0] * spins[:, 1] + 3 * np.log(0.5)
    total = logsumexp(joint)
    return np.exp(joint - total) @ states, total


def test_a_mean_field_guide_is_corrected_to_the_exact_posterior(tmp_path):
    fitted = vijax.fit(ising, FIELDS, progress_bar=False)
    mean, log_evidence = exact()
    assert fitted.status == "corrected"
    assert "all 8 combinations" in fitted.report()
    assert "exact_shift" in fitted.report()
    found = fitted.sample(16384)["up"]
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=1e-3)  # none repeats
    summary = fitted.summary("up", num_draws=16384)
    np.testing.assert_allclose(summary["mean"], mean, atol=1e-3)
    evidence = fitted.log_evidence()
    assert abs(evidence.value - log_evidence) < 1e-5
    assert evidence.se < 1e-5
    assert evidence == fitted.log_evidence("enumeration")
    with pytest.raises(GuideError, match="draws of the posterior"):
        fitted.log_evidence("bridge")
    fitted.save(tmp_path / "fit.vijax")
    loaded = vijax.load(tmp_path / "fit.vijax", ising, FIELDS)
    np.testing.assert_array_equal(loaded.sample(100)["up"], fitted.sample(100)["up"])
    assert loaded.log_evidence() == evidence


class Function:
    """A kernel of a log density of `(num, dim)` indices."""

    def __init__(self, log_density, cardinality, dim, costly=False):
        site = Site("x", (dim,), (dim,), cardinality=cardinality)
        self.target = type("Target", (), {"space": Space((site,))})
        self.log_density, self.costly = log_density, costly

    def is_costly(self, num):
        return self.costly


@pytest.mark.parametrize(
    ("cardinality", "dim", "costly"), [(0, 1, False), (2, 15, False), (2, 500, False), (2, 3, True)]
)
def test_many_values_are_not_enumerated(cardinality, dim, costly):
    assert enumerate_states(Function(None, cardinality, dim, costly)) is None


def test_probabilities_are_exact_also_where_states_are_impossible():
    weights = np.arange(27.0).reshape(3, 3, 3)  # the first is zero

    def log_density(states):
        with np.errstate(divide="ignore"):
            return np.log(weights[tuple(states.astype(int).T)]) - 1e4

    found = enumerate_states(Function(log_density, 3, 3))
    np.testing.assert_allclose(found.probability, weights.ravel() / weights.sum(), rtol=1e-9)
    assert found.log_evidence == pytest.approx(np.log(weights.sum()) - 1e4, abs=1e-9)
    comparison = found.compare(found.sample(np.random.default_rng(0)))
    assert max(comparison.largest) < 1e-3


def test_nothing_is_possible():
    assert enumerate_states(Function(lambda x: np.full(len(x), -np.inf), 2, 2)) is None
