"""The target: `log p(x, z) + log |dx/dz|` as a function of unconstrained `z`, given data."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vijax.contracts.functions import Evaluation, Functions, TermInfo, Terms
from vijax.contracts.space import Array, Plate, Position, Space
from vijax.runtime.compilation import fast_compilation
from vijax.runtime.device_layout import DeviceLayout
from vijax.runtime.gathers import Gather
from vijax.runtime.host_values import Node
from vijax.runtime.network_run import Noise
from vijax.runtime.precision import float32_products
from vijax.runtime.program import Program

_ENTRY_COST = 4  # of a row with one label: 4 ns, its gradient 15 ns; an element of data 0.5 and 1
_MANY_SITES = 50  # latent sites of a program that takes longer to compile than to run

PyTree = Any


class Batch(NamedTuple):
    """The data of one evaluation: arrays, never Python configuration.

    Attributes:
        data: the arrays among the model's arguments, by name (`"y"`, `"tables['x']"`).
        index: rows in use of every subsampled plate, `(batch,)` integers; empty for all rows.
        key: randomness of the model itself (dropout), `None` for a fixed key.
        centering: reparameterization of `z` by site, `z_shape`; other sites keep the model's
            parameterization. For hierarchical sites weights from 0 (non-centered) to 1
            (centered), see `vijax.model.tracing.location_scale`; for counts sampled by the guide
            their lower bounds, see `vijax.engine.count_bounds`.
        fetched: by name, the rows in `index` of arrays that are read from a `RowSource` and are
            therefore not in `data`.
        noise: in a step of a fit, what networks draw for each row, see
            `vijax.runtime.network_run`; `None` elsewhere.
        linearized: by site, the unconstrained weights around which networks are linearized, as they
            are in the predictions of some guides, see `Guide.linearized_at`.
        step: the number of the step of a fit, for schedules; `None` elsewhere.
    """

    data: dict[str, Array]
    index: dict[str, Array] = {}  # type: ignore[assignment]  # shadows tuple.index, unused
    key: Array | None = None
    centering: dict[str, Array] = {}
    fetched: dict[str, Array] = {}
    noise: Noise | None = None
    linearized: dict[str, Array] = {}
    step: Array | None = None


class Variables(NamedTuple):
    """Everything that is optimized: the guide's parameters and the model's `param` sites.

    Attributes:
        guide: the guide's parameters.
        model: the model's `param` sites in unconstrained space, by name.
    """

    guide: PyTree
    model: dict[str, PyTree] = {}


class Structure(NamedTuple):
    """Properties of a model, from one abstract trace.

    Attributes:
        observed: names of the observed sites.
        dims: plate names along the batch dimensions of every site, `None` where there is none.
        hierarchical: sites with a location-scale prior whose scale depends on latent sites; these
            can have a `Batch.centering`.
        location_scale: sites with a location-scale prior, whether their scale is latent or not.
        sequential: whether the model has a long loop, so that many points take as long as one.
        differentiable: whether the log density has a gradient in the continuous sites.
        priors: location and scale of the prior of a site's unconstrained value, each of its shape,
            for sites whose prior has constant parameters of a common family.
        improper: sites with an improper prior.
        factors: the terms of the density that `numpyro.factor` adds.
        bounds: sites that are a stochastic bound on a log density (`True`), or a stochastic loss
            that is no bound (`False`), see `vijax.nn.diffusion`. The log density of such a model is
            random and known to be no more than a bound in expectation: only stochastic gradients
            of it, and averages, have a meaning.
        program: a digest of the traced model, see `vijax.runtime.jaxpr_digest`.
        gathers: the accesses to arrays by indices that the data determine.
        mixture_sizes: numbers of components of the mixture distributions of observed sites.
        outcomes: the values of observed sites with discrete outcomes, as functions of the data.
        constant_factors: those among them that depend on no latent.
    """

    observed: tuple[str, ...] = ()
    dims: Mapping[str, tuple[str | None, ...]] = {}
    hierarchical: tuple[str, ...] = ()
    location_scale: tuple[str, ...] = ()
    sequential: bool = False
    differentiable: bool = True
    priors: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}
    improper: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    bounds: Mapping[str, bool] = {}
    program: str = ""
    mixture_sizes: tuple[int, ...] = ()
    gathers: tuple[Gather, ...] = ()
    outcomes: Mapping[str, Node] = {}
    constant_factors: tuple[str, ...] = ()


class Subsampling(NamedTuple):
    """The plates of a model, and how its data are subsampled into minibatches.

    Attributes:
        plates: every plate, by name.
        request: the minibatches that the user requested, `None` for none.
        axes: by array, the `(plate, axis)` pairs along which it is subsampled before it is passed
            to the model.
        whole: whether the model runs on all rows at once. One that has local latents and arrays of
            the size of a minibatch runs on as many rows only.
    """

    plates: Mapping[str, Plate] = {}
    request: Hashable = None
    axes: Mapping[str, tuple[tuple[str, int], ...]] = {}
    whole: bool = True

    @property
    def rows(self) -> dict[str, int]:
        """Number of rows in a minibatch, by plate, without plates that are used in full."""
        return {
            name: plate.subsample_size
            for name, plate in self.plates.items()
            if plate.subsample_size != plate.size
        }


class Marginalized(NamedTuple):
    """The discrete latent sites that are marginalized out of the log density by enumeration.

    They are not in the space. A position may contain indices of their values in addition to its
    coordinates, see `Target.draw_discrete`.

    Attributes:
        sizes: number of values by site.
        entries: number of array elements that enumeration takes at one position, with all data.
    """

    sizes: Mapping[str, int] = {}
    entries: int = 0


class Programs(NamedTuple):
    """Compiled programs of a target, and copies of it by what differs, cached with the target."""

    compiled: dict[Hashable, Program]
    copies: dict[Hashable, Target]


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """`log_density(z) = log p(x, constrain(z)) + log |d constrain / dz|` of a model.

    `exp(log_density)` integrates to the evidence `p(x)`; plate scales are included. Built by
    `vijax.model.build`. Every function is pure and takes its data as `batch`; `model` holds the
    model's `param` sites and `mutable` its mutable state.

    Attributes:
        space: the latent sites.
        functions: the model's pure functions.
        structure: properties of the model.
        subsampling: its plates, and how minibatches are subsampled.
        marginalized: the discrete sites that are enumerated.
        devices: the devices that its programs run on.
        programs: cache of compiled programs, see `program`.
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
        """The log density at one position, a scalar."""
        return self.evaluate(z, batch, model or {}, mutable or {}).log_density

    def evaluate(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Evaluation:
        """The log density at one position, and the new mutable state."""
        return self.functions.evaluate(z, batch, model, mutable)

    @property
    def conjugate(self) -> Target:
        """A copy with the log density of a conditionally conjugate model as it is read, cached."""
        functions = self.functions._replace(evaluate=self.functions.conjugate_evaluate)
        return self.copy("conjugate", functions=functions)

    def terms(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Terms:
        """The terms whose sum is the log density: log densities and log Jacobians, elementwise."""
        return self.functions.terms(z, batch, model, mutable)

    def term_info(self, batch: Batch) -> Mapping[str, TermInfo]:
        """The dependence structure of the terms, by name; traced on first use."""
        return self.functions.term_info(frozenset(batch.centering))

    def constrain(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Values of all sites and deterministics in the model's (constrained) space."""
        return self.functions.constrain(z, batch, model, mutable)

    def unconstrain(
        self, values: Mapping[str, Any], batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """The position of constrained values of some sites, the inverse of `constrain`."""
        return self.functions.unconstrain(values, batch, model, mutable)

    def site_log_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log density by site, elementwise; unscaled for observed sites."""
        return self.functions.site_log_probs(z, batch, model, mutable)

    def fisher_root(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping, key: Array
    ) -> dict[str, Array]:
        """By observed site, functions of `z` whose Jacobian `R` has `R'R` as Fisher information.

        Of shape `(num, *shape)`, see `vijax.model.fisher`. `key` is for distributions whose Fisher
        information is estimated.
        """
        return self.functions.fisher_root(z, batch, model, mutable, key)

    def log_dets(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """`log |dx/dz|` by latent site, scalars; `log q(x) = log q(z) - sum(log_dets)`."""
        return self.functions.log_dets(z, batch, model, mutable)

    def log_prior_sds(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log conditional prior sd, of `z_shape`, for the sites in `batch.centering`."""
        return self.functions.log_prior_sds(z, batch, model, mutable)

    def draw_discrete(
        self, key: Array, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """Exact draws from `p(discrete | z, x)` of the marginalized sites, as indices of values.

        With these added to `z`, `constrain` returns the marginalized sites, too.
        """
        return self.functions.draw_discrete(key, z, batch, model, mutable)

    def discrete_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """`p(discrete | z, x)` of the marginalized sites, by site `(*shape, num_values)`."""
        return self.functions.discrete_probs(z, batch, model, mutable)

    def initialize(self, key: Array, batch: Batch) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        """Initial values of the `param` sites (unconstrained) and the mutable state."""
        return self.functions.initialize(key, batch)

    def starts(self, key: Array, batch: Batch) -> dict[str, Array]:
        """Initial values that the model has for some sites: weights of networks."""
        return self.functions.starts(key, batch)

    def constrain_params(
        self, model: Mapping[str, PyTree], batch: Batch, mutable: Mapping
    ) -> dict[str, PyTree]:
        """The constrained values of the `param` sites."""
        return self.functions.constrain_params(model, batch, mutable)

    def observations(
        self, batch: Batch, model: Mapping[str, PyTree], mutable: Mapping
    ) -> dict[str, Array]:
        """The values of the observed sites."""
        return self.functions.observations(batch, model, mutable)

    # ---- properties

    @property
    def differentiable(self) -> bool:
        """Whether it has a gradient in every latent coordinate, as HMC and optimizers need."""
        return self.structure.differentiable and not self.space.discrete.sites

    @property
    def many_sites(self) -> bool:
        """Whether tracing and compiling a program takes longer than running it."""
        return len(self.space.sites) >= _MANY_SITES

    @property
    def footprint(self) -> int:
        """Array elements per evaluation, data excluded."""
        return self.space.dim + self.marginalized.entries

    @property
    def cost(self) -> int:
        """Elements of data whose log density takes as long as an evaluation, data excluded."""
        entries = _ENTRY_COST * self.marginalized.entries
        return self.space.dim + entries + self.network_cost

    @property
    def network_cost(self) -> int:
        """Multiplications of an evaluation by weights of networks: each meets every row."""
        weights = self.space.networks
        if not weights.sites:
            return 0
        return weights.dim * max((p.size for p in self.subsampling.plates.values()), default=1)

    @functools.cached_property
    def subsampled(self) -> dict[str, int]:
        """Number of rows in a minibatch, by plate, without plates that are used in full."""
        return self.subsampling.rows

    @functools.cached_property
    def on_batch(self) -> Target:
        """The target of one minibatch; itself if there are no local latent variables in it."""
        space = self.space.on_rows(self.subsampled)
        if [site.z_shape for site in space.sites] == [site.z_shape for site in self.space.sites]:
            return self
        return dataclasses.replace(self, space=space, programs=Programs({}, {}))

    def with_density(
        self, evaluate: Callable[..., Evaluation], terms: Callable[..., Terms]
    ) -> Target:
        """A copy with another log density, given as a whole and as terms."""
        functions = self.functions._replace(evaluate=evaluate, terms=terms)
        return dataclasses.replace(self, functions=functions, programs=Programs({}, {}))

    # ---- programs

    def on_devices(self, devices: DeviceLayout) -> Target:
        """A copy on other devices, cached so that a second fit there reuses its programs."""
        return self.copy(devices, devices=devices)

    def copy(self, lookup: Hashable, **changes: Any) -> Target:
        """A copy in which something differs, the same each time for the same `lookup`."""
        known = self.programs.copies
        if lookup not in known:
            known[lookup] = dataclasses.replace(self, **changes, programs=Programs({}, {}))
        return known[lookup]

    def program(
        self,
        function: Callable[..., Any],
        *static: Hashable,
        donate: tuple[int, ...] = (),
        float32: bool = True,
        quick: bool = False,
    ) -> Program:
        """`jax.jit(function(self, *static, ...))`, cached for equal `function` and `static`.

        A second fit with the same target and equal configuration therefore compiles nothing. The
        cache is freed with the target.

        Args:
            function: takes the target, `static`, and arrays.
            *static: its configuration.
            donate: see `jax.jit`.
            float32: whether matrix products have full float32 precision on accelerators, too; if
                not, they have JAX's default.
            quick: whether to compile fast rather than well, also for a model of few sites.
        """
        lookup, known = (function, quick, *static), self.programs.compiled
        if lookup not in known:

            def call(*arrays: Any) -> Any:
                products = float32_products() if float32 else contextlib.nullcontext()
                with products, self.devices.tracing():
                    return function(self, *static, *arrays)

            call.__name__ = call.__qualname__ = getattr(function, "__name__", "program")
            options = fast_compilation() if quick or self.many_sites else None
            known[lookup] = Program(call, donate_argnums=donate, compiler_options=options)
        return known[lookup]
