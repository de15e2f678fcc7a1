"""Models that become conjugate with further latents, which the library introduces.

The expected log joint density, maximized over the distribution of these latents, is known in
closed form: `bound`, from the expectations of the blocks.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.stats import norm
from scipy import stats
from scipy.special import gammaln, logsumexp

from tests.conjugacy.case import Case, Family

RNG = np.random.default_rng(23)
VECTOR, NORMAL, GAMMA = Family("MultivariateNormal"), Family("Normal"), Family("Gamma")
X = RNG.normal(size=(5, 2))
Y = X @ [1.0, -0.7] + RNG.normal(size=5)
BITS = (Y > 0).astype(int)
COUNTS = np.asarray([3, 0, 5, 1, 2])


def _with_weights(kind, y):
    def model(x, y):
        w = numpyro.sample("w", dist.Normal(0.0, 1.3).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", kind(x @ w), obs=y)

    return model, (X, y)


def _moments(of):
    """Mean and variance of the linear predictor, and the expected log prior of the weights."""
    mean, covariance = np.asarray(of["w"]["mean"]), np.asarray(of["w"]["covariance"])
    squares = np.sum(mean**2) + np.trace(covariance)
    prior = -0.5 * squares / 1.69 - len(mean) * np.log(1.3 * np.sqrt(2 * np.pi))
    return X @ mean, np.einsum("ni,ij,nj->n", X, covariance, X), prior


def _logistic_bound(of, ones, zeros):
    """Polya-Gamma augmentation; the bound of Jaakkola and Jordan (2000) at its best argument."""
    mean, variance, prior = _moments(of)
    root = np.sqrt(mean**2 + variance)
    rows = (ones - zeros) / 2 * mean - (ones + zeros) * np.log(2 * np.cosh(root / 2))
    return rows.sum() + prior


def _logistic():
    model, args = _with_weights(lambda logits: dist.Bernoulli(logits=logits), BITS)
    return Case(model, args, {"w": VECTOR}, bound=lambda of: _logistic_bound(of, BITS, 1 - BITS))


def _binomial():
    model, args = _with_weights(lambda logits: dist.Binomial(6, logits=logits), COUNTS)
    choose = np.sum(gammaln(7) - gammaln(COUNTS + 1) - gammaln(7 - COUNTS))
    return Case(
        model,
        args,
        {"w": VECTOR},
        bound=lambda of: _logistic_bound(of, COUNTS, 6 - COUNTS) + choose,
    )


def _negative_binomial():
    total = 4.0
    model, args = _with_weights(lambda eta: dist.NegativeBinomialLogits(total, eta), COUNTS)
    extra = np.sum(gammaln(COUNTS + total) - gammaln(COUNTS + 1) - gammaln(total))
    return Case(
        model,
        args,
        {"w": VECTOR},
        bound=lambda of: _logistic_bound(of, COUNTS, np.full(5, total)) + extra,
    )


def _probit():
    """A latent normal variable per row, truncated by its sign (Albert and Chib, 1993)."""
    model, args = _with_weights(lambda eta: dist.Bernoulli(norm.cdf(eta)), BITS)

    def bound(of):
        mean, variance, prior = _moments(of)
        return np.sum(stats.norm.logcdf((2 * BITS - 1) * mean) - variance / 2) + prior

    return Case(model, args, {"w": VECTOR}, bound=bound)


def _student_t():
    """A gamma factor of the precision per row."""
    model, args = _with_weights(lambda eta: dist.StudentT(4.0, eta, 0.7), Y)

    def bound(of):
        mean, variance, prior = _moments(of)
        root = np.sqrt((Y - mean) ** 2 + variance)
        return np.sum(stats.t(4.0, scale=0.7).logpdf(root)) + prior

    return Case(model, args, {"w": VECTOR}, bound=bound)


def _laplace():
    """Variances `v ~ Exponential(1 / 2)` in units of the squared scale (Park and Casella, 2008)."""
    model, args = _with_weights(lambda eta: dist.Laplace(eta, 0.7), Y)

    def bound(of):
        mean, variance, prior = _moments(of)
        root = np.sqrt((Y - mean) ** 2 + variance)
        return np.sum(stats.laplace(scale=0.7).logpdf(root)) + prior

    return Case(model, args, {"w": VECTOR}, bound=bound)


def _additive_rates():
    """Counts that are sums of Poisson counts, one per term of the rate."""
    design = np.abs(X)

    def model(x, y):
        with numpyro.plate("factors", 2):
            rate = numpyro.sample("rate", dist.Gamma(1.5, 0.8))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(x @ rate), obs=y)

    def bound(of):
        value, log = np.asarray(of["rate"]["value"]), np.asarray(of["rate"]["log"])
        rows = COUNTS * logsumexp(np.log(design) + log, axis=1) - design @ value
        prior = np.sum(1.5 * np.log(0.8) - gammaln(1.5) + 0.5 * log - 0.8 * value)
        return float(np.sum(rows - gammaln(COUNTS + 1)) + prior)

    return Case(model, (design, COUNTS), {"rate": GAMMA}, bound=bound)


def poisson_factorization(y, rank):
    """Gamma factors of rows and columns, `y ~ Poisson(theta beta')`."""
    rows, columns = y.shape
    with numpyro.plate("columns", columns):
        beta = numpyro.sample("beta", dist.Gamma(0.5, 1.0).expand([rank]).to_event(1))
    with numpyro.plate("rows", rows):
        theta = numpyro.sample("theta", dist.Gamma(0.5, 0.7).expand([rank]).to_event(1))
        numpyro.sample("y", dist.Poisson(theta @ beta.T).to_event(1), obs=y)


def _factorization():
    table = np.asarray([[3, 0, 1], [0, 4, 2]])

    def bound(of):
        theta, beta = of["theta"], of["beta"]
        logs = np.asarray(theta["log"])[:, None] + np.asarray(beta["log"])
        value = np.sum(table * logsumexp(logs, axis=-1) - gammaln(table + 1))
        value -= np.sum(np.asarray(theta["value"]) @ np.asarray(beta["value"]).T)
        for one, rate in ((theta, 0.7), (beta, 1.0)):
            log, mean = np.asarray(one["log"]), np.asarray(one["value"])
            value += np.sum(0.5 * np.log(rate) - gammaln(0.5) - 0.5 * log - rate * mean)
        return float(value)

    return Case(poisson_factorization, (table, 2), {"beta": GAMMA, "theta": GAMMA}, bound=bound)


def _merged_categories():
    """A category that is either of two others (which of them is the further latent)."""
    labels = np.asarray([0, 1, 1, 0, 0])

    def model(y):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Categorical(jnp.stack([w[0] + w[1], w[2]])), obs=y)

    def bound(of):
        log = np.asarray(of["w"]["log"])
        rows = np.asarray([logsumexp(log[:2]), log[2]])[labels]
        return float(rows.sum() + gammaln(3.0))

    return Case(model, (labels,), {"w": Family("Dirichlet")}, bound=bound)


def _horseshoe():
    """Half-Cauchy scales: their inverse squares are gamma given a gamma variable.

    `s ~ HalfCauchy(1)` is `1 / s^2 | a ~ Gamma(1/2, a)`, `a ~ Gamma(1/2, 1)` (Wand et al., 2011).
    Maximized over `a`, the prior's part is that of `exp(-log(1 + E s^-2))` and constants.
    """

    def model(x, y):
        with numpyro.plate("features", 2):
            scale = numpyro.sample("scale", dist.HalfCauchy(1.0))
            w = numpyro.sample("w", dist.Normal(0.0, scale))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ w, 0.7), obs=y)

    def bound(of):
        mean, covariance = np.asarray(of["w"]["mean"]), np.asarray(of["w"]["covariance"])
        value, log = np.asarray(of["scale"]["value"]), np.asarray(of["scale"]["log"])
        squares = (Y - X @ mean) ** 2 + np.einsum("ni,ij,nj->n", X, covariance, X)
        likelihood = np.sum(-0.5 * squares / 0.49 - np.log(0.7 * np.sqrt(2 * np.pi)))
        weights = np.sum(0.5 * log - 0.5 * np.log(2 * np.pi))
        weights -= 0.5 * np.sum(value * (mean**2 + np.diag(covariance)))
        # log integral over a of Ga(a; 1/2, 1) exp(E log Ga(t; 1/2, a)), and dt / ds = 2 s^-3.
        prior = -2 * gammaln(0.5) - 0.5 * log - np.log1p(value) + np.log(2) + 1.5 * log
        return float(likelihood + weights + prior.sum())

    return Case(model, (X, Y), {"scale": Family("Gamma", -2), "w": VECTOR}, bound=bound)


AUGMENTED = {
    "logistic regression": _logistic(),
    "binomial regression": _binomial(),
    "negative binomial regression": _negative_binomial(),
    "probit regression": _probit(),
    "Student-t regression": _student_t(),
    "Laplace regression": _laplace(),
    "horseshoe regression": _horseshoe(),
    "additive Poisson rates": _additive_rates(),
    "merged categories": _merged_categories(),
    "Poisson factorization": _factorization(),
}
