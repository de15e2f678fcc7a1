"""Codes: numbers rounded to a grid, or to the nearest of learned vectors.

Rounding has no gradient; both pass that of the rounded numbers on to the numbers as it is, the
straight-through estimator (Bengio, Leonard and Courville, 2013).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from vijax.runtime.checks import check_count

_SMOOTHING = 1e-5  # Laplace smoothing of the counts of codes
_FRESH = 0.1  # count of a code that was placed anew, in units of that of uniform use
_MARGIN = 1e-3  # of the grid, so that tanh reaches the outermost levels


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "indices", "loss"],
    meta_fields=["num_codes"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Codes:
    """Codes of encodings.

    Attributes:
        values: `(..., width)`; their derivative by the encodings is the identity.
        indices: `(...)`, integers below `num_codes`.
        loss: what moves encodings towards their codes, `(...)`; see `vijax.nn.discrete_codes`.
        num_codes: number of codes there are.
    """

    values: Array
    indices: Array
    loss: Array
    num_codes: int


class FiniteScalarQuantizer(nnx.Module):
    """Rounds each number to one of a few levels, after a tanh.

    A code is a point of the grid, of which there are as many as the product of the levels: 240 for
    `(8, 6, 5)`, 1,000 for `(8, 5, 5, 5)`. There is nothing to learn, and no code that cannot be
    reached. Source: Finite Scalar Quantization: VQ-VAE Made Simple, Mentzer, Minnen, Agustsson and
    Tschannen, 2023.

    >>> import jax.numpy as jnp
    >>> quantizer = FiniteScalarQuantizer((5, 3))
    >>> codes = quantizer(jnp.array([[-9.0, 0.1], [0.6, 9.0]]))
    >>> codes.values.tolist(), codes.indices.tolist()
    ([[-1.0, 0.0], [0.5, 1.0]], [5, 13])

    Args:
        levels: number of values of each number of an encoding, three or more, in turn.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = tuple(levels)
        if not self.levels or any(check_count("levels", one) < 3 for one in self.levels):
            raise ValueError(f"levels: expected integers of three or more, got {self.levels}.")

    @property
    def num_codes(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def width(self) -> int:
        """Numbers of an encoding."""
        return len(self.levels)

    def __call__(self, z: Array) -> Codes:
        """The codes of encodings `(..., width)`."""
        z = _checked(z, self.width)
        levels = jnp.asarray(self.levels, z.dtype)
        half = (levels - 1) * (1 + _MARGIN) / 2
        offset = jnp.where(levels % 2 == 0, 0.5, 0.0)  # an even number of levels has none at zero
        bounded = jnp.tanh(z + jnp.arctanh(offset / half)) * half - offset
        rounded = jnp.round(bounded)
        middle = levels // 2
        places = (jax.lax.stop_gradient(rounded) + middle).astype(jnp.int32)
        indices = jnp.sum(places * jnp.asarray(self._strides), axis=-1)
        values = _straight_through(bounded, rounded) / middle
        return Codes(values, indices, jnp.zeros(indices.shape, z.dtype), self.num_codes)

    def decode(self, indices: Array) -> Array:
        """The values of codes by index, `(..., width)`, in [-1, 1]."""
        levels = jnp.asarray(self.levels)
        places = (indices[..., None] // jnp.asarray(self._strides)) % levels
        return (places - levels // 2) / (levels // 2)

    @property
    def _strides(self) -> tuple[int, ...]:
        return tuple(math.prod(self.levels[:i]) for i in range(self.width))


class VectorQuantizer(nnx.Module):
    """Replaces vectors by the nearest of a codebook, which follows them.

    In training, codes are averages of the encodings nearest to them, over some 100 calls:

        count <- decay count + (1 - decay) number of encodings
        sum   <- decay sum   + (1 - decay) sum of encodings
        code = sum / count, with Laplace smoothing of the counts

    A code whose count falls below a share of that of uniform use is placed on a random encoding of
    the call; at first all are. Source: Neural Discrete Representation Learning, van den Oord,
    Vinyals and Kavukcuoglu, 2017.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> quantizer = VectorQuantizer(16, 2, rngs=nnx.Rngs(0))
    >>> codes = quantizer(jnp.ones((5, 3, 2)))
    >>> codes.values.shape, codes.indices.shape
    ((5, 3, 2), (5, 3))

    Args:
        num_codes: number of codes.
        width: numbers of an encoding.
        decay: of the averages.
        commitment: weight of the squared distance of an encoding to its code, beside the negative
            log density of a row in nats. Encodings are of any scale, which the weight decides.
        restart: a code is placed anew below this share of uniform use.
        rngs: of the first codes, and of those placed anew.
    """

    def __init__(
        self,
        num_codes: int,
        width: int,
        *,
        decay: float = 0.99,
        commitment: float = 0.25,
        restart: float = 0.03,
        rngs: Any,
    ) -> None:
        self.num_codes, self.width = check_count("num_codes", num_codes), width
        self.decay, self.commitment, self.restart = decay, commitment, restart
        first = jax.random.normal(rngs.params(), (num_codes, check_count("width", width)))
        self.sums = nnx.BatchStat(first)
        self.counts = nnx.BatchStat(jnp.zeros(num_codes))
        self.rngs = rngs.dropout.fork()
        self.use_running_average = False  # as in nnx.BatchNorm: whether it is in evaluation

    @property
    def codebook(self) -> Array:
        """The codes, `(num_codes, width)`."""
        counts, sums = self.counts.get_value(), self.sums.get_value()
        total = jnp.sum(counts)
        smoothed = (counts + _SMOOTHING) / (total + self.num_codes * _SMOOTHING) * total
        return jnp.where(total > 0, sums / jnp.where(total > 0, smoothed, 1.0)[:, None], sums)

    def __call__(self, z: Array) -> Codes:
        """The codes of encodings `(..., width)`; in training the codebook follows them."""
        z = _checked(z, self.width)
        fixed = jax.lax.stop_gradient(z).reshape(-1, self.width)
        codebook = jax.lax.stop_gradient(self.codebook)
        indices = jnp.argmin(jnp.sum(codebook**2, axis=1) - 2 * fixed @ codebook.T, axis=1)
        nearest = codebook[indices].reshape(z.shape)
        loss = self.commitment * jnp.sum((z - nearest) ** 2, axis=-1)
        if not self.use_running_average:
            self._follow(fixed, indices)
        found = indices.reshape(z.shape[:-1])
        return Codes(_straight_through(z, nearest), found, loss, self.num_codes)

    def decode(self, indices: Array) -> Array:
        """The codes by index, `(..., width)`."""
        return self.codebook[indices]

    def _follow(self, z: Array, indices: Array) -> None:
        """Averages after a call, with unused codes on encodings `z`, `(number, width)`."""
        number, fresh = len(z), _FRESH * len(z) / self.num_codes
        new_counts = jnp.zeros(self.num_codes, z.dtype).at[indices].add(1.0)
        new_sums = jnp.zeros((self.num_codes, self.width), z.dtype).at[indices].add(z)
        counts = self.decay * self.counts.get_value() + (1 - self.decay) * new_counts
        sums = self.decay * self.sums.get_value() + (1 - self.decay) * new_sums
        unused = counts < self.restart * number / self.num_codes
        first = jnp.all(self.counts.get_value() == 0)  # the sums are no sums yet
        unused |= first
        replace = number < self.num_codes
        chosen = jax.random.choice(self.rngs(), number, (self.num_codes,), replace=replace)
        self.counts.set_value(jnp.where(unused, fresh, counts))
        self.sums.set_value(jnp.where(unused[:, None], fresh * z[chosen], sums))


def _straight_through(z: Array, rounded: Array) -> Array:
    """`rounded`, with the derivative of `z`."""
    return z + jax.lax.stop_gradient(rounded - z)


def _checked(z: Array, width: int) -> Array:
    if jnp.ndim(z) < 1 or z.shape[-1] != width:
        raise ValueError(f"z: expected encodings (..., {width}), got shape {jnp.shape(z)}.")
    return z
