"""Models with a single conjugate block: posterior and evidence are exact."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from scipy import stats
from scipy.special import betaln, gammaln, multigammaln

from tests.conjugacy.case import Case, Exact, Family

RNG = np.random.default_rng(21)
NORMAL, VECTOR = Family("Normal"), Family("MultivariateNormal")
GAMMA, BETA, DIRICHLET = Family("Gamma"), Family("Beta"), Family("Dirichlet")


def _fresh(array):
    """An array of the default precision: JAX keeps that of a NumPy array that it traced before."""
    return jnp.asarray(array.tolist())


# Counts and proportions.

SUCCESSES, BITS = np.asarray(7), np.asarray([1, 0, 0, 1, 1, 1, 0])
COUNTS, EXPOSURES = np.asarray([3, 0, 5, 2]), np.asarray([1.0, 0.5, 2.5, 1.2])
TABLE, LABELS = np.asarray([3, 1, 6]), np.asarray([0, 2, 1, 2, 2])
TIMES = np.asarray([0.3, 1.7, 0.9])


def _beta(kind, draws, ones, zeros, extra):
    """A Beta(2, 3) prior and an observation with log probability `extra + ones, zeros`."""
    exact = Exact({"a": 2.0 + ones, "b": 3.0 + zeros}, extra + betaln(2 + ones, 3 + zeros))
    exact = exact._replace(log_evidence=float(exact.log_evidence - betaln(2, 3)))

    def model(y):
        p = numpyro.sample("p", dist.Beta(2.0, 3.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", kind(p), obs=y)

    return Case(model, (draws,), {"p": BETA}, exact=exact)


def _beta_binomial():
    choose = gammaln(13) - gammaln(8) - gammaln(6)
    return _beta(lambda p: dist.Binomial(12, p), SUCCESSES[None], 7, 5, choose)


def _beta_negative_binomial():
    total, y = 4.0, np.asarray([2, 5])
    extra = np.sum(gammaln(y + total) - gammaln(y + 1) - gammaln(total))
    return _beta(lambda p: dist.NegativeBinomialProbs(total, p), y, y.sum(), 2 * total, extra)


def _gamma(model, args, shape, rate, extra):
    """A Gamma(3, 2) prior; `extra` is the likelihood's part without the rate parameter."""
    evidence = extra + 3 * np.log(2.0) - gammaln(3.0)
    evidence += gammaln(3 + shape) - (3 + shape) * np.log(2 + rate)
    exact = Exact({"concentration": 3.0 + shape, "rate": 2.0 + rate}, float(evidence))
    return Case(model, args, {"rate": GAMMA}, exact=exact)


def _gamma_poisson():
    def model(exposure, y):
        rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(rate * exposure), obs=y)

    extra = np.sum(COUNTS * np.log(EXPOSURES) - gammaln(COUNTS + 1))
    return _gamma(model, (EXPOSURES, COUNTS), COUNTS.sum(), EXPOSURES.sum(), extra)


def _gamma_exponential():
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Exponential(rate), obs=y)

    return _gamma(model, (TIMES,), 3, TIMES.sum(), 0.0)


def _gamma_gamma():
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Gamma(2.5, rate / 2), obs=y)

    extra = np.sum(1.5 * np.log(TIMES) - gammaln(2.5) - 2.5 * np.log(2))
    return _gamma(model, (TIMES,), 7.5, TIMES.sum() / 2, extra)


def _dirichlet(kind, draws, counts, extra):
    prior = np.asarray([1.5, 1.0, 2.0])

    def model(y):
        p = numpyro.sample("p", dist.Dirichlet(_fresh(prior)))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", kind(p), obs=y)

    def log_beta(a):
        return gammaln(a).sum() - gammaln(a.sum())

    evidence = float(extra + log_beta(prior + counts) - log_beta(prior))
    exact = Exact({"concentration": prior + counts}, evidence)
    return Case(model, (draws,), {"p": DIRICHLET}, exact=exact)


def _dirichlet_multinomial():
    extra = gammaln(TABLE.sum() + 1) - gammaln(TABLE + 1).sum()
    return _dirichlet(lambda p: dist.Multinomial(10, probs=p), TABLE[None], TABLE, extra)


# Normal means.

Y = np.asarray([0.3, 1.9, -0.4, 2.2, 1.1])
SEEN = np.asarray([True, False, True, True, False])


def _linear(model, args, design, y, noise, loc, covariance, key="w"):
    """`y ~ N(design w, noise)`, `w ~ N(loc, covariance)`: the Gaussian posterior of `w`."""
    precision = np.linalg.inv(covariance) + design.T @ np.linalg.solve(noise, design)
    pull = np.linalg.solve(covariance, loc) + design.T @ np.linalg.solve(noise, y)
    marginal = noise + design @ covariance @ design.T
    evidence = stats.multivariate_normal(design @ loc, marginal).logpdf(y)
    exact = Exact(
        {"mean": np.linalg.solve(precision, pull), "precision": precision}, float(evidence)
    )
    return Case(model, args, {key: VECTOR}, exact=exact)


def _scalar(case):
    """The same with a scalar latent."""
    mean, precision = case.exact.parameters["mean"], case.exact.parameters["precision"]
    exact = case.exact._replace(parameters={"mean": mean[0], "precision": precision[0, 0]})
    return case._replace(families={"mu": NORMAL}, exact=exact)


def _normal_normal(seen=None, weight=1.0):
    def model(y, seen):
        mu = numpyro.sample("mu", dist.Normal(0.5, 2.0))
        with numpyro.plate("rows", len(y)), handlers.scale(scale=weight):
            if seen is None:
                numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)
            else:
                numpyro.sample("y", dist.Normal(mu, 1.5).mask(seen), obs=y)

    kept = Y if seen is None else Y[seen]
    noise, prior = 2.25 / weight * np.eye(len(kept)), np.asarray([[4.0]])
    ones = np.ones((len(kept), 1))
    case = _linear(model, (Y, seen), ones, kept, noise, np.asarray([0.5]), prior)
    # A normal density to a power is another's, up to its normalization.
    change = len(kept) * (0.5 * (1 - weight) * np.log(2 * np.pi * 2.25) - 0.5 * np.log(weight))
    exact = case.exact._replace(log_evidence=float(case.exact.log_evidence + change))
    return _scalar(case._replace(exact=exact))


def _log_normal():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.5, 2.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.LogNormal(mu, 1.5), obs=y)

    case = _linear(
        model,
        (np.exp(Y),),
        np.ones((5, 1)),
        Y,
        2.25 * np.eye(5),
        np.asarray([0.5]),
        np.asarray([[4.0]]),
    )
    exact = case.exact._replace(log_evidence=float(case.exact.log_evidence - Y.sum()))
    return _scalar(case._replace(exact=exact))


X = RNG.normal(size=(6, 3))
TARGET = X @ [1.0, -0.7, 0.2] + 0.6 * RNG.normal(size=6)
COVARIANCE = np.asarray([[1.0, 0.4, 0.0], [0.4, 2.0, -0.3], [0.0, -0.3, 0.5]])


def _weights_of(prior):
    def model(x, y):
        w = prior()
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ w, 0.6), obs=y)

    return model


def _in_plate():
    with numpyro.plate("features", 3):
        return numpyro.sample("w", dist.Normal(0.1, 1.3))


def _as_event():
    return numpyro.sample("w", dist.Normal(0.1, 1.3).expand([3]).to_event(1))


def _correlated():
    return numpyro.sample("w", dist.MultivariateNormal(jnp.full(3, 0.1), _fresh(COVARIANCE)))


def _weights(prior, covariance):
    model, noise, loc = _weights_of(prior), 0.36 * np.eye(6), np.full(3, 0.1)
    return _linear(model, (X, TARGET), X, TARGET, noise, loc, covariance)


def _two_sites():
    def model(x, y):
        alpha = numpyro.sample("alpha", dist.Normal(0.0, 2.0))
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(alpha + x @ beta, 0.6), obs=y)

    design = np.column_stack([np.ones(6), X[:, :2]])
    args, noise, prior = (X[:, :2], TARGET), 0.36 * np.eye(6), np.diag([4.0, 1.0, 1.0])
    return _linear(model, args, design, TARGET, noise, np.zeros(3), prior, ("alpha", "beta"))


def _vector_mean():
    rows, noise = X[:4], np.asarray([[0.8, 0.2, 0.1], [0.2, 0.5, 0.0], [0.1, 0.0, 0.9]])

    def model(y):
        mu = numpyro.sample("w", dist.MultivariateNormal(jnp.zeros(3), _fresh(COVARIANCE)))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(mu, _fresh(noise)), obs=y)

    design, noises = np.kron(np.ones((4, 1)), np.eye(3)), np.kron(np.eye(4), noise)
    return _linear(model, (rows,), design, rows.ravel(), noises, np.zeros(3), COVARIANCE)


# Normal precisions and variances.


def _spread(prior, scale, key, power):
    """`y ~ N(1, x)` with a gamma prior on the precision, a power of the latent."""
    squares = float(((Y - 1) ** 2).sum())

    def model(y):
        value = numpyro.sample(key, prior(3.0, 2.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(1.0, scale(value)), obs=y)

    a, b = 3 + len(Y) / 2, 2 + squares / 2
    evidence = -len(Y) / 2 * np.log(2 * np.pi) + 3 * np.log(2.0) - gammaln(3.0)
    exact = Exact({"concentration": a, "rate": b}, float(evidence + gammaln(a) - a * np.log(b)))
    return Case(model, (Y,), {key: Family("Gamma", power)}, exact=exact)


def _normal_gamma(dim):
    """`w | tau ~ N(0.1, 1 / (2 tau))`, `tau ~ Gamma(3, 2)`, `y ~ N(x w, 1 / tau)`."""
    design = X[:, :dim] if dim > 1 else np.ones((6, 1))

    def regression(x, y):
        tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
        prior = dist.Normal(0.1, 1 / jnp.sqrt(2 * tau)).expand([dim]).to_event(1)
        w = numpyro.sample("w", prior)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ w, 1 / jnp.sqrt(tau)), obs=y)

    def mean(x, y):
        tau = numpyro.sample("tau", dist.Gamma(3.0, 2.0))
        w = numpyro.sample("w", dist.Normal(0.1, 1 / jnp.sqrt(2 * tau)))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(w, tau**-0.5), obs=y)

    precision = 2 * np.eye(dim) + design.T @ design
    center = np.linalg.solve(precision, 0.2 + design.T @ TARGET)
    marginal = np.eye(6) + design @ design.T / 2
    residual = TARGET - design @ np.full(dim, 0.1)
    square = residual @ np.linalg.solve(marginal, residual)
    # The marginal of y is a multivariate t distribution with 2 a degrees of freedom.
    evidence = stats.multivariate_t(design @ np.full(dim, 0.1), marginal * 2 / 3, df=6)
    exact = Exact(
        {
            "mean": center,
            "precision": precision,
            "concentration": 3 + 6 / 2,
            "rate": 2 + square / 2,
        },
        float(evidence.logpdf(TARGET)),
    )
    model = mean if dim == 1 else regression
    return Case(model, (design, TARGET), {("w", "tau"): Family("NormalGamma")}, exact=exact)


# Matrices.

ROWS = RNG.normal(size=(4, 2)) @ np.asarray([[1.0, 0.5], [0.0, 0.7]]) + [0.4, -0.2]
SCALE = np.asarray([[0.5, 0.1], [0.1, 0.3]])


def _wishart_evidence(nu, inverse_scale, count, total):
    """Of rows with scatter matrix folded into `total`, the posterior's inverse scale."""
    dim = len(inverse_scale)
    value = -count * dim / 2 * np.log(np.pi)
    value += multigammaln((nu + count) / 2, dim) - multigammaln(nu / 2, dim)
    value += nu / 2 * np.linalg.slogdet(inverse_scale)[1]
    return float(value - (nu + count) / 2 * np.linalg.slogdet(total)[1])


def _matrix(prior, likelihood, power):
    """Rows with known mean and an unknown precision or covariance matrix."""

    def model(y):
        value = numpyro.sample("S", prior())
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", likelihood(value), obs=y)

    prior_inverse = np.linalg.inv(SCALE)
    total = prior_inverse + ROWS.T @ ROWS
    evidence = _wishart_evidence(5.0, prior_inverse, 4, total)
    exact = Exact({"concentration": 9.0, "inverse_scale": total}, evidence)
    return Case(model, (ROWS,), {"S": Family("Wishart", power)}, exact=exact)


def _normal_wishart():
    def model(y):
        precision = numpyro.sample("L", dist.Wishart(5.0, _fresh(SCALE)))
        prior = dist.MultivariateNormal(jnp.full(2, 0.2), precision_matrix=1.5 * precision)
        mu = numpyro.sample("mu", prior)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(mu, precision_matrix=precision), obs=y)

    mean, inverse = ROWS.mean(0), np.linalg.inv(SCALE)
    centered, shift = ROWS - mean, mean - 0.2
    total = inverse + centered.T @ centered + 1.5 * 4 / 5.5 * np.outer(shift, shift)
    evidence = _wishart_evidence(5.0, inverse, 4, total) + np.log(1.5 / 5.5)  # dim / 2 is one
    exact = Exact(
        {
            "mean": (1.5 * 0.2 + 4 * mean) / 5.5,
            "kappa": 5.5,
            "concentration": 9.0,
            "inverse_scale": total,
        },
        evidence,
    )
    return Case(model, (ROWS,), {("mu", "L"): Family("NormalWishart")}, exact=exact)


CLOSED_FORMS = {
    "beta, binomial": _beta_binomial(),
    "beta, Bernoulli": _beta(dist.Bernoulli, BITS, 4, 3, 0.0),
    "beta, geometric": _beta(dist.Geometric, COUNTS, 4, COUNTS.sum(), 0.0),
    "beta, negative binomial": _beta_negative_binomial(),
    "gamma, Poisson": _gamma_poisson(),
    "gamma, exponential": _gamma_exponential(),
    "gamma, gamma": _gamma_gamma(),
    "Dirichlet, multinomial": _dirichlet_multinomial(),
    "Dirichlet, categorical": _dirichlet(dist.Categorical, LABELS, np.bincount(LABELS), 0.0),
    "normal mean": _normal_normal(),
    "normal mean, missing rows": _normal_normal(SEEN),
    "normal mean, scaled": _normal_normal(weight=0.5),
    "log-normal location": _log_normal(),
    "regression, weights in a plate": _weights(_in_plate, 1.69 * np.eye(3)),
    "regression, weights as an event": _weights(_as_event, 1.69 * np.eye(3)),
    "regression, correlated weights": _weights(_correlated, COVARIANCE),
    "regression, intercept and slopes": _two_sites(),
    "vector mean": _vector_mean(),
    "normal precision": _spread(dist.Gamma, lambda t: 1 / jnp.sqrt(t), "tau", 1),
    "normal variance": _spread(dist.InverseGamma, jnp.sqrt, "v", -1),
    "normal mean and precision, one block": _normal_gamma(1),
    "regression with noise, one block": _normal_gamma(2),
    "precision matrix": _matrix(
        lambda: dist.Wishart(5.0, _fresh(SCALE)),
        lambda S: dist.MultivariateNormal(jnp.zeros(2), precision_matrix=S),
        1,
    ),
    "covariance matrix": _matrix(
        lambda: dist.InverseWishart(5.0, _fresh(np.linalg.inv(SCALE))),
        lambda S: dist.MultivariateNormal(jnp.zeros(2), covariance_matrix=S),
        -1,
    ),
    "normal mean and precision matrix": _normal_wishart(),
}
