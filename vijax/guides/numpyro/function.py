"""A hand-written NumPyro guide function as a vijax guide."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array

from vijax.contracts import Batch, DensityGuide, Draw, Guide, Position, PyTree, Space, Target
from vijax.guides.numpyro import running
from vijax.guides.numpyro.dependence import dependent
from vijax.guides.numpyro.running import Arguments
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import rejection_key


@dataclasses.dataclass(frozen=True, repr=False)
class NumPyroFunction(Guide):
    """A NumPyro guide function: it gets the model's arguments and samples the model's latents.

    Parameters are the function's `param` sites in unconstrained space, a dict by name. It draws
    constrained values `x` from `q(x)`; each is moved to unconstrained space at the support its
    site has at this draw, and `log q(z) = log q(x) + log |dx/dz|`. Auxiliary sites
    (`infer={"is_auxiliary": True}`) and factors enter `log_q`; an auxiliary site `h` that the
    model's sites `x` do not determine needs `numpyro.factor("reverse", -log_r)` with a normalized
    `log r(h | x)`, or the bound is none. Built by `adapt`, which checks what can be checked.

    Attributes:
        function: the guide function.
        identity: stands for the function and the static arguments in comparisons.
        arguments: the static part of the model's arguments.
        target: the target whose supports are used.
    """

    function: Callable[..., Any] = dataclasses.field(compare=False)
    identity: Hashable
    arguments: Arguments = dataclasses.field(compare=False)
    target: Target

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> dict[str, PyTree]:
        """The start values in the guide's own `param` statements; `location` plays no part.

        Args:
            key: randomness of start values that are drawn.
            space: the target's space.
            location: not used.
            batch: the data, needed only where a start value is computed from it.

        Raises:
            GuideError: a start value depends on the data and no `batch` was given.
        """
        if batch is None:
            self._check_start()
            shapes = running.abstract_data(self.arguments)
            batch = Batch({name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()})
        return self.target.program(_start, self)(key, batch)

    def draw(self, params: dict[str, PyTree], space: Space, key: Array, batch: Batch) -> Draw:
        trace = self.trace(params, key, batch)
        values = {name: trace[name]["value"] for name in space.names}
        # no `model` parameters: `adapt` has checked that no support depends on them
        z = self.target.unconstrain(values, batch, {}, {})
        log_dets = self.target.log_dets(z, batch, {}, {})
        return Draw(z, sum(log_dets.values(), running.log_prob(trace)))

    def trace(
        self,
        params: dict[str, PyTree] | None,
        key: Array,
        batch: Batch,
        values: Mapping[str, Array] | None = None,
    ) -> running.Trace:
        """The trace of the guide function, with its constrained values, drawn or given."""
        args, kwargs = self.arguments.join(batch.data)
        key = rejection_key(key)  # as VonMises draws, and Gamma
        return running.run(self.function, args, kwargs, key, params, batch.index, values)

    def _check_start(self) -> None:
        def start(data: dict[str, Array], key: Array) -> dict[str, PyTree]:
            return running.params(self.trace(None, key, Batch(data)))

        depends = dependent(start, running.abstract_data(self.arguments), jax.random.key(0))
        for name, flags in depends.items():
            if any(jax.tree.leaves(flags)):
                raise GuideError(
                    f"guide parameter {name!r}: its start value is computed from the data, and "
                    "init() was given none. Pass the data as batch=, or give the parameter a "
                    "constant start value."
                )

    def __repr__(self) -> str:
        return f"NumPyroFunction({getattr(self.function, '__name__', self.function)})"


@dataclasses.dataclass(frozen=True, repr=False)
class DensityFunction(NumPyroFunction, DensityGuide):
    """A guide function that draws the model's latents and nothing else.

    Its density at any `z` is that of its own run with these latents in place of draws.
    """

    def log_prob(self, params: dict[str, PyTree], space: Space, z: Position, batch: Batch) -> Array:
        everything = self.target.constrain(z, batch, {}, {})
        values = {name: everything[name] for name in space.names}
        log_dets = self.target.log_dets(z, batch, {}, {})
        # NumPyro's own check finds the sum of a thousand shares too far from one
        with numpyro.validation_enabled(False):
            # nothing is left to be drawn, as `adapt` has checked
            trace = self.trace(params, jax.random.key(0), batch, values)
            log_q = running.log_prob(trace, anywhere=True)
        return sum(log_dets.values(), log_q)


def _start(target: Target, guide: NumPyroFunction, key: Array, batch: Batch) -> dict[str, PyTree]:
    return running.params(guide.trace(None, key, batch))
