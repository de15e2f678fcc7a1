"""Randomized quasi-Monte Carlo: standard normal vectors of low discrepancy.

Each vector is marginally standard normal, so that averages stay unbiased; their dependence reduces
the variance.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri

from vijax.runtime.errors import GuideError

Draws = Literal["independent", "latin_hypercube", "sobol"]
_MAX_DIM = 21201  # of the direction numbers in SciPy


def quasi_normals(scheme: Draws, key: Array, num: int, dim: int) -> Array:
    """`num` standard normal vectors of dimension `dim`, `(num, dim)`.

    `"latin_hypercube"`: every coordinate has one value in each of `num` strata of equal
    probability, in independent random order. `"sobol"`: Sobol's sequence with a random digital
    shift. Sources: A comparison of three methods for selecting values of input variables in
    the analysis of output from a computer code, McKay, Beckman, Conover, 1979; Quasi-Monte Carlo
    variational inference, Buchholz, Wenzel, Mandt, 2018.

    Raises:
        GuideError: `dim` exceeds the dimension of Sobol's sequence.
    """
    dtype = jnp.result_type(float)
    if scheme == "sobol":
        shift = jax.random.bits(key, (dim,), jnp.uint32)
        bits = jnp.asarray(_sobol(num, dim)) ^ shift
        uniform = (bits >> 8).astype(dtype) + 0.5  # the precision of float32
        return ndtri(uniform / 2**24)
    order_key, key = jax.random.split(key)
    order = jnp.argsort(jax.random.uniform(order_key, (num, dim)), axis=0)
    within = jax.random.uniform(key, (num, dim), dtype)
    edge = float(jnp.finfo(dtype).eps) / 2
    return ndtri(jnp.clip((order + within) / num, edge, 1 - edge))


@functools.lru_cache(maxsize=8)
def _sobol(num: int, dim: int) -> np.ndarray:
    """The first `num` points of the sequence, as fractions of `2**32`."""
    if dim > _MAX_DIM:
        raise GuideError(
            f"draws='sobol': expected at most {_MAX_DIM:,} coordinates, got {dim:,}. Use "
            "draws='latin_hypercube', which has no limit."
        )
    from scipy.stats import qmc  # takes most of a second to import

    points = qmc.Sobol(dim, scramble=False, bits=32).random(num)
    return (points * 2.0**32).astype(np.uint32)
