"""Two members of every exponential family, and what others say about them."""

import jax.numpy as jnp
import numpy as np
from scipy import stats

from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.families.discrete import Categorical
from vijax.families.gamma import Gamma
from vijax.families.gaussian_chain import GaussianChain
from vijax.families.log_normal import LogNormal
from vijax.families.multivariate_normal import MultivariateNormal
from vijax.families.normal import Normal
from vijax.families.normal_gamma import NormalGamma
from vijax.families.normal_wishart import NormalWishart
from vijax.families.wishart import Wishart

BATCH = (2,)


def matrices(rng, size):
    half = rng.normal(size=(*BATCH, size, size + 2))
    return jnp.asarray(half @ half.swapaxes(-1, -2) / size)


def vectors(rng, *shape):
    return jnp.asarray(rng.normal(size=(*BATCH, *shape)))


def positives(rng, *shape):
    return jnp.asarray(rng.uniform(0.5, 4.0, (*BATCH, *shape)))


def normal_gamma(rng, power):
    return NormalGamma(vectors(rng, 2), matrices(rng, 2), 3 + positives(rng), positives(rng), power)


def normal_wishart(rng, power):
    return NormalWishart(
        vectors(rng, 2), positives(rng), 6 + positives(rng), matrices(rng, 2), power
    )


def chain(rng):
    """Seven steps: `P = A' A` with `A` block-bidiagonal."""
    coupling = 0.5 * vectors(rng, 6, 2, 2)
    own = jnp.stack([matrices(rng, 2) for _ in range(7)], axis=1)
    square = coupling.mT @ jnp.linalg.solve(own[:, 1:], coupling)
    return GaussianChain.of(vectors(rng, 7, 2), own.at[:, :-1].add(square), coupling)


MAKERS = {
    "normal": lambda rng: Normal(vectors(rng), positives(rng)),
    "multivariate normal": lambda rng: MultivariateNormal(vectors(rng, 4), matrices(rng, 4)),
    "gaussian chain": chain,
    "log-normal": lambda rng: LogNormal(vectors(rng), positives(rng)),
    "bernoulli": lambda rng: Categorical(vectors(rng, 1)),
    "categorical": lambda rng: Categorical(vectors(rng, 3)),
    "gamma": lambda rng: Gamma(positives(rng), positives(rng)),
    "inverse gamma": lambda rng: Gamma(3 + positives(rng), positives(rng), -1),
    "scale of gamma precision": lambda rng: Gamma(3 + positives(rng), positives(rng), -2),
    "beta": lambda rng: Beta(positives(rng), positives(rng)),
    "dirichlet": lambda rng: Dirichlet(positives(rng, 3)),
    "wishart": lambda rng: Wishart(4 + positives(rng), matrices(rng, 3)),
    "inverse wishart": lambda rng: Wishart(6 + positives(rng), matrices(rng, 2), -1),
    "normal-gamma": lambda rng: normal_gamma(rng, 1),
    "normal inverse gamma": lambda rng: normal_gamma(rng, -1),
    "normal-wishart": lambda rng: normal_wishart(rng, 1),
    "normal inverse wishart": lambda rng: normal_wishart(rng, -1),
}


def members(name):
    """Two different members of a family with a batch of two; float64."""
    rng = np.random.default_rng(len(name))
    return MAKERS[name](rng), MAKERS[name](rng)


def _outer(x, y):
    return jnp.einsum("...i,...j->...ij", x, y)


def mean_parameters(family, e):
    """What `family.mean_parameters` are as a function of `family.expectations`."""
    match family:
        case Normal():
            return {"value": e["mean"], "square": e["variance"] + e["mean"] ** 2}
        case MultivariateNormal():
            return {"value": e["mean"], "outer": e["covariance"] + _outer(e["mean"], e["mean"])}
        case GaussianChain():
            m = e["mean"]
            cross = e["cross"] + _outer(m[..., 1:, :], m[..., :-1, :])
            return {"value": m, "outer": e["covariance"] + _outer(m, m), "cross": cross}
        case LogNormal():
            return {"log": e["mean"], "square": e["variance"] + e["mean"] ** 2}
        case Categorical():
            return {"indicator": e["probs"][..., 1:]}
        case NormalGamma():
            linear = e["value"][..., None] * e["mean"]
            second = e["covariance"] + _outer(linear, e["mean"])
            return {"product": linear, "outer": second, "value": e["value"], "log": e["log"]}
        case NormalWishart():
            linear = jnp.einsum("...ij,...j->...i", e["value"], e["mean"])
            quadratic = 2 * e["variance"] + jnp.sum(linear * e["mean"], -1)
            rest = {"value": e["value"], "logdet": e["logdet"]}
            return {"product": linear, "quadratic": quadratic, **rest}
        case _:
            return e


def each(function, *arguments):
    """A function of each member of the batch."""
    return np.array([function(*one) for one in zip(*arguments, strict=True)])


def of_categorical(q, x):
    odds = np.exp(np.concatenate([np.zeros((*BATCH, 1)), q.logits], -1))
    return np.log(each(lambda row, k: row[k] / row.sum(), odds, x))


def of_gamma(q, x):
    jacobian = np.log(abs(q.power)) + (q.power - 1) * np.log(x)
    return stats.gamma.logpdf(x**q.power, q.concentration, scale=1 / q.rate) + jacobian


def of_wishart(q, x):
    if q.power == -1:
        return each(stats.invwishart.logpdf, x, q.concentration, q.inverse_scale)
    return each(stats.wishart.logpdf, x, q.concentration, np.linalg.inv(q.inverse_scale))


def of_normal_gamma(q, x):
    t = (x[1] ** q.power)[:, None, None]
    return density(MultivariateNormal(q.mean, t * q.precision), x[0]) + of_gamma(q.gamma, x[1])


def of_normal_wishart(q, x):
    precision = x[1] if q.power == 1 else np.linalg.inv(x[1])
    given = MultivariateNormal(q.mean, q.kappa[:, None, None] * precision)
    return density(given, x[0]) + of_wishart(q.wishart, x[1])


def of_chain(q, x):
    """From the dense precision matrix."""
    steps, k = q.mean.shape[-2:]
    whole = np.zeros((*BATCH, steps, k, steps, k))
    for t in range(steps):
        whole[:, t, :, t, :] = q.precision[:, t]
        if t:
            whole[:, t, :, t - 1, :] = q.coupling[:, t - 1]
            whole[:, t - 1, :, t, :] = q.coupling[:, t - 1].swapaxes(-1, -2)
    flat = [a.reshape(*BATCH, -1) for a in (x, q.mean)]
    return density(MultivariateNormal(flat[1], whole.reshape(*BATCH, steps * k, -1)), flat[0])


DENSITIES = {
    Normal: lambda q, x: stats.norm.logpdf(x, q.mean, q.precision**-0.5),
    MultivariateNormal: lambda q, x: each(
        stats.multivariate_normal.logpdf, x, q.mean, np.linalg.inv(q.precision)
    ),
    GaussianChain: of_chain,
    LogNormal: lambda q, x: stats.lognorm.logpdf(x, q.precision**-0.5, scale=np.exp(q.mean)),
    Categorical: of_categorical,
    Gamma: of_gamma,
    Beta: lambda q, x: stats.beta.logpdf(x, q.a, q.b),
    Dirichlet: lambda q, x: each(stats.dirichlet.logpdf, x, q.concentration),
    Wishart: of_wishart,
    NormalGamma: of_normal_gamma,
    NormalWishart: of_normal_wishart,
}


def density(family, value):
    """The log density of a batch by SciPy."""
    return DENSITIES[type(family)](family, value)
