"""Standard normals that fill the space more evenly than independent ones: quasi-Monte Carlo.

Each of them is a standard normal vector by itself, so that averages stay unbiased; together they
are spread out, so that these vary less.
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
_MOST_DIM = 21201  # coordinates of the longest table of direction numbers there is


def quasi_normals(how: Draws, key: Array, num: int, dim: int) -> Array:
    """`num` standard normal vectors of `dim` entries, `(num, dim)`.

    `"latin_hypercube"`: every entry has one value in each of `num` strata of equal probability, in
    an order of its own. `"sobol"`: Sobol's sequence, its bits flipped at random, the same ones for
    all points. Sources: A comparison of three methods for selecting values of input variables in
    the analysis of output from a computer code, McKay, Beckman, Conover, 1979; Quasi-Monte Carlo
    variational inference, Buchholz, Wenzel, Mandt, 2018.

    Raises:
        GuideError: there are more entries than Sobol's sequence has.
    """
    dtype = jnp.result_type(float)
    if how == "sobol":
        flips = jax.random.bits(key, (dim,), jnp.uint32)
        bits = jnp.asarray(_sobol(num, dim)) ^ flips
        uniform = (bits >> 8).astype(dtype) + 0.5  # as many bits as float32 holds
        return ndtri(uniform / 2**24)
    order_key, key = jax.random.split(key)
    order = jnp.argsort(jax.random.uniform(order_key, (num, dim)), axis=0)
    within = jax.random.uniform(key, (num, dim), dtype)
    ends = float(jnp.finfo(dtype).eps) / 2
    return ndtri(jnp.clip((order + within) / num, ends, 1 - ends))


@functools.lru_cache(maxsize=8)
def _sobol(num: int, dim: int) -> np.ndarray:
    """The first points of the sequence, as fractions of `2**32`."""
    if dim > _MOST_DIM:
        raise GuideError(
            f"draws='sobol': expected at most {_MOST_DIM:,} coordinates, got {dim:,}. Use "
            "draws='latin_hypercube', which has no end."
        )
    from scipy.stats import qmc  # takes most of a second to import

    points = qmc.Sobol(dim, scramble=False, bits=32).random(num)
    return (points * 2.0**32).astype(np.uint32)
