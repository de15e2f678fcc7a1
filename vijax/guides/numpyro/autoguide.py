"""NumPyro's autoguides as vijax guides.

At its first call an autoguide traces its model and stores initial values, plates, the data, and
the transform of every support, fixed at a first draw even where the support depends on another
latent. None of this is needed here, and running the model costs seconds. The autoguide is therefore
given a substitute model, with the same site names and unconstrained, real-valued sites. A copy is
set up each time the guide is traced (under `jit`, a few hundredths of a second), no user code runs,
and the autoguide samples `z` itself with its density. Parameter names and meanings are NumPyro's.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterator
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

from vijax.contracts import (
    Axes,
    Batch,
    DensityGuide,
    Draw,
    Guide,
    Position,
    PyTree,
    Space,
    Target,
)
from vijax.guides.numpyro import tracing
from vijax.guides.numpyro.tracing import Arguments

Density = Callable[[Position], Array]

_INDEPENDENT = (AutoNormal, AutoDiagonalNormal)
_GAUSSIAN = (*_INDEPENDENT, AutoMultivariateNormal, AutoLowRankMultivariateNormal)


@dataclasses.dataclass(frozen=True)
class AutoPart:
    """One autoguide and its sites.

    Attributes:
        names: names of its sites.
        guide: a copy of the user's autoguide, not yet set up.
        identity: fingerprint of the autoguide, for equality and hashing.
    """

    names: tuple[str, ...]
    guide: AutoGuide = dataclasses.field(compare=False)
    identity: Hashable

    def autoguide(self, space: Space, location: Position, density: Density | None) -> AutoGuide:
        """A copy of the autoguide over the unconstrained values of its sites.

        Args:
            space: a space that contains the sites.
            location: initial values.
            density: log density of the unconstrained values, for guides that use its gradient.
        """
        guide = copy_autoguide(self.guide)
        guide.model = _unconstrained_model(self.subspace(space), density)
        guide.init_loc_fn = init_to_value(values={name: location[name] for name in self.names})
        return guide

    def subspace(self, space: Space) -> Space:
        """The space of its sites, sorted by name as in the autoguide's vector."""
        return Space(tuple(sorted(space.subset(self.names).sites, key=lambda site: site.name)))

    def sample_values(self, space: Space, z: Position) -> dict[str, Array]:
        """Values of the autoguide's sample sites at position `z`."""
        if isinstance(self.guide, AutoContinuous):  # it samples one vector and splits it
            return {f"_{self.guide.prefix}_latent": self.subspace(space).ravel(z)}
        return {name: z[name] for name in self.names}

    def param_axes(self, space: Space, plates: Collection[str]) -> dict[str, Axes]:
        """The axes along plates of the parameters; empty if it has none for each site."""
        if not isinstance(self.guide, (AutoNormal, AutoDelta)):
            return {}
        return {
            f"{site.name}_{self.guide.prefix}_{name}": site.axes(plates)
            for site in self.subspace(space).sites
            for name in ("loc", "scale")
        }

    def log_prob(self, trace: tracing.Trace, space: Space) -> Array:
        """The log density of a trace; on minibatches sites are scaled as those of the model."""
        scales = {site.name: site.scale for site in self.subspace(space).sites if site.scale != 1}
        return tracing.log_prob(trace, scales=scales)

    @property
    def uses_density(self) -> bool:
        """Whether draws may depend on the target's density: DAIS, and classes outside NumPyro."""
        builtin = type(self.guide).__module__.split(".")[0] == "numpyro"
        return isinstance(self.guide, AutoDAIS) or not builtin


@dataclasses.dataclass(frozen=True, repr=False)
class NumPyroAuto(Guide):
    """One or several NumPyro autoguides (`AutoGuideList`) over unconstrained space.

    Parameters are the autoguides' `param` sites in unconstrained space, a dict by name. The guide
    starts at `location`; the autoguide's `init_loc_fn` is not used. `AutoDelta` is the mode in
    constrained space, as in NumPyro: `log |dx/dz|` in `log_q` removes the Jacobian from the
    objective. Constructed by `adapt`, which validates it.

    Attributes:
        parts: the autoguides and their sites.
        arguments: the static part of the model's arguments.
        target: the target, for guides that use its density.
    """

    parts: tuple[AutoPart, ...]
    arguments: Arguments = dataclasses.field(compare=False)
    target: Target

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> dict[str, PyTree]:
        return self.target.program(_start, self, space)(key, location)

    def row_axes(
        self, params: dict[str, PyTree], space: Space, plates: Collection[str]
    ) -> dict[str, PyTree]:
        found: dict[str, Axes] = {}
        names: set[str] = set()  # of sites with parameters of their own
        for part in self.parts:
            axes = part.param_axes(space, plates)
            found |= axes
            names |= set(part.names) if axes else set()
        if {site.name for site in space.sites if site.axes(plates).pairs} - names:
            return super().row_axes(params, space, plates)
        none = jax.tree.map(lambda _: Axes(), params)
        return none | {name: axes for name, axes in found.items() if name in params}

    def draw(self, params: dict[str, PyTree], space: Space, key: Array, batch: Batch) -> Draw:
        z: Position = {}
        log_q = jnp.zeros(())
        for part, trace in self.traces(params, space, key, batch):
            z |= {name: trace[name]["value"] for name in part.names}
            log_q = log_q + part.log_prob(trace, space)
        return Draw(z, log_q + self._delta_log_det(z, batch))

    def named_params(
        self, params: dict[str, PyTree], space: Space, batch: Batch
    ) -> dict[str, PyTree]:
        traces = self.traces(params, space, jax.random.key(0), batch)
        found = (tracing.constrained_params(trace) for _, trace in traces)
        return {name: value for part in found for name, value in part.items()}

    def traces(
        self,
        params: dict[str, PyTree],
        space: Space,
        key: Array,
        batch: Batch,
        z: Position | None = None,
    ) -> Iterator[tuple[AutoPart, tracing.Trace]]:
        """The trace of every part, at a draw or at a given position."""
        args, kwargs = self.arguments.join(batch.data)
        # set-up requires initial values, unused because all parameters are given
        origin = {site.name: jnp.zeros(site.z_shape) for site in space.sites}
        for i, part in enumerate(self.parts):
            all_sites = part.names == self.target.space.names
            density = self._density(batch) if all_sites and part.uses_density else None
            guide = part.autoguide(space, origin, density)
            values = None if z is None else part.sample_values(space, z)
            key_i = jax.random.fold_in(key, i)
            yield part, tracing.run(guide, args, kwargs, key_i, params, values=values)

    def _density(self, batch: Batch) -> Density:
        def density(z: Position) -> Array:
            with handlers.block():  # hides the model's sites from the guide's trace
                return self.target.log_density(z, batch)

        return density

    def _delta_log_det(self, z: Position, batch: Batch) -> Array:
        """`log |dx/dz|` of the `AutoDelta` sites, which moves their mode to constrained space."""
        names = [
            name for part in self.parts if isinstance(part.guide, AutoDelta) for name in part.names
        ]
        if not names:
            return jnp.zeros(())
        log_dets = self.target.log_dets(z, batch, {}, {})
        return sum((log_dets[name] for name in names), jnp.zeros(()))

    def start(self, key: Array, space: Space, location: Position) -> list[dict[str, PyTree]]:
        """Initial values of every part's parameters."""
        values = []
        for i, part in enumerate(self.parts):
            guide = part.autoguide(space, location, None)
            values.append(tracing.params(tracing.run(guide, (), {}, jax.random.fold_in(key, i))))
        return values

    def __repr__(self) -> str:
        return f"NumPyroAuto({', '.join(type(part.guide).__name__ for part in self.parts)})"


@dataclasses.dataclass(frozen=True, repr=False)
class DensityAuto(NumPyroAuto, DensityGuide):
    """Gaussian autoguides, whose density can be evaluated at any point."""

    def log_prob(self, params: dict[str, PyTree], space: Space, z: Position, batch: Batch) -> Array:
        traces = self.traces(params, space, jax.random.key(0), batch, z)
        return sum((part.log_prob(trace, space) for part, trace in traces), jnp.zeros(()))


@dataclasses.dataclass(frozen=True, repr=False)
class FactorizedAuto(DensityAuto):
    """Gaussian autoguides with independent coordinates."""

    factorized: ClassVar[bool] = True


def auto_class(parts: tuple[AutoPart, ...]) -> type[NumPyroAuto]:
    """The guide class for autoguides; a density is assumed only for NumPyro's Gaussian ones."""
    kinds = {type(part.guide) for part in parts}
    if not kinds <= set(_GAUSSIAN):
        return NumPyroAuto
    return FactorizedAuto if kinds <= set(_INDEPENDENT) else DensityAuto


def copy_autoguide(guide: AutoGuide) -> AutoGuide:
    """A copy whose set-up does not modify the original: its dicts, filled at set-up, are copied."""
    copied = copy.copy(guide)
    for name, value in vars(guide).items():
        if isinstance(value, dict):
            setattr(copied, name, dict(value))
    return copied


def _start(
    target: Target, guide: NumPyroAuto, space: Space, key: Array, location: Position
) -> dict[str, PyTree]:
    parts = guide.start(key, space, location)
    return {name: value for part in parts for name, value in part.items()}


def _unconstrained_model(space: Space, density: Density | None) -> Callable[..., None]:
    """A model whose sites are the unconstrained values, with an optional log density."""

    def model(*args: Any, **kwargs: Any) -> None:
        z = {}
        for site in space.sites:
            event = len(site.z_shape) - (len(site.shape) - site.event_dim)
            normal = dist.Normal(0.0, 1.0).expand(site.z_shape).to_event(event)
            # masked: defines shape and support but adds no density
            z[site.name] = numpyro.sample(site.name, normal.mask(False))
        if density is not None:
            numpyro.factor("log_density", density(z))

    return model
