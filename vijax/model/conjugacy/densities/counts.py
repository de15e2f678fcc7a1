"""`E log p` of distributions of counts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln, log_ndtr

from vijax.model.conjugacy.densities.arguments import Arguments, Row, complement, data, times_log
from vijax.model.conjugacy.expectation import Expectation, NotConjugate, safe_sqrt
from vijax.model.conjugacy.polynomials import scale
from vijax.model.conjugacy.values import Opaque, Polynomial, Value, known


def _bernoulli(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    return _trials(expectation, arguments["probs"], jnp.ones(()), data(x, "value"))


def _binomial(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    n, k = data(arguments["total_count"], "total_count"), data(x, "value")
    log_choose = -gammaln(k + 1) - gammaln(n - k + 1) + gammaln(n + 1)
    return log_choose + _trials(expectation, arguments["probs"], n, k)


def _trials(expectation: Expectation, probs: Value, n: Array, k: Array) -> Array:
    """`k` successes in `n` trials, without the number of orders."""
    if isinstance(probs, Opaque) and probs.argument is not None:
        link, factor = link_of(probs)
        terms = scale(probs.argument.terms or (), (np.asarray(factor), ()))
        if link == "logistic":
            return _logistic(expectation, Polynomial(probs.dims, terms), "probs", n, k)
        if link == "probit":
            return _probit(expectation, Polynomial(probs.dims, terms), n, k)
    with expectation.about("probs"):
        success = times_log(k, expectation.log(probs, additive=True, needed=k > 0))
        return success + times_log(n - k, complement(expectation, probs))


def link_of(value: Opaque) -> tuple[str | None, float]:
    """The name of an elementwise function of a polynomial, by its values, and a factor inside."""
    from scipy import special

    grid = np.linspace(-4.0, 4.0, 41)
    if value.apply is None:
        return None, 1.0
    found = np.asarray(value.apply(grid))
    for name, function, factor in _LINKS:
        if np.allclose(found, getattr(special, function)(factor * grid), rtol=1e-5, atol=1e-7):
            return name, factor
    return None, 1.0


_LINKS = (
    ("logistic", "expit", 1.0),
    ("probit", "ndtr", 1.0),
    ("probit", "ndtr", math.sqrt(2)),  # of an argument that is already divided
)


def _probit(expectation: Expectation, value: Polynomial, n: Array, k: Array) -> Array:
    """A truncated normal variable, integrated over its optimal distribution (Albert, Chib 1993)."""
    with expectation.about("probs"):
        expectation.augmented("truncated normal variables")
        mean = expectation.mean(value)
        variance = expectation.quadratic(known(np.asarray(1.0)), value) - mean**2
    return k * log_ndtr(mean) + (n - k) * log_ndtr(-mean) - 0.5 * n * variance


def _bernoulli_logits(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    return _logistic(expectation, arguments["logits"], "logits", jnp.ones(()), data(x, "value"))


def _binomial_logits(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    n, k = data(arguments["total_count"], "total_count"), data(x, "value")
    log_choose = -gammaln(k + 1) - gammaln(n - k + 1) + gammaln(n + 1)
    return log_choose + _logistic(expectation, arguments["logits"], "logits", n, k)


def _negative_binomial_logits(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    r, k = data(arguments["total_count"], "total_count"), data(x, "value")
    constant = gammaln(k + r) - gammaln(r) - gammaln(k + 1)
    return constant + _logistic(expectation, arguments["logits"], "logits", k + r, k)


def _negative_binomial(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    r, k = data(arguments["total_count"], "total_count"), data(x, "value")
    constant = gammaln(k + r) - gammaln(r) - gammaln(k + 1)
    return constant + _trials(expectation, arguments["probs"], k + r, k)


def _logistic(expectation: Expectation, logits: Value, name: str, n: Array, k: Array) -> Array:
    """`k eta - n log(1 + exp(eta))` with a Polya-Gamma variable at its optimal distribution.

    `E log(1 + exp(eta)) <= E eta / 2 + c / 2 - log sigmoid(c)` with `c^2 = E eta^2`. Sources:
    Jaakkola, Jordan, 2000; Polson, Scott, Windle, 2013; Durante, Rigon, 2019.
    """
    with expectation.about(name):
        if isinstance(logits, Opaque):
            raise NotConjugate(f"depends on {logits.reason}")
        mean = expectation.mean(logits)
        expectation.augmented("Polya-Gamma variables")
        root = safe_sqrt(expectation.quadratic(known(np.asarray(1.0)), logits))
    return (k - 0.5 * n) * mean - n * (0.5 * root - jax.nn.log_sigmoid(root))


def _geometric(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    failures = data(x, "value")
    return _trials(expectation, arguments["probs"], failures + 1, jnp.ones(()))


def _poisson(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    counts = data(x, "value")
    with expectation.about("rate"):
        mean = expectation.mean(arguments["rate"])
        log_rate = expectation.log(arguments["rate"], additive=True, needed=counts > 0)
    return times_log(counts, log_rate) - mean - gammaln(counts + 1)


ROWS: dict[type, tuple[tuple[str, ...], Row]] = {
    dist.BernoulliProbs: (("probs",), _bernoulli),
    dist.BernoulliLogits: (("logits",), _bernoulli_logits),
    dist.BinomialProbs: (("probs", "total_count"), _binomial),
    dist.BinomialLogits: (("logits", "total_count"), _binomial_logits),
    dist.GeometricProbs: (("probs",), _geometric),
    dist.NegativeBinomialProbs: (("probs", "total_count"), _negative_binomial),
    dist.NegativeBinomialLogits: (("logits", "total_count"), _negative_binomial_logits),
    dist.Poisson: (("rate",), _poisson),
}
