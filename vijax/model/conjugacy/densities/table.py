"""`E log p` of distributions whose arguments are polynomials in latent sites, by class.

A row of the table takes the arguments and the value of a distribution to its expected log density,
elementwise over its batch. Rows that are not multi-affine are bounds, `E log p >= f(E t)` with `f`
convex in expectations `E t`: the optimum over an auxiliary variable's distribution (Polya-Gamma,
truncated normal, gamma, counts of each part), of which the gradient is the conjugate update and
the value the ELBO. At a point mass they equal the log density.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import jax
import numpyro.distributions as dist
from numpyro.distributions.discrete import ZeroInflatedProbs

from vijax.model.conjugacy.densities import counts, matrices, positive, probabilities, real
from vijax.model.conjugacy.densities.arguments import Row
from vijax.model.tracing import limits

# class -> (names of its arguments, row)
ROWS: dict[type, tuple[tuple[str, ...], Row]] = {
    **real.ROWS,
    **positive.ROWS,
    **probabilities.ROWS,
    **counts.ROWS,
    **matrices.ROWS,
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
    if isinstance(fn, ZeroInflatedProbs):
        return {"gate": fn.gate}
    if row is None:
        named = {id(getattr(fn, name, None)): name for name in fn.arg_constraints}
        leaves = jax.tree.leaves(fn)
        names = [named.get(id(leaf), str(i)) for i, leaf in enumerate(leaves)]
        if len(set(names)) < len(names):  # one array is several arguments
            names = [str(i) for i in range(len(leaves))]
        return OrderedDict(zip(names, leaves, strict=True))  # JAX sorts other dictionaries
    names = list(row[0])
    inner = fn.base_dist if isinstance(fn, (dist.Wishart, dist.InverseWishart)) else fn
    if not isinstance(fn, dist.MultivariateNormal):
        return {name: getattr(inner, name) for name in names}
    known_name = next((name for name in names[1:3] if name in vars(fn)), "scale_tril")
    return {"loc": fn.loc, known_name: getattr(fn, known_name)}
