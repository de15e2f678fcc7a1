"""The target: a log density over unconstrained space, and the data it is given."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax

from vijax.contracts.space import Array, Plate, Position, Space
from vijax.runtime.device_layout import DeviceLayout

PyTree = Any


class Batch(NamedTuple):
    """What a model is evaluated on: arrays, never Python configuration.

    Attributes:
        data: the arrays among the model's arguments, by name (`"y"`, `"tables['x']"`).
        index: rows in use of every subsampled plate, `(batch,)` integers; empty when full.
        key: randomness of the model itself (dropout), `None` for a fixed key.
        centering: what moves `z` to other coordinates, by site, `z_shape`; sites without keep the
            model's own. Of hierarchical sites weights in [0, 1], see `vijax.model.tracing.location_scale`; of
            counts that are drawn their least values, see `vijax.engine.count_bounds`.
        fetched: by name, the rows in `index` of the arrays that are read from a `RowSource`, and
            that `data` therefore does not have.
    """

    data: dict[str, Array]
    index: dict[str, Array] = {}  # type: ignore[assignment]  # shadows tuple.index, unused
    key: Array | None = None
    centering: dict[str, Array] = {}
    fetched: dict[str, Array] = {}


class Variables(NamedTuple):
    """Everything that is optimized: the guide's parameters and the model's own `param` sites.

    Attributes:
        guide: the guide's parameters.
        model: the model's `param` sites in unconstrained space, by name.
    """

    guide: PyTree
    model: dict[str, PyTree] = {}


class Evaluation(NamedTuple):
    """A model run at one position: the log density and the mutable state it left behind."""

    log_density: Array
    mutable: dict[str, PyTree]


class Terms(NamedTuple):
    """The log density of one position in parts, elementwise over plates, by name; and `mutable`."""

    values: dict[str, Array]
    mutable: dict[str, PyTree]


class TermInfo(NamedTuple):
    """What is known of a term of the log density before it is computed.

    Attributes:
        plates: those that it has a dimension for, counted from the right.
        parents: the sites in the space that it depends on.
        prior_of: the site whose prior, or log Jacobian, it is; `None` for data and factors.
    """

    plates: tuple[Plate, ...]
    parents: frozenset[str]
    prior_of: str | None = None


class Functions(NamedTuple):
    """The functions of a model, see the methods of `Target` of the same names."""

    evaluate: Callable[..., Evaluation]
    constrain: Callable[..., dict[str, Array]]
    unconstrain: Callable[..., Position]
    terms: Callable[..., Terms]
    site_log_probs: Callable[..., dict[str, Array]]
    log_dets: Callable[..., dict[str, Array]]
    log_prior_sds: Callable[..., dict[str, Array]]
    initialize: Callable[..., tuple[dict[str, PyTree], dict[str, PyTree]]]
    constrain_params: Callable[..., dict[str, PyTree]]
    observations: Callable[..., dict[str, Array]]
    draw_discrete: Callable[..., Position]
    term_info: Callable[[frozenset[str]], Mapping[str, TermInfo]]


class Structure(NamedTuple):
    """What one abstract trace says of a model.

    Attributes:
        observed: names of the observed sites.
        dims: plate names along the batch dimensions of every site, `None` where there is none.
        hierarchical: sites whose prior has a location and a scale, and whose scale depends on
            other latents: what `Batch.centering` can name.
        location_scale: sites whose prior has a location and a scale, latent or not.
        sequential: whether the model has a long loop, so that many points take as long as one.
        differentiable: whether the log density has a gradient in the continuous sites.
    """

    observed: tuple[str, ...] = ()
    dims: Mapping[str, tuple[str | None, ...]] = {}
    hierarchical: tuple[str, ...] = ()
    location_scale: tuple[str, ...] = ()
    sequential: bool = False
    differentiable: bool = True


class Subsampling(NamedTuple):
    """The plates of a model, and how minibatches are made of its data.

    Attributes:
        plates: every plate, by name.
        request: what the user asked to be cut into minibatches, `None` for nothing.
        cut: by array, the `(plate, axis)` pairs along which it is subsampled before the model
            sees it.
    """

    plates: Mapping[str, Plate] = {}
    request: Hashable = None
    cut: Mapping[str, tuple[tuple[str, int], ...]] = {}

    @property
    def rows(self) -> dict[str, int]:
        """Rows of a minibatch by plate; plates that are used in full are left out."""
        return {
            name: plate.subsample_size
            for name, plate in self.plates.items()
            if plate.subsample_size != plate.size
        }


class Marginalized(NamedTuple):
    """The discrete latent sites that are summed out of the log density.

    They are no part of the space. Indices of their values may stand in a position beside the
    coordinates, see `Target.draw_discrete`.

    Attributes:
        sizes: number of values by site.
        entries: numbers that summing them out makes of one position, with all data.
    """

    sizes: Mapping[str, int] = {}
    entries: int = 0


class Programs(NamedTuple):
    """Compiled programs on a target, and the same target on other devices.

    They live as long as the target does: one that is dropped takes its programs along.
    """

    compiled: dict[Hashable, Callable[..., Any]]
    elsewhere: dict[DeviceLayout, Target]


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A log density over unconstrained space, with the way back to the model's own sites.

    Built by `vijax.model.build`; `log |Jacobian|` and plate scales are included, so that
    `exp(log_density)` integrates to the evidence. Every function is pure and takes its data as
    `batch`; `model` holds the model's `param` sites and `mutable` its mutable state.

    Attributes:
        space: the latent sites.
        functions: the model's.
        structure: what is known of the model.
        subsampling: its plates, and how minibatches are made.
        marginalized: the discrete sites that are summed out.
        devices: the devices that its programs run on.
        programs: see `program`.
    """

    space: Space
    functions: Functions
    structure: Structure = Structure()
    subsampling: Subsampling = Subsampling()
    marginalized: Marginalized = Marginalized()
    devices: DeviceLayout = DeviceLayout()
    programs: Programs = dataclasses.field(default_factory=lambda: Programs({}, {}), repr=False)

    # ---- the model at one position

    def log_density(
        self,
        z: Position,
        batch: Batch,
        model: Mapping | None = None,
        mutable: Mapping | None = None,
    ) -> Array:
        """The log density of one position, a scalar."""
        return self.evaluate(z, batch, model or {}, mutable or {}).log_density

    def evaluate(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Evaluation:
        """The log density of one position, and the new mutable state."""
        return self.functions.evaluate(z, batch, model, mutable)

    def terms(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Terms:
        """What `evaluate` adds up: log densities and log Jacobians by site, elementwise."""
        return self.functions.terms(z, batch, model, mutable)

    def term_info(self, batch: Batch) -> Mapping[str, TermInfo]:
        """What is known of the terms, by name; read off the model when it is first asked for."""
        return self.functions.term_info(frozenset(batch.centering))

    def constrain(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """The values of sites and deterministics, in the model's own space."""
        return self.functions.constrain(z, batch, model, mutable)

    def unconstrain(
        self, values: Mapping[str, Any], batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """The position of some sites' values, the inverse of `constrain`."""
        return self.functions.unconstrain(values, batch, model, mutable)

    def site_log_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log density by site, elementwise and unscaled for observed sites."""
        return self.functions.site_log_probs(z, batch, model, mutable)

    def log_dets(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """`log |dx/dz|` by latent site, scalars: `log q(x) = log q(z) - sum(log_dets)`."""
        return self.functions.log_dets(z, batch, model, mutable)

    def log_prior_sds(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log sd under the prior given all else, `z_shape`, of sites in `batch.centering`."""
        return self.functions.log_prior_sds(z, batch, model, mutable)

    def draw_discrete(
        self, key: Array, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """Exact draws of the marginalized discrete sites given `z`, as indices of values.

        With them in `z`, `constrain` has these sites too.
        """
        return self.functions.draw_discrete(key, z, batch, model, mutable)

    def initialize(self, key: Array, batch: Batch) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        """Initial values of `param` sites and mutable state."""
        return self.functions.initialize(key, batch)

    def constrain_params(
        self, model: Mapping[str, PyTree], batch: Batch, mutable: Mapping
    ) -> dict[str, PyTree]:
        """The `param` sites in their constraints."""
        return self.functions.constrain_params(model, batch, mutable)

    def observations(
        self, batch: Batch, model: Mapping[str, PyTree], mutable: Mapping
    ) -> dict[str, Array]:
        """The values of the observed sites."""
        return self.functions.observations(batch, model, mutable)

    # ---- what it is

    @property
    def explorable(self) -> bool:
        """Whether gradients lead everywhere: Markov chains and optimizers can go anywhere."""
        return self.structure.differentiable and not self.space.discrete.sites

    @property
    def footprint(self) -> int:
        """Numbers that one evaluation takes beside the data."""
        return self.space.dim + self.marginalized.entries

    @functools.cached_property
    def subsampled(self) -> dict[str, int]:
        """Rows of a minibatch by plate; plates that are used in full are left out."""
        return self.subsampling.rows

    @functools.cached_property
    def on_batch(self) -> Target:
        """The same with the rows of one batch in its space; itself, if no latents are cut."""
        space = self.space.cut(self.subsampled)
        if [site.z_shape for site in space.sites] == [site.z_shape for site in self.space.sites]:
            return self
        return dataclasses.replace(self, space=space, programs=Programs({}, {}))

    def with_density(
        self, evaluate: Callable[..., Evaluation], terms: Callable[..., Terms]
    ) -> Target:
        """The same with another log density, whole and in terms."""
        functions = self.functions._replace(evaluate=evaluate, terms=terms)
        return dataclasses.replace(self, functions=functions, programs=Programs({}, {}))

    # ---- programs

    def over(self, devices: DeviceLayout) -> Target:
        """The same on some devices, made once, so that a second fit there finds its programs."""
        known = self.programs.elsewhere
        if devices not in known:
            known[devices] = dataclasses.replace(self, devices=devices, programs=Programs({}, {}))
        return known[devices]

    def program(
        self, function: Callable[..., Any], *static: Hashable, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """`jax.jit(function(self, *static, ...))`, made once for equal `function` and `static`.

        A second fit that uses the same target and equal configuration therefore compiles
        nothing, and a target that is dropped takes its programs along.
        """
        lookup, known = (function, *static), self.programs.compiled
        if lookup not in known:

            def call(*arrays: Any) -> Any:
                return function(self, *static, *arrays)

            call.__name__ = call.__qualname__ = getattr(function, "__name__", "program")
            known[lookup] = jax.jit(call, donate_argnums=donate)
        return known[lookup]
