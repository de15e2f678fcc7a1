"""Models that look conjugate and are not: each must be refused, with the reason.

`words` are what the reason must contain: the argument and the site where conjugacy fails, or the
latent whose prior has no conjugate likelihood.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro import handlers

Y = np.asarray([0.3, 1.9, -0.4, 2.2, 1.1])
X = np.asarray([0.1, 1.0, -0.6, 0.8, 0.4])
COUNTS = np.asarray([3, 0, 5, 1, 2])
LABELS = np.asarray([0, 2, 1, 2, 2])
BITS = np.asarray([1, 0, 0, 1, 1])
ROWS = np.stack([Y, X], -1)


class FalseFriend(NamedTuple):
    """A model, its data and words of the reason for which it is refused."""

    model: Callable[..., None]
    args: tuple
    words: tuple[str, ...]


def _one(words, prior, kind, data=Y, name="w"):
    """A latent `name` with a prior, and rows `y` of a distribution that depends on it."""

    def model(y):
        value = numpyro.sample(name, prior())
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", kind(value), obs=y)

    return FalseFriend(model, (data,), words)


def _normal():
    return dist.Normal(0.0, 1.0)


def _vector():
    return dist.Normal(0.0, 1.0).expand([2]).to_event(1)


def _gamma():
    return dist.Gamma(2.0, 1.0)


def _simplex():
    return dist.Dirichlet(jnp.ones(3))


def _loc(function, prior=_normal):
    return _one(("loc", "y", "w"), prior, lambda w: dist.Normal(function(w), 1.0))


def _scale(function, prior=_normal):
    return _one(("scale", "y", "w"), prior, lambda w: dist.Normal(0.0, function(w)))


def _heteroscedastic(x, y):
    """The slope is in the mean and, in the same row, in the spread."""
    w = numpyro.sample("w", dist.Gamma(2.0, 1.0))
    v = numpyro.sample("v", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(v + w * x, 1 / jnp.sqrt(w)), obs=y)


def _spread_by_row(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(1.0, jnp.exp(w[0] + w[1] * x)), obs=y)


def _sum_of_variances(y):
    a = numpyro.sample("a", dist.InverseGamma(2.0, 1.0))
    b = numpyro.sample("b", dist.InverseGamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(0.0, jnp.sqrt(a + b)), obs=y)


def _prior_of_own_scale(y):
    """The latent's own value is the spread of another's prior."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    v = numpyro.sample("v", dist.Normal(0.0, jnp.abs(w)))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(v, 1.0), obs=y)


def _factor(y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.factor("penalty", -(w**4))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y)


def _mask(y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)), handlers.mask(mask=w > 0):
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y)


def _gather(y):
    """A row of a table at an index that is a continuous latent, rounded."""
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("levels", 3):
        level = numpyro.sample("level", dist.Normal(0.0, 1.0))
    chosen = level[jnp.clip(jnp.round(w), 0, 2).astype(int)]
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(chosen, 1.0), obs=y)


def _lkj(y):
    L = numpyro.sample("L", dist.LKJCholesky(2, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=L), obs=y)


def _shifted_matrix(y):
    L = numpyro.sample("L", dist.Wishart(4.0, jnp.eye(2)))
    with numpyro.plate("rows", len(y)):
        shifted = L + jnp.eye(2)
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), precision_matrix=shifted), obs=y)


def _inverted_factor(y):
    """The inverse of a covariance's factor is no factor of its inverse."""
    S = numpyro.sample("S", dist.Wishart(4.0, jnp.eye(2)))
    with numpyro.plate("rows", len(y)):
        tril = jnp.linalg.inv(jnp.linalg.cholesky(S))
        numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), scale_tril=tril), obs=y)


def _loop(y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    loc = lax.fori_loop(0, 3, lambda _, value: jnp.cos(value), w)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def _elements(y):
    """Two elements of one vector, multiplied."""
    w = numpyro.sample("w", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(w[0] * w[1], 1.0), obs=y)


def _independent_elements(y):
    """Two independent elements of one site, multiplied: updated together, the ELBO may fall."""
    with numpyro.plate("features", 2):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(w[0] * w[1], 1.0), obs=y)


def _transformed():
    return dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.SigmoidTransform())


FALSE_FRIENDS = {
    # Functions of the latent that the argument does not allow.
    "scale exp": _scale(jnp.exp),
    "scale softplus": _scale(jax.nn.softplus),
    "scale of a gamma variable": _scale(lambda w: w, _gamma),
    "scale inverse of a precision": _scale(lambda w: 1 / w, _gamma),
    "scale with an offset": _scale(lambda w: 1 / jnp.sqrt(w) + 0.1, _gamma),
    "scale is a variance": _scale(lambda w: w, lambda: dist.InverseGamma(2.0, 1.0)),
    "loc square": _loc(lambda w: w**2),
    "loc product with itself": _loc(lambda w: w * (w + 1)),
    "loc absolute": _loc(jnp.abs),
    "loc clip": _loc(lambda w: jnp.clip(w, -1.0, 1.0)),
    "loc where": _loc(lambda w: jnp.where(w > 0, w, 0.1 * w)),
    "loc maximum": _loc(jax.nn.relu),
    "loc sine": _loc(jnp.sin),
    "loc reciprocal": _loc(lambda w: 1 / w),
    "loc of a gamma variable": _loc(lambda w: w, _gamma),
    "loc of a beta variable": _loc(lambda w: w, lambda: dist.Beta(2.0, 2.0)),
    "loc of a log-normal variable": _loc(lambda w: w, lambda: dist.LogNormal(0.0, 1.0)),
    "loc logarithm": _loc(jnp.log, _gamma),
    "loc product of two elements": FalseFriend(_elements, (Y,), ("loc", "y", "w")),
    "loc product of independent elements": FalseFriend(
        _independent_elements, (Y,), ("loc", "y", "w")
    ),
    "loc iterated": FalseFriend(_loop, (Y,), ("loc", "y", "w")),
    "loc indexed by a latent": FalseFriend(_gather, (Y,), ("loc", "y", "w")),
    # The same latent in two arguments, or two in one where a sum is not allowed.
    "loc and scale": FalseFriend(_heteroscedastic, (X, Y), ("y", "w")),
    "loc and precision": _one(
        ("y", "w"), _gamma, lambda w: dist.Normal(w, 1 / jnp.sqrt(w)), np.abs(Y)
    ),
    "scale by row": FalseFriend(_spread_by_row, (X, Y), ("scale", "y", "w")),
    "scale sum of variances": FalseFriend(_sum_of_variances, (Y,), ("scale", "y", "a", "b")),
    "scale absolute": FalseFriend(_prior_of_own_scale, (Y,), ("scale", "v", "w")),
    # Other arguments.
    "rate exp": _one(("rate", "y", "w"), _normal, lambda w: dist.Poisson(jnp.exp(w)), COUNTS),
    "rate reciprocal sum": _one(
        ("rate", "y", "w"), _gamma, lambda w: dist.Poisson(1 / (1 + w)), COUNTS
    ),
    "concentration": _one(
        ("concentration", "y", "w"), _gamma, lambda w: dist.Gamma(w, 1.0), np.abs(Y)
    ),
    "degrees of freedom": _one(("df", "y", "w"), _gamma, lambda w: dist.StudentT(w, 0.0, 1.0)),
    "probs sigmoid squared": _one(
        ("probs", "y", "w"), _normal, lambda w: dist.Bernoulli(jax.nn.sigmoid(w) ** 2), BITS
    ),
    "probs square": _one(
        ("probs", "y", "w"), lambda: dist.Beta(2.0, 2.0), lambda w: dist.Bernoulli(w**2), BITS
    ),
    "probs mean": _one(
        ("probs", "y", "w"),
        lambda: dist.Beta(2.0, 2.0),
        lambda w: dist.Bernoulli((w + 0.5) / 2),
        BITS,
    ),
    "probs normalized": _one(
        ("probs", "y", "w"),
        lambda: dist.Gamma(2.0, 1.0).expand([3]).to_event(1),
        lambda w: dist.Categorical(w / w.sum()),
        LABELS,
    ),
    "probs tempered": _one(
        ("probs", "y", "w"), _simplex, lambda w: dist.Categorical(w**2 / (w**2).sum()), LABELS
    ),
    "logits": _one(("logits", "y", "w"), _vector, lambda w: dist.Categorical(logits=w), BITS),
    "factor": FalseFriend(_factor, (Y,), ("penalty", "w")),
    "mask": FalseFriend(_mask, (Y,), ("mask", "y", "w")),
    # Matrices.
    "Cholesky factor of correlations": FalseFriend(_lkj, (ROWS,), ("L",)),
    "precision matrix shifted": FalseFriend(_shifted_matrix, (ROWS,), ("y", "L")),
    "inverse of a factor": FalseFriend(_inverted_factor, (ROWS,), ("y", "S")),
    # Priors that no likelihood here is conjugate to.
    "half-normal scale": _one(("w",), lambda: dist.HalfNormal(1.0), lambda w: dist.Normal(0.0, w)),
    "log-normal scale": _one(
        ("w",), lambda: dist.LogNormal(0.0, 1.0), lambda w: dist.Normal(0.0, w)
    ),
    "uniform scale": _one(("w",), lambda: dist.Uniform(0.0, 3.0), lambda w: dist.Normal(0.0, w)),
    "truncated normal mean": _one(
        ("w",), lambda: dist.TruncatedNormal(0.0, 1.0, low=0.0), lambda w: dist.Normal(w, 1.0)
    ),
    "transformed mean": _one(("w",), _transformed, lambda w: dist.Normal(w, 1.0)),
}
