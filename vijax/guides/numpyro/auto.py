"""NumPyro's autoguides as vijax guides.

An autoguide looks at its model once, at its first call, and keeps what it saw: start values,
plates, the data, and every support's transform, frozen at a first draw even where the support
moves with another latent. None of this is wanted here, and running the model to get it costs
seconds. So the autoguide is given another model: one with the same site names whose values are
the unconstrained ones, all on the real line. It is set up afresh, on a copy, each time it is
traced (under `jit`, a few hundredths of a second), no user code runs, and what it samples is `z`
itself with its density. Parameter names and meanings are NumPyro's own.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers
from numpyro.infer import init_to_value
from numpyro.infer.autoguide import (
    AutoContinuous,
    AutoDAIS,
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuide,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

from vijax.contracts import Batch, DensityGuide, Draw, Guide, Position, PyTree, Space, Target
from vijax.guides.numpyro import running
from vijax.guides.numpyro.running import Arguments

Density = Callable[[Position], Array]

_INDEPENDENT = (AutoNormal, AutoDiagonalNormal)
_GAUSSIAN = (*_INDEPENDENT, AutoMultivariateNormal, AutoLowRankMultivariateNormal)


@dataclasses.dataclass(frozen=True)
class AutoPart:
    """One autoguide and the sites it is for.

    Attributes:
        names: its sites.
        guide: a copy of the user's autoguide that has not been set up.
        identity: stands for the autoguide in comparisons.
    """

    names: tuple[str, ...]
    guide: AutoGuide = dataclasses.field(compare=False)
    identity: Hashable

    def ready(self, space: Space, location: Position, density: Density | None) -> AutoGuide:
        """A fresh autoguide over the unconstrained values of the sites, starting at `location`.

        Args:
            space: holds the sites.
            location: start values.
            density: log density of these sites' values, for guides that follow its gradient.
        """
        guide = fresh(self.guide)
        guide.model = _flat_model(self.own(space), density)
        guide.init_loc_fn = init_to_value(values={name: location[name] for name in self.names})
        return guide

    def own(self, space: Space) -> Space:
        """Its sites by name: so a program lays them out, whatever order a model has them in."""
        return Space(tuple(sorted(space.subset(self.names).sites, key=lambda site: site.name)))

    def drawn(self, space: Space, z: Position) -> dict[str, Array]:
        """What the autoguide has drawn where the values of the sites are those in `z`."""
        if isinstance(self.guide, AutoContinuous):  # the sites are cut from one vector
            return {f"_{self.guide.prefix}_latent": self.own(space).ravel(z)}
        return {name: z[name] for name in self.names}

    @property
    def reads_density(self) -> bool:
        """Whether draws depend on the target's density: DAIS, and classes not known to us."""
        ours = type(self.guide).__module__.split(".")[0] == "numpyro"
        return isinstance(self.guide, AutoDAIS) or not ours


@dataclasses.dataclass(frozen=True, repr=False)
class NumPyroAuto(Guide):
    """NumPyro autoguides, one or several (`AutoGuideList`), over unconstrained space.

    Parameters are the autoguides' `param` sites in unconstrained space, a dict by name. The
    guide starts at `location`; the autoguide's own `init_loc_fn` is not used. `AutoDelta` keeps
    its meaning, the mode in the sites' own units: `log |dx/dz|` in `log_q` takes the Jacobian out
    of the objective. Built by `adapt`, which checks it.

    Attributes:
        parts: the autoguides and their sites.
        arguments: the static part of the model's arguments.
        target: the target, for guides that follow its density.
    """

    parts: tuple[AutoPart, ...]
    arguments: Arguments = dataclasses.field(compare=False)
    target: Target

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> dict[str, PyTree]:
        return self.target.program(_start, self, space)(key, location)

    def draw(self, params: dict[str, PyTree], space: Space, key: Array, batch: Batch) -> Draw:
        z: Position = {}
        log_q = jnp.zeros(())
        for part, trace in self.traces(params, space, key, batch):
            z |= {name: trace[name]["value"] for name in part.names}
            log_q = log_q + running.log_prob(trace)
        return Draw(z, log_q + self._constrained_mode(z, batch))

    def traces(
        self,
        params: dict[str, PyTree],
        space: Space,
        key: Array,
        batch: Batch,
        z: Position | None = None,
    ) -> Iterator[tuple[AutoPart, running.Trace]]:
        """The trace of every part, at a draw or at a given position."""
        args, kwargs = self.arguments.join(batch.data)
        # the set-up wants start values; with all parameters given they are not used
        origin = {site.name: jnp.zeros(site.z_shape) for site in space.sites}
        for i, part in enumerate(self.parts):
            whole = part.names == self.target.space.names
            density = self._density(batch) if whole and part.reads_density else None
            guide = part.ready(space, origin, density)
            values = None if z is None else part.drawn(space, z)
            key_i = jax.random.fold_in(key, i)
            yield part, running.run(guide, args, kwargs, key_i, params, values=values)

    def _density(self, batch: Batch) -> Density:
        def density(z: Position) -> Array:
            with handlers.block():  # the model's sites are none of the guide's
                return self.target.log_density(z, batch)

        return density

    def _constrained_mode(self, z: Position, batch: Batch) -> Array:
        """What makes the mode of `AutoDelta` one in the sites' own units."""
        names = [
            name for part in self.parts if isinstance(part.guide, AutoDelta) for name in part.names
        ]
        if not names:
            return jnp.zeros(())
        log_dets = self.target.log_dets(z, batch, {}, {})
        return sum((log_dets[name] for name in names), jnp.zeros(()))

    def start(self, key: Array, space: Space, location: Position) -> list[dict[str, PyTree]]:
        """Start values of every part's parameters."""
        values = []
        for i, part in enumerate(self.parts):
            guide = part.ready(space, location, None)
            values.append(running.params(running.run(guide, (), {}, jax.random.fold_in(key, i))))
        return values

    def __repr__(self) -> str:
        return f"NumPyroAuto({', '.join(type(part.guide).__name__ for part in self.parts)})"


@dataclasses.dataclass(frozen=True, repr=False)
class DensityAuto(NumPyroAuto, DensityGuide):
    """Autoguides that are Gaussians, whose density is known anywhere."""

    def log_prob(self, params: dict[str, PyTree], space: Space, z: Position, batch: Batch) -> Array:
        traces = self.traces(params, space, jax.random.key(0), batch, z)
        return sum((running.log_prob(trace) for _, trace in traces), jnp.zeros(()))


@dataclasses.dataclass(frozen=True, repr=False)
class FactorizedAuto(DensityAuto):
    """The same with independent coordinates."""

    factorized: ClassVar[bool] = True


def auto_class(parts: tuple[AutoPart, ...]) -> type[NumPyroAuto]:
    """What autoguides can do together; a class that NumPyro does not have may do anything."""
    kinds = {type(part.guide) for part in parts}
    if not kinds <= set(_GAUSSIAN):
        return NumPyroAuto
    return FactorizedAuto if kinds <= set(_INDEPENDENT) else DensityAuto


def fresh(guide: AutoGuide) -> AutoGuide:
    """A copy whose set-up leaves the original as it was; autoguides fill dicts of their own."""
    twin = copy.copy(guide)
    for name, value in vars(guide).items():
        if isinstance(value, dict):
            setattr(twin, name, dict(value))
    return twin


def _start(
    target: Target, guide: NumPyroAuto, space: Space, key: Array, location: Position
) -> dict[str, PyTree]:
    parts = guide.start(key, space, location)
    return {name: value for part in parts for name, value in part.items()}


def _flat_model(space: Space, density: Density | None) -> Callable[..., None]:
    """A model whose sites are unconstrained values, with the given log density or none at all."""

    def flat(*args: Any, **kwargs: Any) -> None:
        z = {}
        for site in space.sites:
            event = len(site.z_shape) - (len(site.shape) - site.event_dim)
            normal = dist.Normal(0.0, 1.0).expand(site.z_shape).to_event(event)
            # masked: it gives shape and support, and no density of its own
            z[site.name] = numpyro.sample(site.name, normal.mask(False))
        if density is not None:
            numpyro.factor("log_density", density(z))

    return flat
