"""NumPyro guide functions as vijax guides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from jax import Array

from vijax.contracts import Axes, Batch, DensityGuide, Draw, Guide, Position, PyTree, Space, Target
from vijax.guides.numpyro import tracing
from vijax.guides.numpyro.rows import Rows, local_sites, subsample
from vijax.guides.numpyro.tracing import Arguments
from vijax.runtime.errors import GuideError
from vijax.runtime.handler_lock import handler_lock
from vijax.runtime.keys import rejection_key


@dataclasses.dataclass(frozen=True, repr=False)
class NumPyroFunction(Guide):
    """A NumPyro guide function, which takes the model's arguments and samples its latents.

    Parameters are the function's `param` sites in unconstrained space, a dict by name. The function
    draws constrained values `x` from `q(x)`, which are transformed to unconstrained space by the
    support of each site at this draw: `log q(z) = log q(x) + log |dx/dz|`. Auxiliary sites
    (`infer={"is_auxiliary": True}`) and factors enter `log_q`. An auxiliary site `h` that is not a
    function of the model's sites `x` needs `numpyro.factor("reverse", -log_r)` with a normalized
    `log r(h | x)`; otherwise the ELBO is not a lower bound. Constructed by `adapt`, which validates
    it as far as possible.

    On minibatches it is called with the arrays and rows of the model, its plates of the same names
    are scaled likewise, and its parameters belong to all rows: an encoder, or arrays with an entry
    for each row of which the function takes those in use.

    Attributes:
        function: the guide function.
        identity: fingerprint of the function and the static arguments, for equality and hashing.
        arguments: the static part of the model's arguments.
        target: the target whose supports are used.
        whole: whether the function runs on all rows at once, not only on those of a minibatch.
        uses_rows: whether local latents are drawn by means of the data of their rows.
        scored: sites whose distribution has no reparameterized sampler.
    """

    function: Callable[..., Any] = dataclasses.field(compare=False)
    identity: Hashable
    arguments: Arguments = dataclasses.field(compare=False)
    target: Target
    whole: bool = True
    uses_rows: bool = False
    scored: tuple[str, ...] = ()

    @property
    def without_pathwise_gradient(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.scored

    @property
    def amortized(self) -> bool:  # type: ignore[override]
        """Whether the function infers the local latents of a minibatch from their data."""
        return self.uses_rows

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> dict[str, PyTree]:
        """The initial values in the guide's `param` statements; `location` is ignored.

        Args:
            key: PRNG key of random initial values.
            space: the target's space.
            location: ignored.
            batch: the data, needed only if an initial value is computed from them.

        Raises:
            GuideError: an initial value depends on the data and `batch` is not given.
        """
        if batch is None:
            self._check_start()
            shapes = tracing.abstract_data(self.arguments)
            batch = Batch({name: jnp.zeros(s.shape, s.dtype) for name, s in shapes.items()})
        return self.target.program(_start, self)(key, batch)

    def row_axes(
        self, params: dict[str, PyTree], space: Space, plates: Collection[str]
    ) -> dict[str, PyTree]:
        return jax.tree.map(lambda _: Axes(), params)  # the function takes the rows that it needs

    def draw(self, params: dict[str, PyTree], space: Space, key: Array, batch: Batch) -> Draw:
        self._check_rows(space)
        trace = self.trace(params, key, batch)
        values = {name: trace[name]["value"] for name in space.names}
        # without `model` parameters: `adapt` checks that no support depends on them
        z = self.target.unconstrain(values, batch, {}, {})
        log_dets = self.target.log_dets(z, batch, {}, {})
        return Draw(z, sum(log_dets.values(), tracing.log_prob(trace)))

    def named_params(
        self, params: dict[str, PyTree], space: Space, batch: Batch
    ) -> dict[str, PyTree]:
        return tracing.constrained_params(self.trace(params, jax.random.key(0), batch))

    def trace(
        self,
        params: dict[str, PyTree] | None,
        key: Array,
        batch: Batch,
        values: Mapping[str, Array] | None = None,
    ) -> tracing.Trace:
        """The trace of the guide function at drawn or given constrained values."""
        target = self.target
        sizes = {name: target.subsampling.plates[name].size for name in target.subsampled}
        rows = dict(sizes) if self.whole else target.subsampled
        in_use = {name: jnp.arange(number) for name, number in rows.items()} | batch.index
        data = batch.data
        if local_sites(target):  # else it has the same distribution on all rows
            index = batch.index if self.whole else in_use
            data = subsample(target, batch._replace(index=index))
        args, kwargs = self.arguments.join(data)
        key = rejection_key(key)  # VonMises and Gamma draw by rejection
        return tracing.run(Rows(self.function, in_use, sizes), args, kwargs, key, params, values)

    def _check_rows(self, space: Space) -> None:
        local, used = local_sites(self.target), self.target.subsampled
        if self.whole or not local or space != self.target.space:
            return
        (plate, _), *_ = local[0].axes(used).pairs
        raise GuideError(
            f"{self!r}, site {local[0].name!r}: draws of every row need a model and a guide that "
            f"run on all {self.target.subsampling.plates[plate].size} rows of plate {plate!r} at "
            f"once, got one that runs on {used[plate]} only. Take sizes from the arguments or from "
            "the rows of the plate. The ELBO and the parameters are available as it is."
        )

    def _check_start(self) -> None:
        def start(data: dict[str, Array], key: Array) -> dict[str, PyTree]:
            return tracing.params(self.trace(None, key, Batch(data)))

        depends = tracing.dependent(start, tracing.abstract_data(self.arguments), jax.random.key(0))
        for name, flags in depends.items():
            if any(jax.tree.leaves(flags)):
                raise GuideError(
                    f"guide parameter {name!r}: its initial value is computed from the data, but "
                    "init() was called without data. Pass the data as batch=, or give the "
                    "parameter a constant initial value."
                )

    def __repr__(self) -> str:
        return f"NumPyroFunction({getattr(self.function, '__name__', self.function)})"


@dataclasses.dataclass(frozen=True, repr=False)
class DensityFunction(NumPyroFunction, DensityGuide):
    """A guide function that samples only the model's latents.

    Its density at `z` is the log density of its trace with the latents set to these values.
    """

    def log_prob(self, params: dict[str, PyTree], space: Space, z: Position, batch: Batch) -> Array:
        constrained = self.target.constrain(z, batch, {}, {})
        values = {name: constrained[name] for name in space.names}
        log_dets = self.target.log_dets(z, batch, {}, {})
        # NumPyro's validation rejects simplexes of a thousand entries because of rounding
        with handler_lock, numpyro.validation_enabled(False):
            # the key is not used: `adapt` checks that all sites are given
            trace = self.trace(params, jax.random.key(0), batch, values)
            log_q = tracing.log_prob(trace, check_support=True)
        return sum(log_dets.values(), log_q)


def rebound(guide: Guide, arguments: Arguments, target: Target) -> Guide:
    """The guide with new arguments of the model; the same unless it is a guide function."""
    if not isinstance(guide, NumPyroFunction):
        return guide
    identity = (guide.identity, arguments.lookup)
    return dataclasses.replace(guide, identity=identity, arguments=arguments, target=target)


def _start(target: Target, guide: NumPyroFunction, key: Array, batch: Batch) -> dict[str, PyTree]:
    return tracing.params(guide.trace(None, key, batch))
