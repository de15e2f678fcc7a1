"""The target: a log density over unconstrained space, and the data it is given."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from vijax._contracts.space import Array, Plate, Position, Space
from vijax._spread import Spread

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
        effort: numbers of which a log density could be taken while one row is asked for, beside
            those in it: what decides how often all rows may be read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    sequential: ClassVar[bool] = False
    effort: int = 0

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
        causes: the sites in the space that it depends on.
        prior_of: the one whose prior it is, or its log Jacobian; `None` for data and factors.
    """

    plates: tuple[Plate, ...]
    causes: frozenset[str]
    prior_of: str | None = None


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
        lay_out: `(centred) -> dict`, what is known of the terms, by name, where `batch.centring`
            names these sites; see `layout`.
        entries: numbers that summing discrete sites out makes of one position, with all data.
        location_scale: sites whose prior has a location and a scale, latent or not.
        sequential: whether the model has a long loop, so that many points take as long as one.
        differentiable: whether the log density has a gradient in the continuous sites.
        request: what `build` was asked to cut into batches, `None` for nothing.
        cut: by name, the `(plate, axis)` pairs along which an array is cut into batches before the
            model sees it.
        spread: the devices that its programs run on.
        spreads: itself on other devices, see `over`.
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
    lay_out: Callable[[frozenset[str]], Mapping[str, Layout]] | None = None
    entries: int = 0
    sequential: bool = False
    differentiable: bool = True
    request: Hashable = None
    cut: Mapping[str, tuple[tuple[str, int], ...]] = dataclasses.field(default_factory=dict)
    spread: Spread = Spread()
    spreads: dict[Spread, Target] = dataclasses.field(default_factory=dict, repr=False)
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

    def over(self, spread: Spread) -> Target:
        """The same on some devices, made once, so that a second fit there finds its programs."""
        if spread not in self.spreads:
            self.spreads[spread] = dataclasses.replace(self, spread=spread, spreads={}, programs={})
        return self.spreads[spread]

    def log_density(
        self,
        z: Position,
        batch: Batch,
        model: Mapping | None = None,
        mutable: Mapping | None = None,
    ) -> Array:
        """The log density of one position, a scalar."""
        return self.evaluate(z, batch, model or {}, mutable or {}).log_density

    def layout(self, batch: Batch) -> Mapping[str, Layout]:
        """What is known of the terms, by name; read off the model when it is first asked for."""
        return {} if self.lay_out is None else self.lay_out(frozenset(batch.centring))

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
