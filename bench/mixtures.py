"""Gaussian mixtures beside scikit-learn: time per iteration, and the bound with K unknown.

Both have the same priors. The evidence lower bound is that of the posterior's parameters with all
constants, recomputed for scikit-learn, whose own bound lacks them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture as Peer

from bench import _report
from vijax.estimators import BayesianGaussianMixture
from vijax.estimators.coordinates import Coordinates
from vijax.estimators.forms import GaussianPrior, noise_features, prior_components
from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.families.normal_wishart import NormalWishart
from vijax.solvers.mixture import programs
from vijax.solvers.mixture.fit import Problem
from vijax.solvers.mixture.gaussian import FullGaussian
from vijax.solvers.mixture.mixture import DirichletWeights, Mixture, Sticks
from vijax.solvers.mixture.start import assigned
from vijax.solvers.mixture.sweep import HISTORY, bound

SWEEPS = 3  # iterations of scikit-learn that are timed
RESTARTS = 50
TYPES = ("dirichlet_process", "dirichlet_distribution")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large data")
    parser.add_argument("--small", type=Path, help="folder with faithful.csv and galaxies.csv")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    results = {
        "sweeps": [
            sweeps(rows, columns, components)
            for rows, columns, components in (
                (1000, 5, 3),
                (options.rows, 2, 20),
                (options.rows, 10, 20),
            )
        ],
        "restarts": [
            restarts(name, *case, kind)
            for name, case in cases(options.small).items()
            for kind in TYPES
        ],
    }
    for rows in results.values():
        _report.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    if options.rows == parser.get_default("rows"):
        _report.save("mixtures", results)


def sweeps(num_rows: int, num_columns: int, num_components: int) -> dict[str, Any]:
    """The same iterations from the same responsibilities."""
    rng = np.random.RandomState(0)
    centers = 4 * rng.normal(size=(num_components, num_columns))
    data = centers[rng.randint(num_components, size=num_rows)]
    data = data + rng.normal(size=data.shape)
    labels = rng.randint(num_components, size=num_rows)
    labels[: num_rows // 2] = np.argmin(
        np.stack([((data[: num_rows // 2] - c) ** 2).sum(1) for c in centers]), axis=0
    )
    peer = peer_at(data, labels, num_components)
    seconds = []
    for _ in range(SWEEPS):
        start = time.perf_counter()
        log_norm, log_shares = peer._e_step(data)
        peer._m_step(data, log_shares)
        peer._compute_lower_bound(log_shares, log_norm)
        seconds.append(time.perf_counter() - start)
    prior, coordinates = prior_of(peer, data)
    offset = noise_features("full", peer.reg_covar, coordinates)
    problem = Problem(prior, peer.n_components, coordinates.points(data), offset, rng)
    statistics = assigned(FullGaussian, problem.data, labels, num_components, offset)
    start = time.perf_counter()
    programs.ascend(problem.rows, statistics, prior, -np.inf, 1, -np.inf)
    first = time.perf_counter() - start
    found = programs.ascend(problem.rows, statistics, prior, -np.inf, SWEEPS + 1, -np.inf)
    ours, count = [], HISTORY if num_rows < 100_000 else SWEEPS + 1
    for _ in range(3):
        start = time.perf_counter()
        programs.ascend(problem.rows, statistics, prior, -np.inf, count, -np.inf)
        ours.append((time.perf_counter() - start) / count)
    elbo = bound(problem.rows, prior, posterior_of(peer, coordinates))
    return {
        "rows": num_rows,
        "columns": num_columns,
        "components": num_components,
        "compile": first - min(ours),
        "vijax": min(ours),
        "scikit-learn": min(seconds),
        "ratio": min(seconds) / min(ours),
        "relative difference of bounds": abs(float(found.elbo) - elbo) / abs(elbo),
    }


def peer_at(data: np.ndarray, labels: np.ndarray, num_components: int) -> Peer:
    """scikit-learn's mixture after its update from hard assignments."""
    peer = Peer(
        n_components=num_components,
        reg_covar=0.0,
        weight_concentration_prior_type="dirichlet_distribution",
    )
    peer._check_parameters(data)
    shares = np.zeros((len(data), num_components))
    shares[np.arange(len(data)), labels] = 1
    peer._initialize(data, shares)
    return peer


def prior_of(peer: Peer, data: np.ndarray) -> tuple[Mixture, Coordinates]:
    """The prior of scikit-learn's mixture with full covariances."""
    coordinates = Coordinates.of(data, whiten=True)
    count = peer.n_components
    gaussian = GaussianPrior(
        peer.mean_prior_,
        peer.mean_precision_prior_,
        peer.degrees_of_freedom_prior_,
        peer.covariance_prior_,
    )
    concentration = np.full(count, peer.weight_concentration_prior_)
    weights: Any = DirichletWeights(Dirichlet(concentration))
    if peer.weight_concentration_prior_type == "dirichlet_process":
        weights = Sticks(Beta(np.ones(count), concentration))
    return Mixture(weights, prior_components("full", gaussian, count, coordinates)), coordinates


def posterior_of(peer: Peer, coordinates: Coordinates) -> Mixture:
    """The posterior of scikit-learn's mixture with full covariances."""
    freedom = peer.degrees_of_freedom_
    scale = coordinates.covariance(peer.covariances_ * freedom[:, None, None])
    law = NormalWishart(coordinates.points(peer.means_), peer.mean_precision_, freedom, scale)
    weights: Any
    if peer.weight_concentration_prior_type == "dirichlet_process":
        weights = Sticks(Beta(*peer.weight_concentration_))
    else:
        weights = DirichletWeights(Dirichlet(peer.weight_concentration_))
    return Mixture(weights, FullGaussian(law))


def full_elbo(peer: Peer, data: np.ndarray) -> float:
    """The evidence lower bound of scikit-learn's posterior with full covariances, in nats.

    Of the model without `reg_covar`, with optimal responsibilities.
    """
    prior, coordinates = prior_of(peer, data)
    offset = noise_features("full", 0.0, coordinates)
    problem = Problem(
        prior, peer.n_components, coordinates.points(data), offset, np.random.RandomState(0)
    )
    elbo = bound(problem.rows, prior, posterior_of(peer, coordinates))
    return float(elbo) + len(data) * coordinates.log_det


def restarts(name: str, data: np.ndarray, num_components: int, prior_type: str) -> dict[str, Any]:
    """One fit beside the best of many restarts of scikit-learn."""
    options: dict[str, Any] = {
        "n_components": num_components,
        "max_iter": 2000,
        "reg_covar": 0.0,
        "weight_concentration_prior_type": prior_type,
    }
    start = time.perf_counter()
    peers = [Peer(random_state=seed, **options).fit(data) for seed in range(RESTARTS)]
    of_peers = time.perf_counter() - start
    jax.clear_caches()
    seconds = []
    for _ in range(2):  # the first one compiles
        start = time.perf_counter()
        found = BayesianGaussianMixture(random_state=0, **options).fit(data)
        seconds.append(time.perf_counter() - start)
    best = max(full_elbo(peer, data) for peer in peers)
    return {
        "data": name,
        "weights": prior_type,
        "vijax": found.lower_bound_,
        "best of scikit-learn": best,
        "in use": found.n_components_in_use_,
        "first, s": seconds[0],
        "warm, s": seconds[1],
        f"scikit-learn, {RESTARTS} restarts, s": of_peers,
    }


def cases(folder: Path | None) -> dict[str, tuple[np.ndarray, int]]:
    """Data and the largest number of components; real data only from a folder that has them."""
    found = {"asterisk": (asterisk(), 20)}
    for name in () if folder is None else ("faithful", "galaxies"):
        table = np.genfromtxt(folder / f"{name}.csv", delimiter=",", skip_header=1)
        found[name] = table[:, 1:], 10
    return found


def asterisk(num_rows: int = 800, arms: int = 8) -> np.ndarray:
    """Rows of eight long clusters in the form of an asterisk, `(N, 2)`."""
    rng = np.random.default_rng(0)
    angles = 2 * np.pi * rng.integers(arms, size=num_rows) / arms
    along, across = rng.normal(5.0, 1.2, num_rows), rng.normal(0.0, 0.2, num_rows)
    direction = np.stack([np.cos(angles), np.sin(angles)])
    normal = np.stack([-np.sin(angles), np.cos(angles)])
    return (along * direction + across * normal).T
