"""Read this first: every central type of the library on one page.

A model function and its arguments become a `Target` over an unconstrained `Space`. A `Guide`
is a family of distributions on that space: frozen configuration, its parameters a pytree apart.
An `Objective` scores guide parameters against the target, an `Algorithm` improves them step by
step on the device, a `Solver` reaches them directly from the host.

Conventions. `z` is unconstrained, a dict from site name to array; `key` is a typed JAX key;
`log_density` is unnormalised, `log_prob` normalised; losses are minimised (`loss` falls as
the ELBO rises). Functions treat one point; callers `vmap`. Data is always an argument.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np

from vijax._discrete import Family as Family
from vijax._errors import GuideError
from vijax._space import Array as Array
from vijax._space import Axes as Axes
from vijax._space import Plate as Plate
from vijax._space import Position as Position
from vijax._space import Site as Site
from vijax._space import Space as Space

PyTree = Any


class Batch(NamedTuple):
    """What a model is evaluated on: arrays, never Python configuration.

    Attributes:
        data: the arrays among the model's arguments, by name (`"y"`, `"tables['x']"`).
        index: rows in use of every subsampled plate, `(batch,)` integers; empty when full.
        key: randomness of the model itself (dropout), `None` for a fixed key.
        centring: what moves `z` to other coordinates, by site, `z_shape`; sites without keep the
            model's own. Of hierarchical sites weights in [0, 1], see `vijax.model.centring`; of
            counts that are drawn their least values, see `vijax._least`.
        fetched: by name, the rows in `index` of the arrays that are read from a `RowSource`, and
            that `data` therefore does not have.
    """

    data: dict[str, Array]
    index: dict[str, Array] = {}  # type: ignore[assignment]  # shadows tuple.index, unused
    key: Array | None = None
    centring: dict[str, Array] = {}
    fetched: dict[str, Array] = {}


class RowSource(abc.ABC):
    """An array that is not in memory, read a few rows at a time; `vijax.data` makes them.

    Attributes:
        shape: `(rows, ...)`.
        dtype: that of the array.
        sequential: whether rows can be read in their own order only, so that batches follow it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    sequential: ClassVar[bool] = False

    @abc.abstractmethod
    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows with these numbers, `(num,)`, in this order: `(num, *shape[1:])`."""

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, in memory."""
        return np.asarray(self.take(np.arange(len(self))), dtype)


class Variables(NamedTuple):
    """Everything that is optimised: the guide's parameters and the model's own `param` sites.

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


class Layout(NamedTuple):
    """What is known of a term before it is computed.

    Attributes:
        plates: those that it has a dimension for, counted from the right.
        causes: the discrete sites in the space that it depends on.
    """

    plates: tuple[Plate, ...]
    causes: frozenset[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A log density over unconstrained space, with the way back to the model's own sites.

    Built by `vijax.model.build`; `log |Jacobian|` and plate scales are included, so that
    `exp(log_density)` integrates to the evidence. Every function is pure and takes its data as
    `batch`; `model` holds the model's `param` sites and `mutable` its mutable state.

    Attributes:
        space: the latent sites.
        evaluate: `(z, batch, model, mutable) -> Evaluation`.
        constrain: `(z, batch, model, mutable) -> dict`, sites and deterministics.
        unconstrain: `(values, batch, model, mutable) -> z`, the inverse.
        site_log_probs: `(z, batch, model, mutable) -> dict`, log density by site, elementwise
            and unscaled for observed sites.
        log_dets: `(z, batch, model, mutable) -> dict`, `log |dx/dz|` by latent site, scalars, as
            they enter the log density: `log q(x) = log q(z) - sum(log_dets)`.
        log_spreads: `(z, batch, model, mutable) -> dict`, for every site that `batch.centring`
            names the log sd of each coordinate under its prior given all else, `z_shape`.
        initialise: `(key, batch) -> (model, mutable)`, start values of both.
        constrain_params: `(model, batch, mutable) -> dict`, the `param` sites in their constraints.
        observations: `(batch, model, mutable) -> dict`, the values of the observed sites.
        observed: names of the observed sites.
        plates: every plate of the model, by name.
        dims: plate names along the batch dimensions of every site, `None` where there is none.
        hierarchical: sites whose prior has a location and a scale, and whose scale depends on
            other latents: what `Batch.centring` can name.
        discrete: number of values of every discrete latent site that is summed out of
            `log_density`. They are no part of `space`; the numbers of their values may stand in a
            position beside the coordinates, see `draw_discrete`.
        draw_discrete: `(key, z, batch, model, mutable) -> dict`, draws of the discrete sites given
            `z`, exact, as numbers of values; with them in `z`, `constrain` has these sites too.
        terms: `(z, batch, model, mutable) -> Terms`, what `evaluate` adds up.
        layout: of the terms, by name.
        entries: numbers that summing discrete sites out makes of one position, with all data.
        location_scale: sites whose prior has a location and a scale, latent or not.
        sequential: whether the model has a long loop, so that many points take as long as one.
        differentiable: whether the log density has a gradient in the continuous sites.
        request: what `build` was asked to cut into batches, `None` for nothing.
        cut: by name, the `(plate, axis)` pairs along which an array is cut into batches before the
            model sees it.
        programs: compiled programs on this target, see `program`; they live as long as it does.
    """

    space: Space
    evaluate: Callable[..., Evaluation]
    constrain: Callable[..., dict[str, Array]]
    unconstrain: Callable[..., Position]
    site_log_probs: Callable[..., dict[str, Array]]
    log_dets: Callable[..., dict[str, Array]]
    log_spreads: Callable[..., dict[str, Array]]
    initialise: Callable[..., tuple[dict[str, PyTree], dict[str, PyTree]]]
    constrain_params: Callable[..., dict[str, PyTree]]
    observations: Callable[..., dict[str, Array]]
    observed: tuple[str, ...] = ()
    plates: Mapping[str, Plate] = dataclasses.field(default_factory=dict)
    dims: Mapping[str, tuple[str | None, ...]] = dataclasses.field(default_factory=dict)
    hierarchical: tuple[str, ...] = ()
    location_scale: tuple[str, ...] = ()
    discrete: Mapping[str, int] = dataclasses.field(default_factory=dict)
    draw_discrete: Callable[..., Position] = lambda *_: {}
    terms: Callable[..., Terms] | None = None
    layout: Mapping[str, Layout] = dataclasses.field(default_factory=dict)
    entries: int = 0
    sequential: bool = False
    differentiable: bool = True
    request: Hashable = None
    cut: Mapping[str, tuple[tuple[str, int], ...]] = dataclasses.field(default_factory=dict)
    programs: dict[Hashable, Callable[..., Any]] = dataclasses.field(
        default_factory=dict, repr=False
    )

    @property
    def explorable(self) -> bool:
        """Whether gradients lead everywhere: chains and climbs can go where they like."""
        return self.differentiable and not self.space.drawn.sites

    @functools.cached_property
    def subsampled(self) -> dict[str, int]:
        """Rows that a batch uses, by plate; those used in full are left out."""
        used = {name: plate.subsample_size for name, plate in self.plates.items()}
        return {name: rows for name, rows in used.items() if rows != self.plates[name].size}

    @functools.cached_property
    def on_batch(self) -> Target:
        """The same with the rows of one batch in its space; itself, if no latents are cut."""
        space = self.space.cut(self.subsampled)
        if [site.z_shape for site in space.sites] == [site.z_shape for site in self.space.sites]:
            return self
        return dataclasses.replace(self, space=space, programs={})

    def log_density(
        self,
        z: Position,
        batch: Batch,
        model: Mapping | None = None,
        mutable: Mapping | None = None,
    ) -> Array:
        """The log density of one position, a scalar."""
        return self.evaluate(z, batch, model or {}, mutable or {}).log_density

    @property
    def footprint(self) -> int:
        """Numbers that one evaluation takes beside the data."""
        return self.space.dim + self.entries

    def program(
        self, function: Callable[..., Any], *static: Hashable, donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """`jax.jit(function(self, *static, ...))`, made once for equal `function` and `static`.

        A second fit that uses the same target and equal configuration therefore compiles
        nothing, and a target that is dropped takes its programs along.
        """
        lookup = (function, *static)
        if lookup not in self.programs:

            def call(*arrays: Any) -> Any:
                return function(self, *static, *arrays)

            call.__name__ = call.__qualname__ = getattr(function, "__name__", "program")
            self.programs[lookup] = jax.jit(call, donate_argnums=donate)
        return self.programs[lookup]


class Draw(NamedTuple):
    """One draw from a guide, with `E[exp(log_density(z) - log_q)]` equal to the evidence."""

    z: Position
    log_q: Array


class HostDraws(NamedTuple):
    """Draws on the host, in float64.

    Attributes:
        points: `(num_draws, dim)`.
        log_q: `(num_draws,)`.
        labels: the mixture component of each, `(num_draws,)`, where there are any.
        noise: what a `TransportGuide` made them of, `(num_draws, dim)`.
    """

    points: np.ndarray
    log_q: np.ndarray
    labels: np.ndarray | None = None
    noise: np.ndarray | None = None


class Guide(abc.ABC):
    """A family of distributions on a space. Frozen configuration: holds no arrays, hashable.

    Attributes:
        factorised: whether coordinates are independent under every member of the family, so
            that it is not exact for a correlated posterior.
        conditional: whether its draws depend on the data of the rows they are for, so that it can
            be used for other rows than it was fitted to.
        num_particles: draws that a gradient step averages where nobody says otherwise.
    """

    factorised: ClassVar[bool] = False
    conditional: ClassVar[bool] = False
    num_particles: ClassVar[int] = 1

    @abc.abstractmethod
    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PyTree:
        """Parameters of a narrow member of the family at `location`.

        `batch` is for guides whose start values are computed from the data.
        """

    def row_axes(self, params: PyTree, space: Space, plates: Collection[str]) -> PyTree:
        """A tree like `params` with the `Axes` along which each leaf has a row of a plate.

        A step on a batch reads and writes those rows only.

        Raises:
            GuideError: latents live in these plates, and the guide has no parameters by row.
        """
        inside = [site.name for site in space.sites if site.axes(plates).pairs]
        if inside:
            raise GuideError(
                f"guide {self!r}: expected parameters for every row of site {inside[0]!r}, which "
                f"lives in a plate that is cut into batches. Use guide={{{inside[0]!r}: "
                "'meanfield', ...: 'fullrank'}, or the full data."
            )
        return jax.tree.map(lambda _: Axes(), params)

    def host_init(self, space: Space, location: Mapping[str, np.ndarray]) -> PyTree | None:
        """What `init` makes, made by NumPy where that saves compiling a program; `None` if not."""
        return None

    @abc.abstractmethod
    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        """One draw; differentiable in `params`."""

    def host_draws(
        self, params: PyTree, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws | None:
        """Draws made by NumPy in float64, where that saves compiling a program; `None` if not."""
        return None


class DensityGuide(Guide):
    """A guide whose density can be evaluated anywhere."""

    @abc.abstractmethod
    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        """Normalised log density at `z`, a scalar."""

    def path_log_q(
        self, params: PyTree, space: Space, key: Array, draw: Draw, batch: Batch
    ) -> Array:
        """`log_q` of what `draw` made of `key`, its gradient in `params` the one by way of `z`.

        What sticking the landing asks for: the parameters are held fixed in the density itself.
        """
        return self.log_prob(jax.lax.stop_gradient(params), space, draw.z, batch)

    def host_log_prob(self, params: PyTree, space: Space, points: np.ndarray) -> np.ndarray | None:
        """The same at points `(num, dim)` by NumPy in float64, `None` if there is no such way."""
        return None


class Part(NamedTuple):
    """A guide with its parameters, for the sites of a space."""

    guide: Guide
    params: PyTree
    space: Space


class DiscreteGuide(DensityGuide):
    """A guide over discrete sites, which are independent of one another and of any others.

    No gradient passes through its draws: objectives use the families' own.
    """

    @abc.abstractmethod
    def families(self, params: PyTree, space: Space, batch: Batch) -> dict[str, Family]:
        """The distribution of every discrete site."""

    @abc.abstractmethod
    def smooth(self, params: PyTree, space: Space) -> Part | None:
        """The guide for all other sites, `None` if there are none."""


class StratifiedGuide(DensityGuide):
    """A guide made of parts with weights, each of which can be drawn from by itself."""

    @abc.abstractmethod
    def strata(
        self, params: PyTree, space: Space, key: Array, batch: Batch
    ) -> tuple[Array, list[Draw]]:
        """Log weights of the parts `(num,)`, and a draw from each with `log_q` of the whole.

        `E_q[f(z)] = sum_k w_k E[f(z_k)]`; differentiable in `params`, weights included.
        """


class RowGuide(DensityGuide):
    """A guide for the rows of one plate, each row's latents independent of all others'."""

    @abc.abstractmethod
    def row_log_probs(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        """Log density of every row in use, `(rows,)`; `log_prob` is their scaled sum."""


class ParticleGuide(Guide):
    """A guide of points of equal weight. It has no density, hence no ELBO and no weights."""

    @abc.abstractmethod
    def points(self, params: PyTree, space: Space) -> Array:
        """The points `(num, dim)`, sites in the order of the space; linear in `params`."""


class ModelGuide(DensityGuide):
    """A guide made of the model itself; only a bound one can be drawn from."""

    @abc.abstractmethod
    def bind(self, target: Target, space: Space) -> Guide:
        """The guide for the sites in `space` of a target."""


class TransportGuide(DensityGuide):
    """A guide whose draws are a smooth one-to-one image of as many independent normals.

    Seen from these normals, a target that the guide fits well looks like a standard normal.
    """

    @abc.abstractmethod
    def transport(self, params: PyTree, space: Space, noise: Array) -> tuple[Array, Array]:
        """Where `noise` `(dim,)` goes, `(dim,)`, and `log_q` there."""

    @abc.abstractmethod
    def path_transport(self, params: PyTree, space: Space, noise: Array) -> tuple[Array, Array]:
        """The same, with `log_q` as in `path_log_q`."""

    @abc.abstractmethod
    def host_transport(self, params: PyTree, space: Space, noise: np.ndarray) -> HostDraws:
        """Where each row of `noise` `(num, dim)` goes."""


class EntropyGuide(DensityGuide):
    """A guide with a closed-form entropy."""

    @abc.abstractmethod
    def entropy(self, params: PyTree, space: Space) -> Array:
        """`-E_q[log q]` in nats, a scalar."""


class GaussianGuide(EntropyGuide):
    """A Gaussian on the raveled space."""

    @abc.abstractmethod
    def mean(self, params: PyTree, space: Space) -> Array:
        """Mean `(dim,)`."""

    @abc.abstractmethod
    def covariance(self, params: PyTree, space: Space) -> Array:
        """Covariance `(dim, dim)`."""


class Setting(NamedTuple):
    """What a loss is evaluated in, beside the variables.

    Attributes:
        mutable: the model's mutable state.
        key: randomness of this step.
        target: the log density; its space is that of the batch.
        guide: the variational family.
        batch: the data.
        phase: 0 far from the optimum, a scalar that counts the step-size reductions since.
    """

    mutable: dict[str, PyTree]
    key: Array
    target: Target
    guide: Guide
    batch: Batch
    phase: Array


class Objective(Protocol):
    """A loss in the variables, an estimate with the setting's key; hashable configuration."""

    def __call__(self, variables: Variables, setting: Setting) -> tuple[Array, dict[str, PyTree]]:
        """The loss, to be minimised, and the model's new mutable state."""
        ...


class OtherOptimum:
    """Marks objectives whose optimum is not that of the ELBO.

    Neither the ELBO nor the loss of one step, which a few draws make too small, says which of two
    fits is the better one: the later one counts.
    """


class Info(NamedTuple):
    """What one step reports."""

    loss: Array


class Algorithm(abc.ABC):
    """Steps on the device, inside one compiled loop; hashable configuration."""

    @property
    def raises_elbo(self) -> bool:
        """Whether a higher ELBO means a better fit, see `OtherOptimum`."""
        return True

    @property
    def own_guide(self) -> Guide | None:
        """The guide that this steps on unless `fit` is told of another, `None` for any."""
        return None

    @abc.abstractmethod
    def init(self, variables: Variables, mutable: dict[str, PyTree]) -> PyTree:
        """State at the start."""

    @abc.abstractmethod
    def step(
        self, state: PyTree, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[PyTree, Info]:
        """One step; `key` is `fold_in(root, t)`."""

    @abc.abstractmethod
    def variables(self, state: PyTree) -> Variables:
        """The current variables."""

    @abc.abstractmethod
    def mutable(self, state: PyTree) -> dict[str, PyTree]:
        """The model's current mutable state."""

    @abc.abstractmethod
    def row_axes(self, state: PyTree, axes: Variables) -> PyTree:
        """A tree like `state` with the `Axes` of each leaf, given those of the variables."""

    @abc.abstractmethod
    def rescale(self, state: PyTree, factor: float | Array) -> PyTree:
        """The state with its step size multiplied by `factor`."""

    @abc.abstractmethod
    def move(self, state: PyTree, variables: Variables, forget: bool) -> PyTree:
        """The state moved to the best average so far, where the next phase starts.

        `forget` drops its memory of gradients.
        """


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
        variables: the guide's parameters, and the model's `param` sites.
        reason: why it ended, in a line.
        converged: whether it found what it was looking for.
        evaluations: points at which the log density was evaluated.
        losses: negative ELBO estimates on the way, if it makes any.
        alternatives: parameters of the guide at other modes that were seen, and may matter.
    """

    variables: Variables
    reason: str
    converged: bool
    evaluations: int
    losses: tuple[float, ...] = ()
    alternatives: tuple[PyTree, ...] = ()


class Solver(abc.ABC):
    """Full batch, driven from the host over one compiled kernel; hashable configuration.

    Attributes:
        maximises_elbo: whether it seeks the optimum of the ELBO, so that gradient steps can take
            over where it does not converge.
        exhaustive: whether gradient steps would add nothing even there.
    """

    maximises_elbo: ClassVar[bool] = False
    exhaustive: ClassVar[bool] = False

    @abc.abstractmethod
    def solve(
        self, key: Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Runs to the end from `variables`."""
