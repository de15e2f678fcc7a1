"""Models on which solvers must be accurate, or report failure."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from vijax.contracts import Batch, Guide, Target, Variables
from vijax.model import build, split
from vijax.solvers import Kernel
from vijax.solvers.gaussians.dense import Gaussian


class Case(NamedTuple):
    """A target and its data."""

    target: Target
    batch: Batch

    @property
    def dim(self) -> int:
        return self.target.space.dim

    def kernel(self, **options) -> Kernel:
        return Kernel(self.target, self.batch, **options)

    def variables(self, guide: Guide, model=None) -> Variables:
        location = {site.name: jnp.zeros(site.z_shape) for site in self.target.space.sites}
        params = guide.init(jax.random.key(0), self.target.space, location)
        return Variables(params, model or {})

    def standard(self) -> Gaussian:
        return Gaussian(np.zeros(self.dim), np.eye(self.dim))


def case(model, *args) -> Case:
    arguments, data = split(model, args, {})
    return Case(build(model, arguments), Batch(data))


def flat(name, *shape):
    support = constraints.independent(constraints.real, len(shape))
    return numpyro.sample(name, dist.ImproperUniform(support, (), shape))


def gaussian_model(mean, precision):
    z = flat("z", mean.size)
    numpyro.factor("density", -0.5 * (z - mean) @ precision @ (z - mean))


class Known(NamedTuple):
    """A Gaussian target and its moments."""

    case: Case
    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float

    @property
    def sd(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))


def gaussian(dim: int, condition: float, seed: int = 0) -> Known:
    """A rotated Gaussian whose covariance has eigenvalues from 1 down to 1 / condition.

    The moments are those of the precision matrix rounded to float32.
    """
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    precision = (rotation * np.geomspace(1, condition, dim)) @ rotation.T
    precision = (0.5 * (precision + precision.T)).astype(np.float32)
    mean = (3 * rng.normal(size=dim)).astype(np.float32)
    covariance = np.linalg.inv(precision.astype(float))
    log_evidence = 0.5 * dim * np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    return Known(
        case(gaussian_model, mean, precision), mean.astype(float), covariance, log_evidence
    )


def logistic_model(x, y):
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ weights), obs=y)


def logistic(num: int = 300, dim: int = 8, seed: int = 1) -> Case:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, dim)) @ (np.eye(dim) + 0.4 * rng.normal(size=(dim, dim)))
    y = rng.random(num) < 1 / (1 + np.exp(-x @ rng.normal(size=dim)))
    return case(logistic_model, x.astype(np.float32), y.astype(np.float32))


SCHOOLS = np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32)
SCHOOLS_SD = np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32)


def schools_model(sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", y.size):
        effect = numpyro.sample("effect", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu + tau * effect, sigma), obs=y)


def centered_schools_model(sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", y.size):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def schools(centered: bool = False) -> Case:
    return case(centered_schools_model if centered else schools_model, SCHOOLS_SD, SCHOOLS)


def regression_model(x, y):
    beta = flat("beta", x.shape[1])
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def schools_moments() -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of `(mu, log tau, effects)`, non-centered, by quadrature over `(mu, log tau)`.

    Given `(mu, log tau)`, the effects are independent Gaussians and the data has density
    `N(y_j; mu, tau^2 + sigma_j^2)`.
    """
    y, sigma = SCHOOLS.astype(float), SCHOOLS_SD.astype(float)
    mu, log_tau = np.meshgrid(np.linspace(-25, 35, 601), np.linspace(-14, 6, 801), indexing="ij")
    mu, tau = mu.ravel()[:, None], np.exp(log_tau.ravel()[:, None])
    total = tau**2 + sigma**2
    log_density = (
        -0.5 * np.sum((y - mu) ** 2 / total + np.log(total), axis=1)
        - 0.5 * (mu[:, 0] / 5) ** 2
        - np.log1p((tau[:, 0] / 5) ** 2)
        + log_tau.ravel()
    )
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    conditional_mean = np.concatenate([mu, np.log(tau), tau * (y - mu) / total], axis=1)
    variance = np.concatenate([np.zeros((len(mu), 2)), sigma**2 / total], axis=1)
    mean = weights @ conditional_mean
    return mean, np.sqrt(weights @ (variance + (conditional_mean - mean) ** 2))


class Regression(NamedTuple):
    """A regression on raw scales, with mode and sds in unconstrained space."""

    case: Case
    mode: np.ndarray
    sd: np.ndarray


def raw_regression(num: int = 200) -> Regression:
    """Intercept and slope whose optimum is thousands of standard deviations from zero.

    Flat priors: beta is at the least-squares fit; with the Jacobian of `log sigma` the posterior
    of `log sigma` has its mode at `sigma^2 = rss / (num - 1)`.
    """
    rng = np.random.default_rng(2)
    age = rng.uniform(20, 60, num)
    x = np.stack([np.ones(num), age], axis=1)
    y = 30_000 + 900 * age + 40 * rng.normal(size=num)
    x, y = x.astype(np.float32).astype(float), y.astype(np.float32).astype(float)
    beta, rss = np.linalg.lstsq(x, y, rcond=None)[:2]
    variance = rss[0] / (num - 1)
    sd = np.sqrt(variance * np.diag(np.linalg.inv(x.T @ x)))
    return Regression(
        case(regression_model, x.astype(np.float32), y.astype(np.float32)),
        np.array([*beta, 0.5 * np.log(variance)]),
        np.array([*sd, 1 / np.sqrt(2 * (num - 1))]),
    )


def fenced_model(x):
    """A Gaussian whose log density is NaN for `z[0] < -1`, four sds from its mean."""
    z = flat("z", 3)
    numpyro.factor("density", -0.5 * jnp.sum((z - x) ** 2) / 0.25)
    numpyro.factor("boundary", jnp.where(z[0] < -1, jnp.nan, 0.0))


def fenced() -> Case:
    return case(fenced_model, np.array([1.0, -2.0, 0.5], np.float32))


def funnel_model():
    v = numpyro.sample("v", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))


def two_modes_model(y):
    z = flat("z", 2)
    one = -0.5 * jnp.sum((z - y) ** 2)
    other = -0.5 * jnp.sum((z + y) ** 2) - 3.0
    numpyro.factor("density", jnp.logaddexp(one, other))


def two_modes() -> Case:
    """Weights 1 : exp(-3) on unit Gaussians at `(4, 4)` and `(-4, -4)`."""
    return case(two_modes_model, np.array([4.0, 4.0], np.float32))


def improper_model(scale):
    v = flat("v")
    numpyro.factor("density", jax.nn.log_sigmoid(scale * v))


def param_model(y):
    """`z ~ N(0, 1)`, `y_i ~ N(z + shift, 1)`: the joint mode has z = 0 and shift = mean(y)."""
    shift = numpyro.param("shift", 0.5)
    z = numpyro.sample("z", dist.Normal(0, 1))
    with numpyro.plate("rows", y.size):
        numpyro.sample("y", dist.Normal(z + shift, 1), obs=y)


class Moments(NamedTuple):
    """Posterior moments in unconstrained space with their standard errors."""

    mean: np.ndarray
    sd: np.ndarray
    mean_se: np.ndarray
    log_sd_se: np.ndarray


def importance_moments(evaluate, gaussian: Gaussian, num: int = 20_000) -> Moments:
    """Self-normalized importance sampling from a Student t (5) with the Gaussian's shape.

    Standard errors by the delta method. The t has heavier tails than these posteriors, so the
    weights are bounded and the standard errors reliable.
    """
    rng = np.random.default_rng(99)
    dim, df = len(gaussian.mean), 5
    mix = np.sqrt(df / rng.chisquare(df, (num, 1)))
    noise = mix * rng.standard_normal((num, dim))
    points = gaussian.transform(noise)
    log_q = -0.5 * (df + dim) * np.log1p(np.sum(noise**2, axis=1) / df)
    log_weights = evaluate(points)[0] - log_q
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = weights @ points
    centered = points - mean
    variance = weights @ centered**2
    mean_se = np.sqrt(weights**2 @ centered**2)
    variance_se = np.sqrt(weights**2 @ (centered**2 - variance) ** 2)
    return Moments(mean, np.sqrt(variance), mean_se, 0.5 * variance_se / variance)
