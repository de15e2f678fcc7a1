"""The normal-Wishart distribution: a mean vector and its precision matrix, jointly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax.families.exponential_family import ExponentialFamily, interpolate, over_events
from vijax.families.linear_algebra import inner, outer, product, symmetric
from vijax.families.special import LOG_2PI
from vijax.families.wishart import Wishart


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NormalWishart(ExponentialFamily):
    """Pairs `(m, X)`: `Y = X^power ~ Wishart(concentration, V)` and `m ~ N(mean, (kappa Y)^-1)`.

    The statistics are `product = Y m`, `quadratic = m' Y m`, `value = Y` and `logdet = log det Y`.

    Attributes:
        mean: `(*B, d)`.
        kappa: `*B`, positive.
        concentration: `nu`, the degrees of freedom, `*B`, more than `d - 1`.
        inverse_scale: `V^-1`, `(*B, d, d)`, symmetric and positive definite.
        power: 1 or -1; see `Wishart`.
    """

    mean: Array
    kappa: Array
    concentration: Array
    inverse_scale: Array
    power: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def wishart(self) -> Wishart:
        """The marginal distribution of `X`."""
        return Wishart(self.concentration, self.inverse_scale, self.power)

    @property
    def size(self) -> int:
        """Number of variables, `d`."""
        return self.mean.shape[-1]

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `Y m`, `(*B, d)`, `m' Y m`, `*B`, `Y`, `(*B, d, d)`, and `log det Y`, `*B`."""
        linear, eta = self.kappa[..., None] * self.mean, self.wishart.natural
        return {
            "product": linear,
            "quadratic": -0.5 * self.kappa,
            "value": eta["value"] - 0.5 * outer(linear, self.mean),
            "logdet": eta["logdet"] + 0.5,
        }

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array], power: int = 1) -> Self:
        """The inverse of `natural`."""
        linear, kappa = natural["product"], -2 * natural["quadratic"]
        mean = linear / kappa[..., None]
        rest = {
            "value": natural["value"] + 0.5 * outer(linear, mean),
            "logdet": natural["logdet"] - 0.5,
        }
        wishart = Wishart.from_natural(rest, power)
        return cls(mean, kappa, wishart.concentration, wishart.inverse_scale, power)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E Y m`, `E m' Y m`, `E Y` and `E log det Y`."""
        of_matrix = self.wishart.expectations
        linear = product(of_matrix["value"], self.mean)
        quadratic = self.size / self.kappa + inner(self.mean, linear)
        return {"product": linear, "quadratic": quadratic, **of_matrix}

    @property
    def expectations(self) -> dict[str, Array]:
        """`mean`, `variance = 1 / kappa`, `value = E Y` and `logdet = E log det Y`.

        With them `E (y - m)' Y (y - m) = (y - mean)' value (y - mean) + d variance`.
        """
        return {"mean": self.mean, "variance": 1 / self.kappa, **self.wishart.expectations}

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """The gradient in the mean parameters by the chain rule, and its update in central form.

        With `W = E Y`: `kappa' = (1 - r) kappa - 2 r dL/d variance / d`, `m' = m + u` for
        `kappa' u = r W^-1 dL/dm`, `V'^-1 = (1 - r) V^-1 - 2 r dL/dW - kappa' u u'`, and `nu'` from
        `dL/d logdet`.
        """
        kappa = interpolate(self.kappa, -2 * gradient["variance"] / self.size, rate)
        slope = product(self.inverse_scale, gradient["mean"]) / self.concentration[..., None]
        move = over_events(rate, slope.ndim) * slope / kappa[..., None]
        rest = {"value": gradient["value"], "logdet": gradient["logdet"] - 0.5}
        wishart = self.wishart.step(rest, rate)
        spread = kappa[..., None, None] * outer(move, move)
        return type(self)(
            self.mean + move,
            kappa,
            wishart.concentration,
            wishart.inverse_scale - symmetric(spread),
            self.power,
        )

    @property
    def log_normalizer(self) -> Array:
        """That of the Wishart distribution, and `d / 2 (log 2 pi - log kappa)`."""
        return self.wishart.log_normalizer + 0.5 * self.size * (LOG_2PI - jnp.log(self.kappa))

    @property
    def entropy(self) -> Array:
        """That of `X`, and the expected entropy of `m` given `X`."""
        scale = self.size * (1 + LOG_2PI - jnp.log(self.kappa))
        return self.wishart.entropy + 0.5 * (scale - self.wishart.expectations["logdet"])

    def divergence(self, other: Self) -> Array:
        """That of `X`, and the expected divergence of `m` given `X`; both have the same power."""
        change, ratio = self.mean - other.mean, other.kappa / self.kappa
        square = inner(change, product(self.wishart.expectations["value"], change))
        normal = other.kappa * square + self.size * (ratio - 1 - jnp.log(ratio))
        return self.wishart.divergence(other.wishart) + 0.5 * normal

    def draw(self, key: Array) -> tuple[Array, Array]:
        """One draw of `m`, `(*B, d)`, and `X`, `(*B, d, d)`."""
        key_m, key_x = jax.random.split(key)
        x = self.wishart.draw(key_x)
        noise = jax.random.normal(key_m, self.mean.shape, self.mean.dtype)
        noise = noise / jnp.sqrt(self.kappa)[..., None]
        factor = jnp.linalg.cholesky(x)
        if self.power == 1:  # the covariance is the inverse of X
            scaled = solve_triangular(factor.mT, noise[..., None], lower=False)[..., 0]
        else:
            scaled = product(factor, noise)
        return self.mean + scaled, x

    def log_prob(self, value: tuple[Array, Array]) -> Array:
        """The log density of pairs of `m`, `(*B, d)`, and `X`, `(*B, d, d)`."""
        m, x = value
        change, of_x = m - self.mean, self.wishart.statistics(x)
        square = self.kappa * inner(change, product(of_x["value"], change))
        scale = self.size * (jnp.log(self.kappa) - LOG_2PI)
        return 0.5 * (scale + of_x["logdet"] - square) + self.wishart.log_prob(x)

    def statistics(self, value: tuple[Array, Array]) -> dict[str, Array]:
        """`Y m`, `m' Y m`, `Y` and `log det Y`."""
        m, x = value
        of_x = self.wishart.statistics(x)
        linear = product(of_x["value"], m)
        return {"product": linear, "quadratic": inner(m, linear), **of_x}
