"""The normal-gamma distribution: coefficients and the precision of the noise, jointly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from vijax.families.exponential_family import ExponentialFamily, interpolate, over_events
from vijax.families.gamma import Gamma
from vijax.families.linear_algebra import (
    gram,
    inner,
    inverse_factor,
    log_det,
    outer,
    product,
    solve,
    symmetric,
    trace_product,
)
from vijax.families.special import LOG_2PI


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NormalGamma(ExponentialFamily):
    """Pairs `(m, x)`: `t = x^power ~ Gamma(concentration, rate)`, `m ~ N(mean, (t precision)^-1)`.

    The statistics are `product = t m`, `outer = t m m'`, `value = t` and `log = log t`.

    Attributes:
        mean: `(*B, k)`.
        precision: `(*B, k, k)`, symmetric and positive definite.
        concentration: `*B`, positive.
        rate: `*B`, positive.
        power: not zero; see `Gamma`.
    """

    mean: Array
    precision: Array
    concentration: Array
    rate: Array
    power: float = dataclasses.field(default=1, metadata={"static": True})

    @property
    def gamma(self) -> Gamma:
        """The marginal distribution of `x`."""
        return Gamma(self.concentration, self.rate, self.power)

    @property
    def size(self) -> int:
        """Number of coefficients, `k`."""
        return self.mean.shape[-1]

    @property
    def natural(self) -> dict[str, Array]:
        """`eta` of `t m`, `(*B, k)`, `t m m'`, `(*B, k, k)`, `t` and `log t`, `*B`."""
        linear, eta = product(self.precision, self.mean), self.gamma.natural
        return {
            "product": linear,
            "outer": -0.5 * self.precision,
            "value": eta["value"] - 0.5 * inner(self.mean, linear),
            "log": eta["log"] + 0.5 * self.size,
        }

    @classmethod
    def from_natural(cls, natural: Mapping[str, Array], power: float = 1) -> Self:
        """The inverse of `natural`."""
        linear, precision = natural["product"], -2 * natural["outer"]
        mean = solve(inverse_factor(precision), linear)
        concentration = natural["log"] + 1 / power - 0.5 * linear.shape[-1]
        rate = -natural["value"] - 0.5 * inner(mean, linear)
        return cls(mean, precision, concentration, rate, power)

    @property
    def mean_parameters(self) -> dict[str, Array]:
        """`E t m`, `E t m m'`, `E t` and `E log t`."""
        expectations = self.expectations
        value = expectations["value"]
        linear = value[..., None] * self.mean
        second = expectations["covariance"] + outer(linear, self.mean)
        return {"product": linear, "outer": second, "value": value, "log": expectations["log"]}

    @property
    def expectations(self) -> dict[str, Array]:
        """`mean`, `covariance = precision^-1`, `value = E t` and `log = E log t`.

        With them `E t (c' m - y)^2 = value (c' mean - y)^2 + c' covariance c`.
        """
        covariance = gram(inverse_factor(self.precision))
        return {"mean": self.mean, "covariance": covariance, **self.gamma.expectations}

    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """The gradient in the mean parameters by the chain rule, and its update in central form.

        With `w = E t`: `P' = (1 - r) P - 2 r dL/dC`, `m' = m + d` for `P' d = r dL/dm / w`,
        `b' = (1 - r) b - r dL/dw - d' P' d / 2`, `a' = (1 - r) a + r (dL/d log + 1/power - k/2)`.
        """
        precision = interpolate(self.precision, -2 * symmetric(gradient["covariance"]), rate)
        value = self.concentration / self.rate
        slope = over_events(rate, self.mean.ndim) * gradient["mean"] / value[..., None]
        move = solve(inverse_factor(precision), slope)
        log = gradient["log"] + 1 / self.power - 0.5 * self.size
        return type(self)(
            self.mean + move,
            precision,
            interpolate(self.concentration, log, rate),
            interpolate(self.rate, -gradient["value"], rate) - 0.5 * inner(move, slope),
            self.power,
        )

    @property
    def log_normalizer(self) -> Array:
        """That of the gamma distribution, and `(k log 2 pi - log det P) / 2`."""
        return self.gamma.log_normalizer + self._half_log_det_covariance + 0.5 * self.size * LOG_2PI

    @property
    def _half_log_det_covariance(self) -> Array:
        return log_det(inverse_factor(self.precision))

    @property
    def entropy(self) -> Array:
        """That of `x`, and the expected entropy of `m` given `x`."""
        scale = 1 + LOG_2PI - self.gamma.expectations["log"]
        return self.gamma.entropy + 0.5 * self.size * scale + self._half_log_det_covariance

    def divergence(self, other: Self) -> Array:
        """That of `x`, and the expected divergence of `m` given `x`; both have the same power."""
        factor, change = inverse_factor(self.precision), self.mean - other.mean
        square = inner(change, product(other.precision, change)) * self.concentration / self.rate
        trace = trace_product(other.precision, gram(factor)) - self.size
        volume = other._half_log_det_covariance - log_det(factor)
        return self.gamma.divergence(other.gamma) + 0.5 * (square + trace) + volume

    def draw(self, key: Array) -> tuple[Array, Array]:
        """One draw of `m`, `(*B, k)`, and `x`, `*B`."""
        key_m, key_x = jax.random.split(key)
        x = self.gamma.draw(key_x)
        noise = jax.random.normal(key_m, self.mean.shape, self.mean.dtype)
        scaled = product(inverse_factor(self.precision).mT, noise)
        return self.mean + scaled * (x ** (-0.5 * self.power))[..., None], x

    def log_prob(self, value: tuple[Array, Array]) -> Array:
        """The log density of pairs of `m`, `(*B, k)`, and `x`, `*B`."""
        m, x = value
        change, log = m - self.mean, self.power * jnp.log(x)
        square = jnp.exp(log) * inner(change, product(self.precision, change))
        normal = 0.5 * (self.size * (log - LOG_2PI) - square) - self._half_log_det_covariance
        return normal + self.gamma.log_prob(x)

    def statistics(self, value: tuple[Array, Array]) -> dict[str, Array]:
        """`t m`, `t m m'`, `t` and `log t`."""
        m, x = value
        of_x = self.gamma.statistics(x)
        linear = of_x["value"][..., None] * m
        return {"product": linear, "outer": outer(linear, m), **of_x}
