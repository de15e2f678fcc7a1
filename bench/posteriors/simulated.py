"""Ten kinds of models with data simulated from their priors, and their exact posteriors.

At most two parameters of a model are integrated on a grid; the others are normal given these, or
are enumerated. All in NumPy and double precision, independent of the models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy import stats
from scipy.special import gammaln, logsumexp

_CUT = 30.0  # nats below the highest point of a grid: cells beyond are left out
_NATS = 1e-3  # change of an integral by more cells that does not matter
_ZOOMS = 4


class Exact(NamedTuple):
    """The data of a simulation and its exact posterior.

    Attributes:
        args: positional arguments of the model.
        mean: posterior means by site.
        sd: posterior standard deviations by site.
        kurtosis: fourth central moments by site, in squared variances.
        log_evidence: log marginal likelihood in nats.
    """

    args: tuple[Any, ...]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    kurtosis: dict[str, np.ndarray]
    log_evidence: float


class Kind(NamedTuple):
    """A model, and a function that simulates parameters and data."""

    model: Callable[..., Any]
    simulate: Callable[[np.random.Generator], Exact]


def integrate(
    log_joint: Callable[..., np.ndarray], *bounds: tuple[float, float], points: int = 300
) -> tuple[np.ndarray, tuple[np.ndarray, ...], float]:
    """Masses of the cells of a grid, their centers by parameter, and the log of the integral.

    The grid is laid again over the part in which the density is not negligible, and with twice as
    many cells until the integral hardly changes: heavy tails keep that part wide.

    Args:
        log_joint: log density of arrays of parameters, one per axis.
        bounds: the range of each parameter.
        points: cells per axis, at first.

    Raises:
        ArithmeticError: there is mass at an edge of the part, so that more may be beyond, or the
            integral still changes.
    """
    coarse = _on_grid(log_joint, bounds, points)
    for doubled in (2 * points, 4 * points, 8 * points):
        fine = _on_grid(log_joint, bounds, doubled)
        if abs(fine[2] - coarse[2]) < _NATS:
            return fine
        coarse = fine
    raise ArithmeticError("the integral depends on the number of cells")


def _on_grid(
    log_joint: Callable[..., np.ndarray], bounds: tuple[tuple[float, float], ...], points: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...], float]:
    """The results of `integrate` with this number of cells per axis."""
    support = bounds
    for _ in range(_ZOOMS):
        edges = [np.linspace(low, high, points + 1) for low, high in bounds]
        axes = [(one[1:] + one[:-1]) / 2 for one in edges]
        values = log_joint(*(one.ravel() for one in np.meshgrid(*axes, indexing="ij")))
        seen = (values > values.max() - _CUT).reshape([points] * len(bounds))
        smaller = []
        for axis, edge in enumerate(edges):
            used = np.flatnonzero(seen.any(axis=tuple(set(range(len(edges))) - {axis})))
            smaller.append((edge[max(used[0] - 3, 0)], edge[min(used[-1] + 4, points)]))
        if all(b - a > 0.7 * (d - c) for (a, b), (c, d) in zip(smaller, bounds, strict=True)):
            break
        bounds = tuple(smaller)
    total = logsumexp(values)
    mass = np.exp(values - total)
    for axis, (edge, whole) in enumerate(zip(edges, support, strict=True)):
        ends = np.moveaxis(mass.reshape([points] * len(edges)), axis, 0)[[0, -1]].reshape(2, -1)
        inside = edge[[0, -1]] != whole
        if (ends.sum(1)[inside] > 1e-6).any():
            raise ArithmeticError(f"mass at an edge of axis {axis} of the grid")
    volume = np.prod([one[1] - one[0] for one in edges])
    centers = tuple(one.ravel() for one in np.meshgrid(*axes, indexing="ij"))
    return mass, centers, float(total + np.log(volume))


def moments(mass: np.ndarray, mean: np.ndarray, var: Any = 0.0) -> tuple[np.ndarray, ...]:
    """Mean, sd and kurtosis of a mixture over the cells, of conditional means and variances.

    Args:
        mass: of the cells, `(cells,)`.
        mean: conditional means, `(cells, ...)`.
        var: conditional variances, of the same shape, or a scalar.
    """
    overall = np.tensordot(mass, mean, 1)
    squared = (mean - overall) ** 2
    spread = np.tensordot(mass, squared + var, 1)
    fourth = np.tensordot(mass, squared**2 + 6 * squared * var + 3 * np.square(var), 1)
    return overall, np.sqrt(spread), fourth / spread**2


def _exact(args: tuple[Any, ...], log_evidence: float, **sites: Any) -> Exact:
    mean, sd, kurtosis = ({name: found[i] for name, found in sites.items()} for i in range(3))
    rounded = tuple(np.asarray(one, np.float32) if _is_real(one) else one for one in args)
    return Exact(rounded, mean, sd, kurtosis, log_evidence)


def _is_real(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _data(values: Any) -> np.ndarray:
    """Data as the model sees them: rounded to single precision."""
    return np.asarray(values, np.float32).astype(float)


def _normal_given(
    x: np.ndarray, y: np.ndarray, noise: np.ndarray, prior: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance and log evidence of `beta ~ N(0, prior)`, `y ~ N(x beta, noise)`.

    Args:
        x: design `(cells or 1, rows, columns)`.
        y: `(rows,)`.
        noise: standard deviation of the noise, `(cells,)`.
        prior: standard deviation of the coefficients.
    """
    rows, columns = x.shape[-2:]
    precision = np.swapaxes(x, -1, -2) @ x / noise[:, None, None] ** 2
    precision = precision + np.eye(columns) / prior**2
    linear = np.swapaxes(x, -1, -2) @ y / noise[:, None] ** 2
    mean = np.linalg.solve(precision, linear[..., None])[..., 0]
    var = np.diagonal(np.linalg.inv(precision), axis1=-2, axis2=-1)
    log_evidence = 0.5 * (np.sum(linear * mean, -1) - y @ y / noise**2)
    log_evidence -= 0.5 * np.linalg.slogdet(precision)[1] + columns * np.log(prior)
    log_evidence -= rows * (np.log(noise) + 0.5 * np.log(2 * np.pi))
    return mean, var, log_evidence


def _regression(x, y):
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([3]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def _simulate_regression(rng):
    x = rng.normal(size=(12, 3))
    x[:, 2] = 0.95 * x[:, 1] + 0.3 * x[:, 2]
    x = _data(x)
    y = _data(x @ rng.normal(0, 2, 3) + abs(rng.normal()) * rng.normal(size=12))

    def log_joint(sigma):
        return _normal_given(x[None], y, sigma, 2.0)[2] + stats.halfnorm.logpdf(sigma)

    mass, (sigma,), total = integrate(log_joint, (1e-6, 6.0), points=4000)
    mean, var, _ = _normal_given(x[None], y, sigma, 2.0)
    return _exact((x, y), total, beta=moments(mass, mean, var), sigma=moments(mass, sigma))


def _logistic(x, y):
    a = numpyro.sample("a", dist.Normal(0, 2))
    b = numpyro.sample("b", dist.Normal(0, 2))
    numpyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


def _simulate_logistic(rng):
    x = _data(rng.normal(size=25))
    a, b = rng.normal(0, 2, 2)
    y = (rng.random(25) < 1 / (1 + np.exp(-a - b * x))).astype(np.int32)

    def log_joint(a, b):
        logits = a[:, None] + b[:, None] * x
        prior = stats.norm.logpdf(a, 0, 2) + stats.norm.logpdf(b, 0, 2)
        return prior + np.sum(y * logits - np.logaddexp(0, logits), axis=1)

    mass, (a, b), total = integrate(log_joint, (-16, 16), (-16, 16))
    return _exact((x, y), total, a=moments(mass, a), b=moments(mass, b))


def _hierarchy(y, error):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    tau = numpyro.sample("tau", dist.HalfNormal(2))
    with numpyro.plate("groups", len(error)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, error), obs=y)


def _simulate_hierarchy(rng):
    error = _data(rng.uniform(0.3, 2.0, 8))
    theta = rng.normal(rng.normal(0, 3), abs(rng.normal(0, 2)), 8)
    y = _data(rng.normal(theta, error))

    def log_joint(mu, tau):
        prior = stats.norm.logpdf(mu, 0, 3) + stats.halfnorm.logpdf(tau, 0, 2)
        sd = np.sqrt(tau[:, None] ** 2 + error**2)
        return prior + stats.norm.logpdf(y, mu[:, None], sd).sum(1)

    mass, (mu, tau), total = integrate(log_joint, (-18, 18), (0.0, 12.0))
    var = 1 / (1 / tau[:, None] ** 2 + 1 / error**2)
    theta = moments(mass, var * (mu[:, None] / tau[:, None] ** 2 + y / error**2), var)
    return _exact((y, error), total, mu=moments(mass, mu), tau=moments(mass, tau), theta=theta)


def _mixture(y):
    mu = numpyro.sample("mu", dist.Normal(0, 3).expand([2]).to_event(1))
    share = dist.Categorical(probs=jnp.array([0.35, 0.65]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(share, dist.Normal(mu, 1.0)), obs=y)


def _simulate_mixture(rng):
    mu = rng.normal(0, 3, 2)
    y = _data(rng.normal(mu[(rng.random(15) < 0.65).astype(int)], 1.0))

    def log_joint(a, b):
        one, other = (stats.norm.logpdf(y, mean[:, None], 1.0) for mean in (a, b))
        both = np.logaddexp(np.log(0.35) + one, np.log(0.65) + other).sum(1)
        return both + stats.norm.logpdf(a, 0, 3) + stats.norm.logpdf(b, 0, 3)

    mass, (a, b), total = integrate(log_joint, (-18, 18), (-18, 18))
    return _exact((y,), total, mu=moments(mass, np.stack([a, b], axis=1)))


def _period(t, y):
    f = numpyro.sample("f", dist.Uniform(0.1, 1.5))
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))
    wave = a[0] * jnp.sin(2 * jnp.pi * f * t) + a[1] * jnp.cos(2 * jnp.pi * f * t)
    numpyro.sample("y", dist.Normal(wave, 0.7), obs=y)


def _simulate_period(rng):
    t = _data(np.sort(rng.uniform(0, 8, 20)))

    def design(f):
        phase = 2 * np.pi * f[:, None] * t
        return np.stack([np.sin(phase), np.cos(phase)], axis=-1)

    mean = design(rng.uniform(0.1, 1.5, 1))[0] @ rng.normal(size=2)
    y = _data(rng.normal(mean, 0.7))

    def log_joint(f):
        return _normal_given(design(f), y, np.full(len(f), 0.7), 1.0)[2] - np.log(1.4)

    mass, (f,), total = integrate(log_joint, (0.1, 1.5), points=4000)
    mean, var, _ = _normal_given(design(f), y, np.full(len(f), 0.7), 1.0)
    return _exact((t, y), total, f=moments(mass, f), a=moments(mass, mean, var))


def _counts(x, y):
    a = numpyro.sample("a", dist.Normal(4, 3))
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("y", dist.Poisson(jnp.exp(a + b * x)), obs=y)


def _simulate_counts(rng):
    x = _data(rng.normal(size=20))
    y = rng.poisson(np.exp(np.minimum(rng.normal(4, 3) + rng.normal() * x, 15))).astype(np.int32)

    def log_joint(a, b):
        log_rate = a[:, None] + b[:, None] * x
        prior = stats.norm.logpdf(a, 4, 3) + stats.norm.logpdf(b)
        return prior + np.sum(y * log_rate - np.exp(np.minimum(log_rate, 50)), 1)

    mass, (a, b), total = integrate(log_joint, (-14, 22), (-6, 6))
    total -= gammaln(y + 1.0).sum()
    return _exact((x, y), total, a=moments(mass, a), b=moments(mass, b))


def _robust(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    sigma = numpyro.sample("sigma", dist.LogNormal(0, 1))
    numpyro.sample("y", dist.StudentT(2.0, mu, sigma), obs=y)


def _simulate_robust(rng):
    y = _data(rng.normal(0, 10) + rng.lognormal() * rng.standard_t(2, 6))

    def log_joint(mu, log_sigma):
        prior = stats.norm.logpdf(mu, 0, 10) + stats.norm.logpdf(log_sigma)
        return prior + stats.t.logpdf(y, 2.0, mu[:, None], np.exp(log_sigma)[:, None]).sum(1)

    mass, (mu, log_sigma), total = integrate(log_joint, (-60, 60), (-6, 6))
    return _exact((y,), total, mu=moments(mass, mu), sigma=moments(mass, np.exp(log_sigma)))


def _product(y):
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(a * b, 0.5), obs=y)


def _simulate_product(rng):
    y = _data(rng.normal(rng.normal() * rng.normal(), 0.5, 5))

    def log_joint(a, b):
        prior = stats.norm.logpdf(a) + stats.norm.logpdf(b)
        return prior + stats.norm.logpdf(y, (a * b)[:, None], 0.5).sum(1)

    mass, (a, b), total = integrate(log_joint, (-7, 7), (-7, 7))
    return _exact((y,), total, a=moments(mass, a), b=moments(mass, b))


_STAY = 0.8


def _markov(y):
    mu = numpyro.sample("mu", dist.Normal(0, 2).expand([2]).to_event(1))
    transition = jnp.array([[_STAY, 1 - _STAY], [1 - _STAY, _STAY]])

    def step(state, y):
        state = numpyro.sample(
            "state", dist.Categorical(transition[state]), infer={"enumerate": "parallel"}
        )
        numpyro.sample("y", dist.Normal(mu[state], 1.0), obs=y)
        return state, None

    scan(step, 0, y)


def _simulate_markov(rng):
    mu, state, y = rng.normal(0, 2, 2), 0, []
    for _ in range(25):
        state = state if rng.random() < _STAY else 1 - state
        y.append(rng.normal(mu[state]))
    y = _data(y)

    def log_joint(a, b):
        stay, move = np.log(_STAY), np.log(1 - _STAY)
        found = np.zeros_like(a), np.full_like(a, -np.inf)
        for one in y:
            first = np.logaddexp(found[0] + stay, found[1] + move)
            second = np.logaddexp(found[0] + move, found[1] + stay)
            found = (
                first + stats.norm.logpdf(one, a, 1.0),
                second + stats.norm.logpdf(one, b, 1.0),
            )
        return np.logaddexp(*found) + stats.norm.logpdf(a, 0, 2) + stats.norm.logpdf(b, 0, 2)

    mass, (a, b), total = integrate(log_joint, (-12, 12), (-12, 12))
    return _exact((y,), total, mu=moments(mass, np.stack([a, b], axis=1)))


_PREDICTORS, _ROWS = 6, 15


def _selection(x, y):
    """Spike and slab: coefficients `N(0, 1)` where included, integrated out."""
    with numpyro.plate("predictors", _PREDICTORS):
        included = numpyro.sample("included", dist.Bernoulli(0.3))
    covariance = jnp.eye(_ROWS) + (x * included) @ x.T
    normal = dist.MultivariateNormal(jnp.zeros(_ROWS), covariance_matrix=covariance)
    numpyro.sample("y", normal, obs=y)


def _simulate_selection(rng):
    x = rng.normal(size=(_ROWS, _PREDICTORS))
    x[:, 1] = x[:, 0] + 0.3 * x[:, 1]
    x = _data(x)
    beta = rng.normal(size=_PREDICTORS) * (rng.random(_PREDICTORS) < 0.3)
    y = _data(x @ beta + rng.normal(size=_ROWS))
    subsets = np.array(list(itertools.product((0.0, 1.0), repeat=_PREDICTORS)))
    covariance = np.eye(_ROWS) + np.einsum("ri,si,ti->srt", x, subsets, x)
    quadratic = np.einsum("r,srt,t->s", y, np.linalg.inv(covariance), y)
    log_likelihood = -0.5 * (quadratic + np.linalg.slogdet(covariance)[1])
    log_likelihood -= 0.5 * _ROWS * np.log(2 * np.pi)
    size = subsets.sum(1)
    joint = log_likelihood + size * np.log(0.3) + (_PREDICTORS - size) * np.log(0.7)
    total = logsumexp(joint)
    return _exact((x, y), float(total), included=moments(np.exp(joint - total), subsets))


KINDS = {
    "linear regression": Kind(_regression, _simulate_regression),
    "logistic regression": Kind(_logistic, _simulate_logistic),
    "hierarchy": Kind(_hierarchy, _simulate_hierarchy),
    "mixture": Kind(_mixture, _simulate_mixture),
    "period search": Kind(_period, _simulate_period),
    "Poisson regression": Kind(_counts, _simulate_counts),
    "Student-t": Kind(_robust, _simulate_robust),
    "product": Kind(_product, _simulate_product),
    "hidden Markov model": Kind(_markov, _simulate_markov),
    "variable selection": Kind(_selection, _simulate_selection),
}
