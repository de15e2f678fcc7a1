"""Score-function estimator with a neural network as learned control variate (RELAX)."""

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
from vijax.families.discrete import Categorical
from vijax.objectives.estimators.discrete.estimator import (
    Estimator,
    EstimatorContext,
    Families,
    Integrand,
    require_finite,
)
from vijax.objectives.estimators.discrete.rebar import ControlVariate, Rebar, estimate_with_control
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.networks import ModuleFactory, apply, init

if TYPE_CHECKING:
    from flax import nnx

_UNITS = 64  # of the default network


class RelaxParams(NamedTuple):
    """Learned parameters of RELAX: network weights by site, and those of its REBAR part."""

    surrogate: dict[str, PyTree]
    relaxation: PyTree


@dataclasses.dataclass(frozen=True)
class Relax(Estimator):
    """RELAX: score-function estimator with REBAR's control variate plus a neural network.

    `c(z) = scale * f(softmax(z / temperature)) + sum_i r(z_i)`, see `estimate_with_control`, over
    sites and their rows `z_i`, entries that share terms of `f`. The network `r` is trained to
    minimize the variance of the gradient. Source: Backpropagation through the void: optimizing
    control variates for black-box gradient estimation, Grathwohl, Choi, Wu, Roeder, Duvenaud, 2018.

    Args:
        surrogate: `(width, rngs) -> module`, which constructs a `flax.nnx` module that maps rows
            `(rows, 2 width)` of a site to one number each, in units of `f`. Inputs are `z` of each
            entry's values from the second on minus that of the first (a logistic variable for
            binary sites), followed by their logits under `stop_gradient`. By default 64 tanh units
            with zero initial output. A class, or a function defined once. Only `nnx.Param` is
            learned.
        relaxation: the REBAR part, whose parameters are also learned; `None` if `f` is undefined
            between the values.

    Raises:
        GuideError: on use, if the module has other state, or its outputs another shape.
    """

    surrogate: Callable[[int, nnx.Rngs], Any] | None = None
    relaxation: Rebar | None = Rebar(learned=True)

    def __post_init__(self) -> None:
        given: Any = self.surrogate
        if not (given is None or callable(given)):
            expected = "a function of a width and nnx.Rngs that returns a module"
            raise GuideError(mismatch("surrogate", expected, type(given).__name__))

    def init(self, key: Array, widths: Mapping[str, int]) -> RelaxParams:
        keys = jax.random.split(key, len(widths))
        networks = {
            name: init(self._factory(widths[name]), one, "surrogate")
            for name, one in zip(sorted(widths), keys, strict=True)
        }
        relaxation = self.relaxation.init(key, widths) if self.relaxation else ()
        return RelaxParams(networks, relaxation)

    def estimate(
        self, key: Array, families: Families, f: Integrand, context: EstimatorContext
    ) -> tuple[Array, Any]:
        known = require_finite(families, "relax")

        def control(z: dict[str, Array]) -> ControlVariate:
            network = self._network(z, known, f, context.control_params.surrogate)
            if self.relaxation is None:
                return network
            return jax.tree.map(
                jnp.add, network, self.relaxation.control(z, f, context.control_params.relaxation)
            )

        return estimate_with_control(key, known, f, control)

    def _network(
        self,
        z: dict[str, Array],
        families: dict[str, Categorical],
        f: Integrand,
        network_params: PyTree,
    ) -> ControlVariate:
        """The part of `c` from the networks, at noise `z`."""

        def total(z: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            local_values = {
                name: f.scales.get(name, 1.0)
                * self._rows(
                    one, families[name], f.independent_axes.get(name, ()), network_params[name]
                )
                for name, one in z.items()
            }
            value = sum((jnp.sum(one) for one in local_values.values()), jnp.zeros(()))
            shapes = {name: one.shape[:-1] for name, one in z.items()}
            return value, {n: jnp.broadcast_to(one, shapes[n]) for n, one in local_values.items()}

        return ControlVariate(*jax.grad(total, has_aux=True)(z))

    def _rows(
        self, z: Array, family: Categorical, rows: tuple[int, ...], network_params: PyTree
    ) -> Array:
        """The network's output for every row of a site; all other axes have length one."""
        inputs = jnp.stack([z[..., 1:] - z[..., :1], stop_gradient(family.logits)], axis=z.ndim - 1)
        shape = z.shape[:-1]
        others = [axis for axis in range(len(shape)) if axis not in rows]
        width = math.prod(shape[axis] for axis in others) * (family.size - 1)
        inputs = jnp.moveaxis(inputs, [*rows, -2], [*range(len(rows)), len(rows)])
        inputs = inputs.reshape(-1, 2 * width)
        outputs = apply(self._factory(width), network_params, inputs)
        if jnp.size(outputs) != len(inputs):
            expected = f"one number for each of {len(inputs)} rows"
            got = f"shape {jnp.shape(outputs)}"
            raise GuideError(mismatch("surrogate's outputs", expected, got))
        return outputs.reshape([n if axis in rows else 1 for axis, n in enumerate(shape)])

    def _factory(self, width: int) -> ModuleFactory:
        """Constructs the network for rows of `width` logits."""
        factory = _default if self.surrogate is None else self.surrogate
        return lambda rngs: factory(width, rngs)


def _default(width: int, rngs: nnx.Rngs) -> Any:
    from flax import nnx

    return nnx.Sequential(
        nnx.Linear(2 * width, _UNITS, rngs=rngs),
        nnx.tanh,
        nnx.Linear(_UNITS, 1, kernel_init=nnx.initializers.zeros_init(), rngs=rngs),
    )
