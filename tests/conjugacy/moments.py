"""Expectations and entropies of exponential families, by SciPy: independent of the library."""

import numpy as np
from scipy import stats
from scipy.special import digamma, multigammaln


def expectations(family, parameters):
    """The expectations of a distribution by name, from its parameters (without batch axes)."""
    of = {key: np.asarray(value, float) for key, value in parameters.items()}
    return _EXPECTATIONS[family.name](of)


def entropy(family, parameters):
    """The entropy of the value, whose power has the named distribution."""
    of = {key: np.asarray(value, float) for key, value in parameters.items()}
    return float(_ENTROPY[family.name](of, family.power))


def random_expectations(family, shape, rng):
    """Expectations that some distribution has; `shape` is that of a value, batch axes first."""
    return _RANDOM[family.name](shape, rng)


def _gamma(of):
    a, b = of["concentration"], of["rate"]
    return {"value": a / b, "log": digamma(a) - np.log(b)}


def _gamma_entropy(of, power):
    change = np.log(abs(power)) - (1 / power - 1) * _gamma(of)["log"]
    return stats.gamma(of["concentration"], scale=1 / of["rate"]).entropy() - change


def _beta(of):
    both = digamma(of["a"] + of["b"])
    return {"log": digamma(of["a"]) - both, "log1m": digamma(of["b"]) - both}


def _wishart(of):
    nu, inverse = of["concentration"], of["inverse_scale"]
    dim = len(inverse)
    logdet = digamma((nu - np.arange(dim)) / 2).sum() + dim * np.log(2)
    return {
        "value": nu * np.linalg.inv(inverse),
        "logdet": logdet - np.linalg.slogdet(inverse)[1],
    }


def _wishart_entropy(of, power):
    nu, inverse = of["concentration"], of["inverse_scale"]
    dim, logdet = len(inverse), _wishart(of)["logdet"]
    value = -nu / 2 * np.linalg.slogdet(inverse)[1] + nu * dim / 2 * np.log(2)
    value += multigammaln(nu / 2, dim) - (nu - dim - 1) / 2 * logdet + nu * dim / 2
    return value - (dim + 1) * logdet if power == -1 else value


def _gaussian_entropy(precision):
    return 0.5 * len(precision) * np.log(2 * np.pi * np.e) - 0.5 * np.linalg.slogdet(precision)[1]


def _normal_gamma_entropy(of, power):
    given = _gaussian_entropy(of["precision"]) - len(of["precision"]) / 2 * _gamma(of)["log"]
    return _gamma_entropy(of, power) + given


def _normal_wishart_entropy(of, power):
    dim = len(of["mean"])
    given = _gaussian_entropy(of["kappa"] * np.eye(dim)) - 0.5 * _wishart(of)["logdet"]
    return _wishart_entropy(of, power) + given


_EXPECTATIONS = {
    "Normal": lambda of: {"mean": of["mean"], "variance": 1 / of["precision"]},
    "MultivariateNormal": lambda of: {
        "mean": of["mean"],
        "covariance": np.linalg.inv(of["precision"]),
    },
    "Gamma": _gamma,
    "Beta": _beta,
    "Dirichlet": lambda of: {
        "log": digamma(of["concentration"]) - digamma(of["concentration"].sum())
    },
    "Wishart": _wishart,
    "NormalGamma": lambda of: {
        "mean": of["mean"],
        "covariance": np.linalg.inv(of["precision"]),
        **_gamma(of),
    },
    "NormalWishart": lambda of: {"mean": of["mean"], "variance": 1 / of["kappa"], **_wishart(of)},
    "LogNormal": lambda of: {"mean": of["mean"], "variance": 1 / of["precision"]},
}
_ENTROPY = {
    "Normal": lambda of, _: _gaussian_entropy(of["precision"].reshape(1, 1)),
    "MultivariateNormal": lambda of, _: _gaussian_entropy(of["precision"]),
    "Gamma": _gamma_entropy,
    "Beta": lambda of, _: stats.beta(of["a"], of["b"]).entropy(),
    "Dirichlet": lambda of, _: stats.dirichlet(of["concentration"]).entropy(),
    "Wishart": _wishart_entropy,
    "NormalGamma": _normal_gamma_entropy,
    "NormalWishart": _normal_wishart_entropy,
    "LogNormal": lambda of, _: of["mean"] + _gaussian_entropy(of["precision"].reshape(1, 1)),
}


def _random_matrix(shape, rng):
    root = rng.normal(size=shape)
    return root @ np.swapaxes(root, -1, -2) + 0.3 * np.eye(shape[-1])


def _random_normal(shape, rng):
    return {"mean": rng.normal(size=shape), "variance": rng.uniform(0.2, 1.0, shape)}


def _random_vector(shape, rng):
    covariance = _random_matrix((*shape, shape[-1]), rng)
    return {"mean": rng.normal(size=shape), "covariance": covariance}


def _random_gamma(shape, rng):
    value = rng.uniform(0.5, 2.0, shape)
    return {"value": value, "log": np.log(value) - rng.uniform(0.1, 0.6, shape)}


def _random_dirichlet(shape, rng):
    concentration = rng.uniform(0.5, 3.0, shape)
    return {"log": digamma(concentration) - digamma(concentration.sum(-1, keepdims=True))}


def _random_beta(shape, rng):
    log = _random_dirichlet((*shape, 2), rng)["log"]
    return {"log": log[..., 0], "log1m": log[..., 1]}


def _random_wishart(shape, rng):
    value = _random_matrix(shape, rng)
    shift = rng.uniform(0.2, 0.8, shape[:-2])
    return {"value": value, "logdet": np.linalg.slogdet(value)[1] - shift}


_RANDOM = {
    "Normal": _random_normal,
    "MultivariateNormal": _random_vector,
    "Gamma": _random_gamma,
    "Beta": _random_beta,
    "Dirichlet": _random_dirichlet,
    "Wishart": _random_wishart,
    "LogNormal": _random_normal,
}
