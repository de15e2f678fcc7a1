"""The score function, with a network that learns to be its control variate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import PyTree
from vijax.families.discrete import Finite
from vijax.objectives.estimators.discrete.estimator import (
    Estimator,
    Families,
    Integrand,
    EstimatorContext,
    finite,
)
from vijax.objectives.estimators.discrete.rebar import Control, Rebar, controlled
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.networks import Make, applied, start

if TYPE_CHECKING:
    from flax import nnx

_UNITS = 64  # of the default network


class RelaxParams(NamedTuple):
    """What RELAX learns: the networks' weights, by site, and what its relaxation has to learn."""

    surrogate: dict[str, PyTree]
    relaxation: PyTree


@dataclasses.dataclass(frozen=True)
class Relax(Estimator):
    """The score function, with the sum of REBAR's control variate and a network's as its own.

    `c(z) = scale * f(softmax(z / temperature)) + sum_i r(z_i)`, see `controlled`, over sites and
    their rows `z_i`, entries that share terms of `f` with one another. The network learns what
    lowers the gradient's variance. Source: Backpropagation through the void: optimizing control
    variates for black-box gradient estimation, Grathwohl, Choi, Wu, Roeder, Duvenaud, 2018.

    Args:
        surrogate: `(width, rngs) -> module`, which makes a `flax.nnx` module that takes rows
            `(rows, 2 width)` of a site to one number each, in units of `f`: the noise of each
            entry's values from the second on against the first, and then, held fixed, their logits
            without noise. Of two values, the noise is a logistic variable. By default 64 tanh
            units, which say nothing at first. A class, or a function defined once. Only `nnx.Param`
            is learned.
        relaxation: REBAR's part, which is learned, too; `None` for functions that make no sense
            between the values.

    Raises:
        GuideError: on use, if the module has other state, or its outputs another shape.
    """

    surrogate: Callable[[int, nnx.Rngs], Any] | None = None
    relaxation: Rebar | None = Rebar(learned=True)

    def __post_init__(self) -> None:
        given: Any = self.surrogate
        if not (given is None or callable(given)):
            expected = "a function of a width and nnx.Rngs that makes a module"
            raise GuideError(mismatch("surrogate", expected, type(given).__name__))

    def init(self, key: Array, widths: Mapping[str, int]) -> RelaxParams:
        keys = jax.random.split(key, len(widths))
        networks = {
            name: start(self._make(widths[name]), one, "surrogate")
            for name, one in zip(sorted(widths), keys, strict=True)
        }
        relaxation = self.relaxation.init(key, widths) if self.relaxation else ()
        return RelaxParams(networks, relaxation)

    def estimate(
        self, key: Array, families: Families, f: Integrand, stage: EstimatorContext
    ) -> tuple[Array, Any]:
        known = finite(families, "relax")

        def control(z: dict[str, Array]) -> Control:
            own = self._network(z, known, f, stage.control_params.surrogate)
            if self.relaxation is None:
                return own
            return jax.tree.map(
                jnp.add, own, self.relaxation.control(z, f, stage.control_params.relaxation)
            )

        return controlled(key, known, f, control)

    def _network(
        self, z: dict[str, Array], families: dict[str, Finite], f: Integrand, weights: PyTree
    ) -> Control:
        """The networks' part at noise `z`."""

        def total(z: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            signals = {
                name: f.scales.get(name, 1.0)
                * self._rows(one, families[name], f.parallel.get(name, ()), weights[name])
                for name, one in z.items()
            }
            value = sum((jnp.sum(one) for one in signals.values()), jnp.zeros(()))
            shapes = {name: one.shape[:-1] for name, one in z.items()}
            return value, {n: jnp.broadcast_to(one, shapes[n]) for n, one in signals.items()}

        return Control(*jax.grad(total, has_aux=True)(z))

    def _rows(self, z: Array, family: Finite, rows: tuple[int, ...], weights: PyTree) -> Array:
        """What the network says of every row of a site; all other axes have length one."""
        seen = jnp.stack([z[..., 1:] - z[..., :1], stop_gradient(family.logits)], axis=z.ndim - 1)
        shape = z.shape[:-1]
        others = [axis for axis in range(len(shape)) if axis not in rows]
        width = math.prod(shape[axis] for axis in others) * (family.size - 1)
        seen = jnp.moveaxis(seen, [*rows, -2], [*range(len(rows)), len(rows)])
        seen = seen.reshape(-1, 2 * width)
        said = applied(self._make(width), weights, seen)
        if jnp.size(said) != len(seen):
            expected = f"one number for each of {len(seen)} rows"
            raise GuideError(mismatch("surrogate's outputs", expected, f"shape {jnp.shape(said)}"))
        return said.reshape([n if axis in rows else 1 for axis, n in enumerate(shape)])

    def _make(self, width: int) -> Make:
        """What makes the network for rows of so many logits."""
        make = _default if self.surrogate is None else self.surrogate
        return lambda rngs: make(width, rngs)


def _default(width: int, rngs: nnx.Rngs) -> Any:
    from flax import nnx

    return nnx.Sequential(
        nnx.Linear(2 * width, _UNITS, rngs=rngs),
        nnx.tanh,
        nnx.Linear(_UNITS, 1, kernel_init=nnx.initializers.zeros_init(), rngs=rngs),
    )
