"""`E log p` of distributions whose arguments are polynomials in latent sites, by class.

A row of the table takes the arguments and the value of a distribution to its expected log density,
elementwise over its batch. Rows that are not multi-affine are bounds, `E log p >= f(E t)` with `f`
convex in expectations `E t`: the optimum over an auxiliary variable's distribution (Polya-Gamma,
truncated normal, gamma, counts of each part), of which the gradient is the conjugate update and
the value the ELBO. At a point mass they equal the log density.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import betaln, gammaln, log_ndtr, multigammaln

from vijax.model.conjugacy.expectation import (
    Expectation,
    NotConjugate,
    broadcast,
    with_shape,
)
from vijax.model.conjugacy.interpreter import full_array
from vijax.model.conjugacy.polynomials import (
    Axis,
    Index,
    Known,
    Opaque,
    Polynomial,
    Substitution,
    Term,
    Value,
    add,
    known,
    logarithm,
    map_terms,
    multiply,
    polynomial,
    power,
    scale,
)
from vijax.model.tracing import limits

Arguments = Mapping[str, Value]
Row = Callable[[Expectation, Arguments, Value], Array]
LOG_2PI = math.log(2 * math.pi)


# ---- values


def data(value: Value, name: str) -> Array:
    """The array of an argument that must not depend on latent sites."""
    if isinstance(value, Known):
        return jnp.asarray(full_array(value))
    words = value.reason if isinstance(value, Opaque) else _sites(value)
    raise NotConjugate(f"depends on {words}; this distribution has no conjugate form for it", name)


def _sites(value: Polynomial) -> str:
    terms = (value.terms or ()) + (value.log_terms or ())
    return ", ".join(sorted({atom.site for term in terms for atom in term.atoms}))


def raised(value: Value, exponent: float, name: str) -> Known | Polynomial:
    """A positive argument to a power."""
    if isinstance(value, Known):
        return Known(value.dims, jnp.power(jnp.asarray(value.array, float), exponent), value.labels)
    if isinstance(value, Opaque):
        raise NotConjugate(f"depends on {value.reason}", name)
    found = power(value, exponent)
    if found is None:
        raise NotConjugate(f"is a sum over {_sites(value)}, of which it needs a power", name)
    return found


def difference(one: Value, two: Value, name: str) -> Known | Polynomial:
    """`one - two`."""
    dims = broadcast(one, two)
    first, second = with_shape(one, dims), with_shape(two, dims)
    for value in (first, second):
        if isinstance(value, Opaque):
            raise NotConjugate(f"depends on {value.reason}", name)
    assert not isinstance(first, Opaque)
    assert not isinstance(second, Opaque)
    if isinstance(second, Known):
        minus: Known | Polynomial = Known(dims, -jnp.asarray(second.array, float), second.labels)
    elif second.terms is None:
        raise NotConjugate(f"is a product over {_sites(second)} that enters in a square", name)
    else:
        minus = Polynomial(dims, scale(second.terms, (np.asarray(-1.0), ())))
    found = add(first, minus)
    if found is None:
        raise NotConjugate("is a product over many elements that enters in a square", name)
    return found


def times(one: Value, two: Value) -> Value:
    """The product of two values."""
    dims = broadcast(one, two)
    first, second = with_shape(one, dims), with_shape(two, dims)
    for value in (first, second):
        if isinstance(value, Opaque):
            return value
    assert not isinstance(first, Opaque)
    assert not isinstance(second, Opaque)
    found = multiply(first, second)
    if found is None:
        raise NotConjugate("is a product of which neither factors nor logarithm are known")
    return found


def complement(expectation: Expectation, value: Value) -> Array:
    """`E log(1 - p)` of a probability."""
    if isinstance(value, Known):
        return jnp.log1p(-jnp.asarray(full_array(value)))
    if isinstance(value, Polynomial) and value.terms is not None and len(value.terms) == 1:
        (term,) = value.terms
        if not term.factors and len(term.atoms) == 1 and not term.summed:
            (atom,) = term.atoms
            if atom.kind == "power" and atom.power == 1:
                log = type(atom)(atom.site, "log1m", 1, atom.entries)
                return expectation.mean(Polynomial(value.dims, (Term((), (log,)),)))
    if isinstance(value, Opaque):
        raise NotConjugate(f"depends on {value.reason}")
    original = _one_minus(value)
    if original is None:
        raise NotConjugate(f"is a function of {_sites(value)}, and log(1 - it) is needed")
    return expectation.log(original)


def _one_minus(value: Polynomial) -> Polynomial | None:
    """`p` of a value `1 - p` with a site `p` in the unit interval."""
    logs = value.log_terms
    if logs is None or len(logs) != 1 or len(logs[0].atoms) != 1:
        return None
    (atom,) = logs[0].atoms
    if atom.kind != "log1m" or logs[0].factors:
        return None
    return Polynomial(value.dims, (Term((), (type(atom)(atom.site, "power", 1, atom.entries),)),))


def at(value: Value, index: Array | Value, axis: int = -1) -> Value:
    """The elements of a value at integers along an axis; they broadcast with the other axes."""
    position = axis % len(value.dims)
    where = index if isinstance(index, Known) else known(jnp.asarray(index))
    own = value.dims[position]
    rest = (*value.dims[:position], *value.dims[position + 1 :])
    outer = broadcast(Known(rest, 0, ()), where)
    spread = with_shape(where, outer)
    assert isinstance(spread, Known)
    inside = with_shape(map_dims(value, (*rest, own)), (*outer, own))
    if own.size == 1:
        return map_dims(inside, outer)
    change = Substitution()
    entry = Index(jnp.asarray(spread.array, int), spread.labels)
    if isinstance(inside, Known):
        return change.known(inside, inside.dims[-1], entry, outer)
    if isinstance(inside, Opaque):
        return Opaque(outer, inside.function, inside.sites)
    last = inside.dims[-1]
    return map_terms(inside, lambda term: change.term(term, last, entry), outer)


def map_dims(value: Value, dims: tuple[Axis, ...]) -> Value:
    """A value with its axes in another order."""
    if isinstance(value, Known):
        return Known(dims, value.array, value.labels)
    if isinstance(value, Opaque):
        return Opaque(dims, value.function, value.sites)
    return map_terms(value, lambda term: term, dims)


# ---- real numbers


def _gaussian(expectation: Expectation, arguments: Arguments, x: Value) -> tuple[Array, Array]:
    """`E log precision` and `E[precision (x - loc)^2]`."""
    with expectation.about("scale"):
        precision = raised(arguments["scale"], -2, "scale")
        log_precision = expectation.log(precision)
        expectation.needed(precision)
    with expectation.about("loc"):
        residual = difference(x, arguments["loc"], "loc")
        return log_precision, expectation.quadratic(precision, residual)


def _normal(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    log_precision, square = _gaussian(expectation, arguments, x)
    return 0.5 * (log_precision - LOG_2PI - square)


def _log_normal(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    with expectation.about("value"):
        log_x = expectation.log(x)
        logs = logarithm(x) if not isinstance(x, Opaque) else None
    assert logs is not None
    return _normal(expectation, arguments, Polynomial(x.dims, logs)) - log_x


def _student_t(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """A normal with gamma precision, integrated over its optimal distribution."""
    df = data(arguments["df"], "df")
    log_precision, square = _gaussian(expectation, arguments, x)
    half = 0.5 * (df + 1)
    constant = gammaln(half) - gammaln(0.5 * df) - 0.5 * jnp.log(df * jnp.pi)
    return constant + 0.5 * log_precision - half * jnp.log1p(square / df)


def _cauchy(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    return _student_t(expectation, {**arguments, "df": known(np.asarray(1.0))}, x)


def _laplace(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """A normal with exponential variance, integrated over its optimal distribution."""
    log_precision, square = _gaussian(expectation, arguments, x)
    return 0.5 * log_precision - math.log(2) - _root(square)


def _root(square: Array) -> Array:
    """The square root of a non-negative number, with a finite slope at zero."""
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny ** 0.5))


def _multivariate_normal(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    name = next(
        n for n in ("precision_matrix", "covariance_matrix", "scale_tril") if n in arguments
    )
    with expectation.about(name):
        precision, log_det = precision_of(expectation, arguments[name], name)
    with expectation.about("loc"):
        residual = difference(x, arguments["loc"], "loc")
        square = expectation.form(precision, residual)
    size = x.dims[-1].size
    return 0.5 * (log_det - size * LOG_2PI - square)


def precision_of(expectation: Expectation, matrix: Value, name: str) -> tuple[Value, Array]:
    """The precision of a normal distribution, and the expectation of its log determinant."""
    if isinstance(matrix, Known):
        array = jnp.asarray(full_array(matrix), float)
        if name == "scale_tril":
            array = array @ jnp.swapaxes(array, -1, -2)
        log_det = jnp.linalg.slogdet(array)[1]
        if name != "precision_matrix":
            array, log_det = jnp.linalg.inv(array), -log_det
        return known(array), log_det
    if name == "scale_tril" or isinstance(matrix, Opaque):
        words = matrix.reason if isinstance(matrix, Opaque) else _sites(matrix)
        raise NotConjugate(f"depends on {words}; pass precision_matrix or covariance_matrix", name)
    exponent = 1 if name == "precision_matrix" else -1
    factor, log_det = _scaled_matrix(expectation, matrix, exponent)
    return factor, log_det


def _scaled_matrix(
    expectation: Expectation, matrix: Polynomial, exponent: int
) -> tuple[Value, Array]:
    """A positive-definite site times scalars, to a power, and `E log det` of that."""
    row, column = matrix.dims[-2:]
    terms = matrix.terms or ()
    if len(terms) != 1 or terms[0].summed:
        raise NotConjugate(f"is a sum over {_sites(matrix)}, and its determinant is needed")
    (term,) = terms
    inside = [a for a in term.atoms if row in a.entries or column in a.entries]
    matrices = [f for f in term.factors if row in f[1] or column in f[1]]
    scalars = Term(
        tuple(f for f in term.factors if f not in matrices),
        tuple(a for a in term.atoms if a not in inside),
    )
    if len(inside) + len(matrices) != 1:
        raise NotConjugate(f"is a function of {_sites(matrix)}, and its determinant is needed")
    batch = matrix.dims[:-2]
    log_scalar = expectation.log(Polynomial(batch, (scalars,)))
    factors, atoms = _powers(scalars, exponent)
    if inside:
        (atom,) = inside
        if atom.kind != "power" or atom.entries[-2:] not in ((row, column), (column, row)):
            raise NotConjugate(f"is a function of {_sites(matrix)}, and its determinant is needed")
        raised_atom = type(atom)(atom.site, "power", atom.power * exponent, atom.entries)
        log = type(atom)(atom.site, "logdet", 1, atom.entries[:-2])
        log_det = exponent * expectation.mean(Polynomial(batch, (Term((), (log,)),)))
        found = Term(factors, (*atoms, raised_atom))
    else:
        ((array, labels),) = matrices
        whole = full_array(Known(matrix.dims, array, labels))
        log_det = jnp.linalg.slogdet(whole)[1] * exponent
        plain = known(whole if exponent == 1 else jnp.linalg.inv(whole))
        named_array = with_shape(map_dims(plain, plain.dims), matrix.dims)
        assert isinstance(named_array, Known)
        found = Term((*factors, (named_array.array, named_array.labels)), atoms)
    size = row.size
    return Polynomial(matrix.dims, (found,)), exponent * size * log_scalar + log_det


def _powers(term: Term, exponent: int) -> tuple[Any, Any]:
    found = power(Polynomial((), (term,)), exponent)
    if found is None or found.terms is None:
        raise NotConjugate(f"has a factor of which it needs the power {exponent}")
    return found.terms[0].factors, found.terms[0].atoms


# ---- positive numbers


def _gamma(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    shape = data(arguments["concentration"], "concentration")
    return _gamma_of(expectation, shape, arguments["rate"], x, 1)


def _inverse_gamma(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    shape = data(arguments["concentration"], "concentration")
    return _gamma_of(expectation, shape, arguments["rate"], x, -1)


def _exponential(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    return _gamma_of(expectation, jnp.ones(()), arguments["rate"], x, 1)


def _gamma_of(
    expectation: Expectation, shape: Array, rate: Value, x: Value, exponent: int
) -> Array:
    """The log density of `x` with `x^exponent` gamma-distributed, exponent 1 or -1."""
    with expectation.about("rate"):
        log_rate = expectation.log(rate)
    with expectation.about("value"):
        log_x = expectation.log(x)
        product = times(raised(x, exponent, "value"), rate)
    with expectation.about("rate"):
        mean = expectation.mean(product)
    return shape * log_rate + (exponent * shape - 1) * log_x - mean - gammaln(shape)


def _half_normal(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    with expectation.about("scale"):
        precision = raised(arguments["scale"], -2, "scale")
        log_precision = expectation.log(precision)
        expectation.needed(precision)
    with expectation.about("value"):
        square = expectation.mean(times(precision, raised(x, 2, "value")))
    return 0.5 * (log_precision - square) + 0.5 * math.log(2 / math.pi)


def _half_cauchy(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """`x^-2` given an auxiliary variable is gamma, integrated over its optimal distribution."""
    with expectation.about("scale"):
        variance = raised(arguments["scale"], 2, "scale")
        log_variance = expectation.log(variance)
    with expectation.about("value"):
        log_x = expectation.log(x)
        ratio = expectation.mean(times(variance, raised(x, -2, "value")))
    log_ratio = log_variance - 2 * log_x
    return math.log(2 / math.pi) - 0.5 * log_variance + log_ratio - jnp.log1p(ratio)


# ---- probabilities


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
        log_probs = expectation.log(arguments["probs"], additive=True)
    constant = gammaln(counts.sum(-1) + 1) - gammaln(counts + 1).sum(-1)
    return constant + jnp.sum(counts * log_probs, axis=-1)


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
        success = _times_log(k, lambda: expectation.log(probs, additive=True))
        return success + _times_log(n - k, lambda: complement(expectation, probs))


def link_of(value: Opaque) -> tuple[str | None, float]:
    """The name of an elementwise function of a polynomial, by its values, and a factor inside."""
    grid = np.linspace(-4.0, 4.0, 41)
    with jax.ensure_compile_time_eval():
        found = None if value.apply is None else np.asarray(value.apply(jnp.asarray(grid)))
        for name, function, factor in _LINKS:
            expected = np.asarray(function(factor * grid))
            if found is not None and np.allclose(found, expected, rtol=1e-5, atol=1e-7):
                return name, factor
    return None, 1.0


_LINKS = (
    ("logistic", jax.nn.sigmoid, 1.0),
    ("probit", jax.scipy.special.ndtr, 1.0),
    ("probit", jax.scipy.special.ndtr, math.sqrt(2)),  # of an argument that is already divided
)


def _times_log(count: Array, log: Callable[[], Array]) -> Array:
    found = log()
    return jnp.where(count == 0, 0.0, count * jnp.where(count == 0, 0.0, found))


def _probit(expectation: Expectation, value: Polynomial, n: Array, k: Array) -> Array:
    """A truncated normal variable, integrated over its optimal distribution (Albert, Chib 1993)."""
    with expectation.about("probs"):
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
        root = _root(expectation.quadratic(known(np.asarray(1.0)), logits))
    return (k - 0.5 * n) * mean - n * (0.5 * root - jax.nn.log_sigmoid(root))


def _geometric(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    failures = data(x, "value")
    return _trials(expectation, arguments["probs"], failures + 1, jnp.ones(()))


def _poisson(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    counts = data(x, "value")
    with expectation.about("rate"):
        mean = expectation.mean(arguments["rate"])
        log_rate = expectation.log(arguments["rate"], additive=True)
    return _times_log(counts, lambda: log_rate) - mean - gammaln(counts + 1)


# ---- matrices


def _wishart(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """`E log W(x; nu, V)`, of the inverse of `V = scale_tril scale_tril'`."""
    nu, root = (data(arguments[name], name) for name in ("concentration", "scale_tril"))
    size = x.dims[-1].size
    inverse_scale = jnp.linalg.inv(root @ jnp.swapaxes(root, -1, -2))
    with expectation.about("value"):
        _, log_det = precision_of(expectation, x, "precision_matrix")
        trace = _trace(expectation, inverse_scale, polynomial(x) if isinstance(x, Known) else x)
    log_det_scale = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
    constant = -0.5 * nu * (size * math.log(2) + log_det_scale) - multigammaln(0.5 * nu, size)
    return 0.5 * (nu - size - 1) * log_det - 0.5 * trace + constant


def _inverse_wishart(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """`E log W^-1(x; nu, Psi)` with `Psi = scale_tril scale_tril'`."""
    nu, root = (data(arguments[name], name) for name in ("concentration", "scale_tril"))
    size = x.dims[-1].size
    with expectation.about("value"):
        inverse, log_det = precision_of(expectation, x, "covariance_matrix")
        trace = _trace(expectation, root @ jnp.swapaxes(root, -1, -2), inverse)
    log_det_scale = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
    constant = 0.5 * nu * (log_det_scale - size * math.log(2)) - multigammaln(0.5 * nu, size)
    return 0.5 * (nu + size + 1) * log_det - 0.5 * trace + constant


def _trace(expectation: Expectation, matrix: Array, value: Value) -> Array:
    return jnp.sum(expectation.mean(times(known(matrix), value)), axis=(-2, -1))


def _improper(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    return jnp.zeros((1,) * len(x.dims))


def _factor(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    with expectation.about("log_factor"):
        return expectation.mean(arguments["log_factor"])


# class -> (names of its arguments, row)
ROWS: dict[type, tuple[tuple[str, ...], Row]] = {
    dist.Normal: (("loc", "scale"), _normal),
    dist.LogNormal: (("loc", "scale"), _log_normal),
    dist.StudentT: (("df", "loc", "scale"), _student_t),
    dist.Cauchy: (("loc", "scale"), _cauchy),
    dist.Laplace: (("loc", "scale"), _laplace),
    dist.MultivariateNormal: (
        ("loc", "precision_matrix", "covariance_matrix", "scale_tril"),
        _multivariate_normal,
    ),
    dist.Gamma: (("concentration", "rate"), _gamma),
    dist.Chi2: (("concentration", "rate"), _gamma),
    dist.InverseGamma: (("concentration", "rate"), _inverse_gamma),
    dist.Exponential: (("rate",), _exponential),
    dist.HalfNormal: (("scale",), _half_normal),
    dist.HalfCauchy: (("scale",), _half_cauchy),
    dist.Beta: (("concentration1", "concentration0"), _beta),
    dist.Uniform: (("low", "high"), _uniform),
    dist.Dirichlet: (("concentration",), _dirichlet),
    dist.CategoricalProbs: (("probs",), _categorical),
    dist.CategoricalLogits: (("logits",), _categorical_logits),
    dist.MultinomialProbs: (("probs",), _multinomial),
    dist.BernoulliProbs: (("probs",), _bernoulli),
    dist.BernoulliLogits: (("logits",), _bernoulli_logits),
    dist.BinomialProbs: (("probs", "total_count"), _binomial),
    dist.BinomialLogits: (("logits", "total_count"), _binomial_logits),
    dist.GeometricProbs: (("probs",), _geometric),
    dist.NegativeBinomialProbs: (("probs", "total_count"), _negative_binomial),
    dist.NegativeBinomialLogits: (("logits", "total_count"), _negative_binomial_logits),
    dist.Poisson: (("rate",), _poisson),
    dist.Wishart: (("concentration", "scale_tril"), _wishart),
    dist.InverseWishart: (("concentration", "scale_tril"), _inverse_wishart),
    dist.ImproperUniform: ((), _improper),
    dist.Unit: (("log_factor",), _factor),
}


def row_of(fn: dist.Distribution) -> tuple[tuple[str, ...], Row] | None:
    """The row of a distribution, `None` without one; subclasses may have another density."""
    kind = type(fn)
    if kind.__module__ == limits.__name__:  # the same density, at the boundary of its parameters
        kind = kind.__bases__[0]
    return ROWS.get(kind)


def arguments_of(fn: dist.Distribution) -> dict[str, Any]:
    """The arguments of a distribution, arrays by name."""
    row = row_of(fn)
    if row is None:
        return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(fn))}
    names, _ = row
    inner = fn.base_dist if isinstance(fn, (dist.Wishart, dist.InverseWishart)) else fn
    if not isinstance(fn, dist.MultivariateNormal):
        return {name: getattr(inner, name) for name in names}
    known_name = next((name for name in names[1:3] if name in vars(fn)), "scale_tril")
    return {"loc": fn.loc, known_name: getattr(fn, known_name)}
