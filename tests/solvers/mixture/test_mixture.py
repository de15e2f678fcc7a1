"""Mixtures: the bound against evidence in closed form and scikit-learn, ascent, moves."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.mixture import BayesianGaussianMixture as Peer

from vijax.estimators.coordinates import Coordinates
from vijax.estimators.forms import FORMS, GaussianPrior, noise_features, prior_components
from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.families.normal_wishart import NormalWishart
from vijax.solvers.mixture import programs
from vijax.solvers.mixture.fit import Problem, fit
from vijax.solvers.mixture.gaussian import FullGaussian
from vijax.solvers.mixture.mixture import DirichletWeights, Mixture, Sticks
from vijax.solvers.mixture.rows import rows_of
from vijax.solvers.mixture.start import assigned
from vijax.solvers.mixture.sweep import ascend, bound

RNG = np.random.default_rng(0)
CENTERS = np.array([[-4.0, 0.0], [0.0, 3.0], [4.0, 0.0], [0.0, -3.0]])
LABELS = RNG.integers(4, size=300)
DATA = CENTERS[LABELS] + RNG.normal(size=(300, 2)) * [1.0, 0.5]
CENTERED = Coordinates(np.zeros(2), np.eye(2), np.eye(2))
SCALES = {"full": np.cov(DATA.T), "diag": np.var(DATA, axis=0), "spherical": np.array(3.0)}
SCALES["tied"] = SCALES["full"]


def prior(form, count, sticks=False):
    gaussian = GaussianPrior(np.array([0.5, -0.5]), 0.7, 3.5, SCALES[form])
    concentration = np.full(count, 0.4)
    weights = Sticks(Beta(np.ones(count), concentration))
    weights = weights if sticks else DirichletWeights(Dirichlet(concentration))
    return Mixture(weights, prior_components(form, gaussian, count, CENTERED), sticks)


def problem(form, count, sticks=False, errors=0.0):
    offset = noise_features(form, errors, CENTERED)
    return Problem(prior(form, count, sticks), count, DATA, offset, np.random.RandomState(0))


def statistics(of, labels):
    return assigned(of.components, DATA, labels, of.num_components, of.offset)


def log_evidence(form):
    """Of one component, as the product of one-step predictive Student's t distributions."""
    total, mean, kappa = 0.0, np.array([0.5, -0.5]), 0.7
    freedom, scale = 3.5, np.array(SCALES[form], float)
    for x in DATA:
        ratio, error = (kappa + 1) / kappa, x - mean
        if form in ("full", "tied"):
            df = freedom - 1
            t = scipy.stats.multivariate_t(mean, scale * ratio / df, df)
            total += t.logpdf(x)
            scale = scale + np.outer(error, error) / ratio
        elif form == "diag":
            t = scipy.stats.t(freedom, mean, np.sqrt(scale * ratio / freedom))
            total += t.logpdf(x).sum()
            scale = scale + error**2 / ratio
        else:  # one precision for both columns, with twice the degrees of freedom
            shape = scale * ratio / freedom * np.eye(2)
            total += scipy.stats.multivariate_t(mean, shape, 2 * freedom).logpdf(x)
            scale = scale + (error @ error) / 2 / ratio
        mean, kappa, freedom = mean + error / (kappa + 1), kappa + 1, freedom + 1
    return total


@pytest.mark.parametrize("form", FORMS)
def test_bound_of_one_component_is_the_evidence(form):
    of = problem(form, 1, sticks=True)
    found = fit(of, statistics(of, np.zeros(300, int)), tolerance=1e-9, max_sweeps=5)
    weights = scipy.special.betaln(301, 0.4) - scipy.special.betaln(1, 0.4)  # E v^300
    np.testing.assert_allclose(found.elbo, log_evidence(form) + weights, rtol=1e-11)


KINDS = [
    pytest.param(True, id="sticks", marks=pytest.mark.slow),
    pytest.param(False, id="dirichlet"),
]


@pytest.mark.parametrize(
    "sticks", [pytest.param(k, marks=[pytest.mark.slow] * (k == "dirichlet")) for k in KINDS]
)
def test_sweeps_are_those_of_scikit_learn(sticks):
    kind = "dirichlet_process" if sticks else "dirichlet_distribution"
    peer = Peer(
        n_components=4,
        weight_concentration_prior_type=kind,
        weight_concentration_prior=0.4,
        mean_prior=[0.5, -0.5],
        mean_precision_prior=0.7,
        degrees_of_freedom_prior=3.5,
        covariance_prior=SCALES["full"],
        reg_covar=0.0,
    )
    labels = RNG.integers(4, size=300)
    peer._check_parameters(DATA)
    peer._initialize(DATA, np.eye(4)[labels])
    of = problem("full", 4, sticks)
    unsorted = Mixture(of.prior.weights, of.prior.components)
    found = programs.ascend(of.rows, statistics(of, labels), unsorted, -np.inf, 21, -np.inf)
    for _ in range(20):
        peer._m_step(DATA, peer._e_step(DATA)[1])
    law = found.posterior.components.law
    np.testing.assert_allclose(law.mean, peer.means_, rtol=1e-9)
    np.testing.assert_allclose(law.kappa, peer.mean_precision_, rtol=1e-9)
    scale = peer.covariances_ * peer.degrees_of_freedom_[:, None, None]
    weights = peer.weight_concentration_
    posterior = Mixture(
        Sticks(Beta(*weights)) if sticks else DirichletWeights(Dirichlet(weights)),
        FullGaussian(
            NormalWishart(peer.means_, peer.mean_precision_, peer.degrees_of_freedom_, scale)
        ),
    )
    np.testing.assert_allclose(found.elbo, bound(of.rows, of.prior, posterior), rtol=1e-12)
    shares, scores = programs.responsibilities(of.rows, found.coefficients)
    ours = shares.swapaxes(1, 2).reshape(-1, 4)[:300]
    np.testing.assert_allclose(ours, np.exp(peer._e_step(DATA)[1]), atol=1e-9)
    np.testing.assert_allclose(
        scores.ravel()[:300], scipy.special.logsumexp(peer._estimate_weighted_log_prob(DATA), 1)
    )


@pytest.mark.parametrize(("form", "sticks"), [*((form, True) for form in FORMS), ("full", False)])
def test_the_bound_never_falls(form, sticks):
    of = problem(form, 4, sticks, errors=0.01)
    start = statistics(of, RNG.integers(4, size=300))
    found = fit(of, start, tolerance=1e-6, max_sweeps=500)
    assert found.converged
    assert len(found.elbos) > 10
    assert np.diff(found.elbos).min() > -1e-8 * abs(found.elbo)


def test_blocks_and_empty_rows_change_nothing(monkeypatch):
    of = problem("full", 4)
    start = statistics(of, LABELS)
    whole = programs.ascend(of.rows, start, of.prior, -np.inf, 5, 0.0)
    monkeypatch.setattr("vijax.solvers.mixture.rows._CACHE", 1)  # the smallest blocks
    rows = rows_of(DATA, of.components, of.offset, 4)
    assert rows.blocks.shape == (3, 3, 128)
    parts = programs.ascend(rows, start, of.prior, -np.inf, 5, 0.0)
    np.testing.assert_allclose(parts.elbos[:5], whole.elbos[:5], rtol=1e-13)


@pytest.mark.parametrize(
    "labels",
    [
        np.where(LABELS == 1, 0, LABELS),  # two clusters in one component, a component without
        np.where(DATA[:, 0] > 3.9, 1, np.where(LABELS == 1, 0, LABELS)),  # and one in two
    ],
    ids=["free", "used"],
)
def test_moves_leave_a_local_optimum(labels):
    of = problem("full", 4)
    true = fit(of, statistics(of, LABELS), tolerance=1e-6, max_sweeps=500)
    start = statistics(of, labels)
    stuck = fit(of, start, tolerance=1e-6, max_sweeps=500)
    assert stuck.elbo < true.elbo - 20
    moved = fit(of, start, tolerance=1e-6, max_sweeps=500, max_moves=10)
    assert moved.num_moves >= 1
    assert np.diff(moved.elbos).min() > -1e-8 * abs(moved.elbo)
    np.testing.assert_allclose(moved.elbo, true.elbo, atol=1e-3)


@pytest.mark.parametrize(
    "form", [pytest.param(one, marks=pytest.mark.slow) if one != "full" else one for one in FORMS]
)
def test_programs_lower(form):
    of = problem(form, 4, sticks=True)
    start = statistics(of, LABELS)
    with jax.enable_x64(True):
        for function, args in (
            (ascend, (of.rows, start, of.prior, -np.inf, 3, 0.0)),
            (programs.refine.function, (of.rows, np.stack([start, start]), of.prior, 3)),
            (programs.responsibilities.function, (of.rows, start)),
        ):
            for platform in ("cuda", "tpu"):
                jax.jit(function).trace(*args).lower(lowering_platforms=(platform,))
