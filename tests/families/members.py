"""Two members of every exponential family, and its mean parameters as functions of expectations."""

import jax.numpy as jnp
import numpy as np

from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.families.gamma import Gamma
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
    return NormalGamma(vectors(rng, 3), matrices(rng, 3), 3 + positives(rng), positives(rng), power)


def normal_wishart(rng, power):
    return NormalWishart(
        vectors(rng, 3), positives(rng), 6 + positives(rng), matrices(rng, 3), power
    )


MAKERS = {
    "normal": lambda rng: Normal(vectors(rng), positives(rng)),
    "multivariate normal": lambda rng: MultivariateNormal(vectors(rng, 3), matrices(rng, 3)),
    "gamma": lambda rng: Gamma(positives(rng), positives(rng)),
    "inverse gamma": lambda rng: Gamma(3 + positives(rng), positives(rng), -1),
    "scale of gamma precision": lambda rng: Gamma(3 + positives(rng), positives(rng), -2),
    "beta": lambda rng: Beta(positives(rng), positives(rng)),
    "dirichlet": lambda rng: Dirichlet(positives(rng, 4)),
    "wishart": lambda rng: Wishart(4 + positives(rng), matrices(rng, 3)),
    "inverse wishart": lambda rng: Wishart(6 + positives(rng), matrices(rng, 3), -1),
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
        case NormalGamma():
            linear = e["value"][..., None] * e["mean"]
            second = e["covariance"] + _outer(linear, e["mean"])
            return {"product": linear, "outer": second, "value": e["value"], "log": e["log"]}
        case NormalWishart():
            linear = jnp.einsum("...ij,...j->...i", e["value"], e["mean"])
            quadratic = 3 * e["variance"] + jnp.sum(linear * e["mean"], -1)
            rest = {"value": e["value"], "logdet": e["logdet"]}
            return {"product": linear, "quadratic": quadratic, **rest}
        case _:
            return e
