"""The expected log joint density of a model, from nothing but the model function.

A function that is affine in the statistics of each block has the same expectation under any
distribution with the same mean parameters. So `E_q[log p(x, z)]` is a plain average over a few
points per block: no table of distributions, no rule for an argument and no family is consulted.
Blocks, and the elements of a batched block, are independent: the average is over the product of
their points, which keeps this to small models (some ten elements).

Points of equal weight that reproduce the mean parameters exactly, each of the families in closed
form:

- Normal `m +- s`; of a vector `m +- sqrt(k) L e_i`, with `L L'` the covariance.
- Gamma `exp(l +- d)` with `l = E log t` and `cosh d = E t / exp(l)`; Wishart the same along a ray.
- Beta the roots of `x^2 - (1 + exp(2 a) - exp(2 b)) x + exp(2 a)`, with `a = E log x` and
  `b = E log(1 - x)`; Dirichlet the same, all components but the first in fixed proportion.
- NormalGamma and NormalWishart: a precision as above, then the mean given the precision.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer.util import log_density

CHUNK = 1 << 14  # joint points that are evaluated at a time


class Family(NamedTuple):
    """The name of an exponential family; a value to this power has the named distribution."""

    name: str
    power: int = 1


def points(family, expectations):
    """Points of equal weight with the mean parameters of a block.

    Args:
        family: `Family`; for joint families a value is a pair (mean, precision).
        expectations: its expectations by name, with leading batch axes.

    Returns:
        A tuple with an array `(points, *batch, *event)` per component of the value.
    """
    return _POINTS[family.name](
        {key: np.asarray(value, float) for key, value in expectations.items()}, family.power
    )


def _normal(of, power):
    spread = np.sqrt(of["variance"])
    return (np.stack([of["mean"] - spread, of["mean"] + spread]),)


def _directions(factor):
    """`+- sqrt(k) L e_i`, `(2 k, *batch, k)`: mean 0, covariance `L L'`, from `L` `(*B, k, k)`."""
    columns = np.moveaxis(factor, -1, 0) * math.sqrt(factor.shape[-1])
    return np.concatenate([columns, -columns])


def _multivariate_normal(of, power):
    return (of["mean"] + _directions(np.linalg.cholesky(of["covariance"])),)


def _two_scales(log_mean, mean_log):
    """Two positive numbers with the logarithm of their mean and the mean of their logarithms."""
    width = np.arccosh(np.maximum(np.exp(log_mean - mean_log), 1.0))
    return np.exp(np.stack([mean_log - width, mean_log + width]))


def _gamma(of, power):
    return (_two_scales(np.log(of["value"]), of["log"]) ** (1.0 / power),)


def _beta(of, power):
    product, rest = np.exp(2 * of["log"]), np.exp(2 * of["log1m"])
    total = 1 + product - rest
    root = np.sqrt(np.maximum(total**2 - 4 * product, 0.0))
    high = (total + root) / 2
    return (np.stack([product / high, high]),)


def _dirichlet(of, power):
    first, others = of["log"][..., 0], of["log"][..., 1:]
    proportions = np.exp(others)
    rest = proportions.sum(-1)
    (share,) = _beta({"log": first, "log1m": np.log(rest)}, 1)
    others = (1 - share)[..., None] * proportions / rest[..., None]
    return (np.concatenate([share[..., None], others], -1),)


def _wishart(of, power):
    value = of["value"]
    dim = value.shape[-1]
    shift = (of["logdet"] - np.linalg.slogdet(value)[1]) / dim
    scaled = _two_scales(np.zeros_like(shift), shift)[..., None, None] * value
    return (np.linalg.inv(scaled) if power == -1 else scaled,)


def _normal_gamma(of, power):
    return _joint(of["mean"], np.linalg.cholesky(of["covariance"]), _gamma(of, power)[0], power)


def _joint(mean, factor, scales, power):
    """Means `mean +- sqrt(k) t^(-1/2) L e_i` for each of the precisions `t = x^power`."""
    moved = _directions(factor)
    pairs = [
        (mean + direction / np.sqrt(scale**power)[..., None], scale)
        for scale in scales
        for direction in moved
    ]
    return tuple(map(np.stack, zip(*pairs, strict=True)))


def _normal_wishart(of, power):
    pairs = []
    for precision in _wishart(of, 1)[0]:
        covariance = np.linalg.inv(precision) * of["variance"][..., None, None]
        moved = _directions(np.linalg.cholesky(covariance))
        pairs += [(of["mean"] + direction, precision) for direction in moved]
    means, precisions = map(np.stack, zip(*pairs, strict=True))
    return means, np.linalg.inv(precisions) if power == -1 else precisions


def _log_normal(of, power):
    return (np.exp(_normal(of, power)[0]),)


_POINTS = {
    "Normal": _normal,
    "MultivariateNormal": _multivariate_normal,
    "Gamma": _gamma,
    "Beta": _beta,
    "Dirichlet": _dirichlet,
    "Wishart": _wishart,
    "NormalGamma": _normal_gamma,
    "NormalWishart": _normal_wishart,
    "LogNormal": _log_normal,
}
# Axes of one value, per component; a scalar mean of a NormalGamma has an axis of size one.
_EVENT = {
    "MultivariateNormal": (1,),
    "Dirichlet": (1,),
    "Wishart": (2,),
    "NormalGamma": (1, 0),
    "NormalWishart": (1, 2),
}


def expected_log_joint(model, args, families, expectations, discrete=None):
    """`log sum_d exp(E_q[log p(x, z, d)])`, by averages over points with the mean parameters of q.

    Args:
        model: a NumPyro model function.
        args: its arguments.
        families: the family of each block, by the name of its site; the key of a block with
            several sites is a tuple of names. A multivariate normal over several sites, or over a
            site that is not a vector, holds their values one after the other.
        expectations: the expectations of each block, by the same keys.
        discrete: the number of values of each discrete latent site, by name.

    Returns:
        The expected log joint density; of the discrete sites all joint values are added up.
    """
    with jax.enable_x64(True):
        shapes = _shapes(model, args)
        blocks = {key: _block(key, families[key], expectations[key], shapes) for key in families}
        sizes = [size for _, size, count in blocks.values() for _ in range(count)]
        grid = np.indices(sizes).reshape(len(sizes), -1).T if sizes else np.zeros((1, 0), int)
        configurations = _configurations(discrete or {}, shapes)

        def value(values, configuration):
            return log_density(model, args, {}, {**values, **configuration})[0]

        evaluate = jax.jit(jax.vmap(jax.vmap(value, (0, None)), (None, 0)))
        total = 0.0
        for start in range(0, len(grid), CHUNK):
            part = _values(blocks, grid[start : start + CHUNK])
            total = total + np.asarray(evaluate(part, configurations)).sum(-1)
        means = np.broadcast_to(total / len(grid), (_number(configurations),))
        return float(jax.nn.logsumexp(jnp.asarray(means)))


def _shapes(model, args):
    """Shapes of the values of all sites; nothing is computed."""

    def values():
        trace = handlers.trace(handlers.seed(model, 0)).get_trace(*args)
        return {name: one["value"] for name, one in trace.items() if one["type"] == "sample"}

    return {name: one.shape for name, one in jax.eval_shape(values).items()}


def _number(configurations):
    return len(next(iter(configurations.values()))) if configurations else 1


def _block(key, family, expectations, shapes):
    """Values by site `(points, elements, *rest)`, the number of points and that of elements."""
    found = points(family, expectations)
    event = _EVENT.get(family.name, (0,))
    size = len(found[0])
    batch = found[0].shape[1 : found[0].ndim - event[0]]
    count = math.prod(batch)
    flat = [one.reshape(size, count, -1) for one in found]
    names = (key,) if isinstance(key, str) else key
    if family.name == "MultivariateNormal":
        flat = _split(flat[0], [math.prod(shapes[name]) // count for name in names])
    return (
        {name: (one, shapes[name]) for name, one in zip(names, flat, strict=True)},
        size,
        count,
    )


def _split(flat, sizes):
    return np.split(flat, np.cumsum(sizes)[:-1], axis=-1)


def _values(blocks, grid):
    """Values of all sites at rows of the grid, `(rows, *shape)`."""
    values, column = {}, 0
    for sites, _, count in blocks.values():
        chosen = grid[:, column : column + count]
        column += count
        for name, (flat, shape) in sites.items():
            values[name] = flat[chosen, np.arange(count)].reshape(len(grid), *shape)
    return values


def _configurations(discrete, shapes):
    """All joint values of the discrete sites, `(configurations, *shape)` each."""
    if not discrete:
        return {"": np.zeros(1)}  # one configuration, of a name that no model has
    counts = {name: math.prod(shapes[name]) for name in discrete}
    ranges = [range(discrete[name]) for name in discrete for _ in range(counts[name])]
    table = np.asarray(list(itertools.product(*ranges)), np.int32)
    parts = _split(table, list(counts.values()))
    return {
        name: part.reshape(len(table), *shapes[name])
        for name, part in zip(counts, parts, strict=True)
    }
