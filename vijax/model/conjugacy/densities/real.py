"""`E log p` of distributions of real numbers and vectors."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln

from vijax.model.conjugacy.axes import with_shape
from vijax.model.conjugacy.densities.arguments import (
    Arguments,
    Row,
    data,
    difference,
    map_dims,
    part,
    raised,
    words_of,
)
from vijax.model.conjugacy.expectation import Expectation, NotConjugate, safe_sqrt
from vijax.model.conjugacy.interpreter import full_array
from vijax.model.conjugacy.polynomials import logarithm, power
from vijax.model.conjugacy.values import Atom, Axis, Known, Opaque, Polynomial, Term, Value, known

LOG_2PI = math.log(2 * math.pi)


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
    expectation.augmented("normal with gamma precision")
    log_precision, square = _gaussian(expectation, arguments, x)
    half = 0.5 * (df + 1)
    constant = gammaln(half) - gammaln(0.5 * df) - 0.5 * jnp.log(df * jnp.pi)
    return constant + 0.5 * log_precision - half * jnp.log1p(square / df)


def _cauchy(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    return _student_t(expectation, {**arguments, "df": known(np.asarray(1.0))}, x)


def _laplace(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """A normal with exponential variance, integrated over its optimal distribution."""
    expectation.augmented("normal with exponential variance")
    log_precision, square = _gaussian(expectation, arguments, x)
    return 0.5 * log_precision - math.log(2) - safe_sqrt(square)


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
        words = matrix.reason if isinstance(matrix, Opaque) else words_of(matrix)
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
        raise NotConjugate(f"is a sum over {words_of(matrix)}, and its determinant is needed")
    (term,) = terms
    inside = [a for a in term.atoms if row in a.entries or column in a.entries]
    matrices = [f for f in term.factors if row in f[1] or column in f[1]]
    scalars = Term(
        tuple(f for f in term.factors if f not in matrices),
        tuple(a for a in term.atoms if a not in inside),
    )
    if len(inside) + len(matrices) != 1:
        raise NotConjugate(f"is a function of {words_of(matrix)}, and its determinant is needed")
    batch = matrix.dims[:-2]
    log_scalar = expectation.log(Polynomial(batch, (scalars,)))
    factors, atoms = _powers(scalars, exponent)
    if inside:
        (atom,) = inside
        if atom.kind != "power" or atom.entries[-2:] not in ((row, column), (column, row)):
            raise NotConjugate(
                f"is a function of {words_of(matrix)}, and its determinant is needed"
            )
        raised_atom = Atom(atom.site, "power", atom.power * exponent, atom.entries)
        log = Atom(atom.site, "logdet", 1, atom.entries[:-2])
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


def _random_walk(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """Independent normal increments, the first from zero."""
    size = x.dims[-1].size
    with expectation.about("scale"):
        precision = raised(arguments["scale"], -2, "scale")
        log_precision = expectation.log(precision)
        expectation.needed(precision)
    with expectation.about("value"):
        weight = map_dims(precision, (*precision.dims, Axis(1)))
        square = jnp.sum(expectation.quadratic(weight, part(x, 0, 1)), axis=-1)
        if size > 1:
            increments = difference(part(x, 1, size - 1), part(x, 0, size - 1), "value")
            found = expectation.quadratic(weight, increments)
            square += jnp.sum(jnp.broadcast_to(found, (*found.shape[:-1], size - 1)), axis=-1)
    return 0.5 * (size * (log_precision - LOG_2PI) - square)


def _improper(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    return jnp.zeros((1,) * len(x.dims))


def _factor(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    with expectation.about("log_factor"):
        return expectation.mean(arguments["log_factor"])


ROWS: dict[type, tuple[tuple[str, ...], Row]] = {
    dist.Normal: (("loc", "scale"), _normal),
    dist.LogNormal: (("loc", "scale"), _log_normal),
    dist.StudentT: (("df", "loc", "scale"), _student_t),
    dist.GaussianRandomWalk: (("scale",), _random_walk),
    dist.Cauchy: (("loc", "scale"), _cauchy),
    dist.Laplace: (("loc", "scale"), _laplace),
    dist.MultivariateNormal: (
        ("loc", "precision_matrix", "covariance_matrix", "scale_tril"),
        _multivariate_normal,
    ),
    dist.ImproperUniform: ((), _improper),
    dist.Unit: (("log_factor",), _factor),
}
