"""`E log p` of distributions of probabilities, and of values with given probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import betaln, gammaln

from vijax.model.conjugacy.densities.arguments import (
    Arguments,
    Row,
    at,
    complement,
    data,
    times_log,
)
from vijax.model.conjugacy.expectation import Expectation, NotConjugate
from vijax.model.conjugacy.values import Known, Value, known


def _beta(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    a, b = (data(arguments[name], name) for name in ("concentration1", "concentration0"))
    with expectation.about("value"):
        log_x, log_1mx = expectation.log(x), complement(expectation, x)
    return (a - 1) * log_x + (b - 1) * log_1mx - betaln(a, b)


def _uniform(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    low, high = data(arguments["low"], "low"), data(arguments["high"], "high")
    return -jnp.log(high - low) + jnp.zeros([axis.size for axis in x.dims])


def _dirichlet(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    concentration = data(arguments["concentration"], "concentration")
    with expectation.about("value"):
        log_x = expectation.log(x)
    constant = gammaln(concentration.sum(-1)) - gammaln(concentration).sum(-1)
    return constant + jnp.sum((concentration - 1) * log_x, axis=-1)


def _categorical(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    with expectation.about("probs"):
        return expectation.log(at(arguments["probs"], _integers(x)), additive=True)


def _integers(x: Value) -> Known:
    if not isinstance(x, Known):
        raise NotConjugate("depends on continuous latent sites", "value")
    return x


def _categorical_logits(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    log_probs = jax.nn.log_softmax(data(arguments["logits"], "logits"))
    return expectation.mean(at(known(log_probs), _integers(x)))


def _multinomial(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    counts = data(x, "value")
    with expectation.about("probs"):
        log_probs = expectation.log(arguments["probs"], additive=True, needed=counts > 0)
    constant = gammaln(counts.sum(-1) + 1) - gammaln(counts + 1).sum(-1)
    return constant + jnp.sum(times_log(counts, log_probs), axis=-1)


ROWS: dict[type, tuple[tuple[str, ...], Row]] = {
    dist.Beta: (("concentration1", "concentration0"), _beta),
    dist.Uniform: (("low", "high"), _uniform),
    dist.Dirichlet: (("concentration",), _dirichlet),
    dist.CategoricalProbs: (("probs",), _categorical),
    dist.CategoricalLogits: (("logits",), _categorical_logits),
    dist.MultinomialProbs: (("probs",), _multinomial),
}
