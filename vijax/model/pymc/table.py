"""PyMC's distributions that are NumPyro's of the same parameters.

With these a model keeps what `fit` reads of distributions: locations and scales of hierarchies,
means of predictions, values of classes. All others are evaluated by PyMC's own graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from pytensor.graph.basic import Variable
from pytensor.scalar.math import Sigmoid
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.slinalg import cholesky
from pytensor.tensor.special import Softmax

from vijax.model.pymc.graphs import replaced

Build = Callable[..., dist.Distribution]


def _half_normal(loc: Any, scale: Any) -> dist.Distribution:
    return dist.HalfNormal(scale)


_OF_PARAMETERS: dict[str, Build] = {
    "NormalRV": dist.Normal,
    "HalfNormalRV": _half_normal,  # PyMC has no location, PyTensor one of zero
    "StudentTRV": dist.StudentT,
    "CauchyRV": dist.Cauchy,
    "HalfCauchyRV": dist.HalfCauchy,
    "ExponentialRV": lambda scale: dist.Exponential(1 / scale),
    "GammaRV": lambda shape, scale: dist.Gamma(shape, 1 / scale),
    "InvGammaRV": dist.InverseGamma,
    "BetaRV": dist.Beta,
    "UniformRV": dist.Uniform,
    "LogNormalRV": dist.LogNormal,
    "LaplaceRV": dist.Laplace,
    "LogisticRV": dist.Logistic,
    "GumbelRV": dist.Gumbel,
    "WeibullBetaRV": lambda shape, scale: dist.Weibull(scale, shape),
    "MvNormalRV": lambda loc, factor: dist.MultivariateNormal(loc, scale_tril=factor),
    "DirichletRV": dist.Dirichlet,
    "VonMisesRV": dist.VonMises,
    "PoissonRV": dist.Poisson,
    "BernoulliRV": dist.BernoulliProbs,
    "BinomialRV": lambda n, probs: dist.BinomialProbs(probs, n),
    "CategoricalRV": dist.CategoricalProbs,
    "NegBinomialRV": lambda n, p: dist.NegativeBinomialProbs(n, 1 - p),
    "BetaBinomialRV": lambda n, a, b: dist.BetaBinomial(a, b, n),
}
_OF_LOGITS: dict[str, Build] = {
    "BernoulliRV": dist.BernoulliLogits,
    "BinomialRV": lambda n, logits: dist.BinomialLogits(logits, n),
    "CategoricalRV": dist.CategoricalLogits,
}
_COUNTS = {"BinomialRV": (0,), "BetaBinomialRV": (0,)}  # parameters that are integers


def numpyro_distribution(rv: Variable) -> tuple[list[Variable], Build] | None:
    """Parameters of a random variable, and NumPyro's distribution of them; `None` without one."""
    name = type(rv.owner.op).__name__
    if name not in _OF_PARAMETERS:
        return None
    parameters = list(rv.owner.op.dist_params(rv.owner))
    build = _OF_PARAMETERS[name]
    if name in _OF_LOGITS:  # 32 bits do not tell probabilities near one from each other
        logits = _logits(parameters[-1])
        if logits is not None:
            parameters[-1], build = logits, _OF_LOGITS[name]
    if name == "MvNormalRV":  # PyTensor knows the factor of a product of factors
        parameters[-1] = cholesky(parameters[-1])
    counts = _COUNTS.get(name, ())

    def distribution(*values: Any) -> dist.Distribution:
        return build(*[v if i in counts else _floating(v) for i, v in enumerate(values)])

    return parameters, distribution


def _floating(value: Any) -> Any:
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _logits(probs: Variable) -> Variable | None:
    """The logits that probabilities are computed from, in the same shape."""
    inner = probs
    while inner.owner is not None and isinstance(inner.owner.op, DimShuffle):
        inner = inner.owner.inputs[0]
    if inner.owner is None:
        return None
    op = inner.owner.op
    classes = isinstance(op, Softmax) and inner is probs and op.axis in (-1, probs.ndim - 1)
    if classes or (isinstance(op, Elemwise) and isinstance(op.scalar_op, Sigmoid)):
        return replaced([probs], {inner: inner.owner.inputs[0]})[0]
    return None
