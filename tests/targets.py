"""Posteriors with closed-form answers.

`TARGETS` names them; `problem("regression")` gives a `Problem` with the model, its arguments and
the exact mean, covariance and log evidence, all computed in NumPy and SciPy, double precision.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import betaln, digamma, gammaln, polygamma
from scipy.stats import multivariate_normal

from vijax.contracts import Batch, Target
from vijax.model import Arguments, build, split


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A model, its data and exact properties of its posterior.

    Attributes:
        model: the NumPyro model function.
        args: its arguments.
        log_evidence: exact log marginal likelihood.
        mean: exact posterior mean of the constrained coordinates, sites in order, `(n,)`.
        covariance: their exact covariance `(n, n)`.
        z_mean: exact mean in unconstrained space `(dim,)`, if known.
        z_covariance: exact covariance in unconstrained space `(dim, dim)`, if known.
        gaussian: whether the posterior is Gaussian in unconstrained space.
    """

    model: Callable
    args: tuple
    log_evidence: float
    mean: np.ndarray
    covariance: np.ndarray
    z_mean: np.ndarray | None = None
    z_covariance: np.ndarray | None = None
    gaussian: bool = False

    @functools.cached_property
    def _split(self) -> tuple[Arguments, dict]:
        return split(self.model, self.args, {})

    @property
    def arguments(self) -> Arguments:
        return self._split[0]

    @property
    def batch(self) -> Batch:
        return Batch(self._split[1])

    @property
    def target(self) -> Target:
        return build(self.model, self.arguments)


def _correlated(loc, scale_tril):
    numpyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale_tril))


def correlated(dim: int) -> Problem:
    """A correlated Gaussian with standard deviations from 0.3 to 3."""
    rng = np.random.default_rng(dim)
    mean = rng.normal(size=dim)
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    covariance = (rotation * np.geomspace(0.09, 9, dim)) @ rotation.T
    args = (mean.astype(np.float32), np.linalg.cholesky(covariance).astype(np.float32))
    return Problem(_correlated, args, 0.0, mean, covariance, mean, covariance, gaussian=True)


def _normal_mean(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def normal_mean() -> Problem:
    """Normal data with known variance, a normal prior on the mean."""
    y = np.asarray([0.3, 1.9, -0.4, 2.2, 1.1], np.float32)
    n = len(y)
    precision = 1 / 4 + n / 2.25
    mean = np.asarray([y.astype(float).sum() / 2.25 / precision])
    covariance = np.asarray([[1 / precision]])
    evidence = multivariate_normal(np.zeros(n), 2.25 * np.eye(n) + 4).logpdf(y)
    return Problem(_normal_mean, (y,), evidence, mean, covariance, mean, covariance, gaussian=True)


def _regression(x, y):
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 1.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(alpha + x @ beta, 1.5), obs=y)


def regression() -> Problem:
    """Bayesian linear regression with known noise: an intercept and two slopes."""
    rng = np.random.default_rng(0)
    x = rng.normal(loc=[0.6, 0.0], size=(8, 2))
    y = 0.5 + x @ [1.0, -0.7] + 1.5 * rng.normal(size=8)
    x, y = x.astype(np.float32), y.astype(np.float32)
    design = np.column_stack([np.ones(8), x]).astype(float)
    covariance = np.linalg.inv(np.eye(3) + design.T @ design / 2.25)
    mean = covariance @ design.T @ y / 2.25
    evidence = multivariate_normal(np.zeros(8), 2.25 * np.eye(8) + design @ design.T).logpdf(y)
    return Problem(_regression, (x, y), evidence, mean, covariance, mean, covariance, gaussian=True)


def _hierarchy(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("groups", y.shape[0]):
        level = numpyro.sample("level", dist.Normal(mu, 0.8))
        slope = numpyro.sample("slope", dist.Normal(0.5 * mu, 1.0))
        means = jnp.stack([level, level + slope], axis=-1)
        numpyro.sample("y", dist.Normal(means, 1.2).to_event(1), obs=y)


def hierarchy() -> Problem:
    """Two groups, each with a level and a slope centered at a shared mean."""
    y = np.asarray([[1.4, 0.9], [-0.6, 0.8]], np.float32)
    prior = np.diag([1.0, 0.8**-2, 0.8**-2, 1.0, 1.0])
    prior[0, 0] += 2 * 0.8**-2 + 2 * 0.25
    prior[0, 1:] = prior[1:, 0] = [-(0.8**-2)] * 2 + [-0.5] * 2
    design = np.asarray([[0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 1]], float)
    covariance = np.linalg.inv(prior + design.T @ design / 1.44)
    mean = covariance @ design.T @ y.ravel() / 1.44
    marginal = 1.44 * np.eye(4) + design @ np.linalg.inv(prior) @ design.T
    evidence = multivariate_normal(np.zeros(4), marginal).logpdf(y.ravel())
    return Problem(_hierarchy, (y,), evidence, mean, covariance, mean, covariance, gaussian=True)


def _beta_binomial(n, k):
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    numpyro.sample("k", dist.Binomial(n, p), obs=k)


def beta_binomial() -> Problem:
    """A binomial count with a beta prior on the probability."""
    n, k = 12, 7
    a, b = 2 + k, 3 + n - k
    choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return Problem(
        _beta_binomial,
        (n, np.asarray(k, np.float32)),
        log_evidence=choose + betaln(a, b) - betaln(2, 3),
        mean=np.asarray([a / (a + b)]),
        covariance=np.asarray([[a * b / (a + b) ** 2 / (a + b + 1)]]),
        z_mean=np.asarray([digamma(a) - digamma(b)]),
        z_covariance=np.asarray([[polygamma(1, a) + polygamma(1, b)]]),
    )


def _gamma_poisson(y):
    rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def gamma_poisson() -> Problem:
    """Poisson counts with a gamma prior on the rate."""
    y = np.asarray([2, 0, 3, 1, 4, 2], np.int32)
    a, b = 3 + y.sum(), 2.0 + len(y)
    evidence = 3 * np.log(2) - gammaln(3) - gammaln(y + 1).sum() + gammaln(a) - a * np.log(b)
    return Problem(
        _gamma_poisson,
        (y,),
        log_evidence=evidence,
        mean=np.asarray([a / b]),
        covariance=np.asarray([[a / b**2]]),
        z_mean=np.asarray([digamma(a) - np.log(b)]),
        z_covariance=np.asarray([[polygamma(1, a)]]),
    )


def _dirichlet_multinomial(counts):
    p = numpyro.sample("p", dist.Dirichlet(jnp.full(counts.shape[0], 1.5)))
    numpyro.sample("counts", dist.Multinomial(total_count=20, probs=p), obs=counts)


def dirichlet_multinomial() -> Problem:
    """Multinomial counts with a Dirichlet prior; in unconstrained space one dimension less."""
    counts = np.asarray([9, 4, 7], np.int32)
    prior, posterior = np.full(3, 1.5), 1.5 + counts
    total = posterior.sum()
    mean = posterior / total

    def log_normalizer(a):
        return gammaln(a).sum() - gammaln(a.sum())

    choose = gammaln(21) - gammaln(counts + 1.0).sum()
    return Problem(
        _dirichlet_multinomial,
        (counts,),
        log_evidence=choose + log_normalizer(posterior) - log_normalizer(prior),
        mean=mean,
        covariance=(np.diag(mean) - np.outer(mean, mean)) / (total + 1),
    )


TARGETS: dict[str, Callable[[], Problem]] = {
    "correlated2": functools.partial(correlated, 2),
    "correlated20": functools.partial(correlated, 20),
    "normal_mean": normal_mean,
    "regression": regression,
    "hierarchy": hierarchy,
    "beta_binomial": beta_binomial,
    "gamma_poisson": gamma_poisson,
    "dirichlet_multinomial": dirichlet_multinomial,
}


@functools.cache
def problem(name: str) -> Problem:
    """The problem of a name; cached, so that tests share its compiled programs."""
    return TARGETS[name]()
