"""Maps of one coordinate, whose parameters a conditioner supplies."""

from __future__ import annotations

import abc
import dataclasses
import math

import jax.numpy as jnp
from jax import Array

from vijax.runtime.errors import GuideError, mismatch


class Elementwise(abc.ABC):
    """An increasing function of one number; frozen, and the identity where `raw` is zero."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many numbers `raw` is made of."""

    @abc.abstractmethod
    def forward(self, raw: Array, x: Array) -> tuple[Array, Array]:
        """The image of `x`, a scalar, and the log derivative there; `raw` is `(size,)`."""

    @abc.abstractmethod
    def inverse(self, raw: Array, y: Array) -> tuple[Array, Array]:
        """The point of which `y` is the image, and the log derivative of this inverse."""


@dataclasses.dataclass(frozen=True)
class Affine(Elementwise):
    """`y = exp(s) x + t` with `|s| < clamp`, smoothly: `s = c arctan(raw / c)`, `c = 2 clamp / pi`.

    Unclamped scales of several layers multiply and overflow before training can prevent it.
    Sources: Density Estimation Using Real NVP, Dinh, Sohl-Dickstein, Bengio, 2017; for the clamp,
    Guided Image Generation with Conditional Invertible Neural Networks, Ardizzone et al., 2019.

    Args:
        clamp: largest absolute log scale of one layer.

    Raises:
        GuideError: `clamp` is not positive.
    """

    clamp: float = 2.0

    def __post_init__(self) -> None:
        if not self.clamp > 0:
            raise GuideError(mismatch("clamp", "a positive number", self.clamp))

    @property
    def size(self) -> int:
        return 2

    def forward(self, raw: Array, x: Array) -> tuple[Array, Array]:
        log_scale = self._log_scale(raw)
        return jnp.exp(log_scale) * x + raw[1], log_scale

    def inverse(self, raw: Array, y: Array) -> tuple[Array, Array]:
        log_scale = self._log_scale(raw)
        return (y - raw[1]) * jnp.exp(-log_scale), -log_scale

    def _log_scale(self, raw: Array) -> Array:
        corner = 2 * self.clamp / math.pi
        return corner * jnp.arctan(raw[0] / corner)
