"""The amortized discrete guide: a network from the data of a row to its discrete latents."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import AmortizedGuide, Batch, Position, PyTree, Site, Space
from vijax.contracts.family import Family
from vijax.families.discrete import Categorical, DiscretizedLogistic
from vijax.guides.amortized.encoder import (
    Encoder,
    Inputs,
    check_encoder,
    encode,
    has_statistics,
    init_encoder,
    single_plate_level,
    updated_statistics,
)
from vijax.guides.checks import require_discrete
from vijax.guides.discrete import Discrete, IndependentDiscrete, initial_distribution

_NAME = "AmortizedDiscrete"
_MAX_LOG_SCALE_CHANGE = 3.0  # bound on the change of a count's log scale from its start
_SOFTPLUS_INVERSE_1 = math.log(math.e - 1)  # softplus of it is 1


class CountParams(NamedTuple):
    """Parameters of a count site that all rows share, one per entry of a row.

    Attributes:
        unit: the distribution for encoder outputs of zero.
        gate: factors of the encoder's outputs for location and scale, `(2, entries)`. They start
            at zero, so that all rows have the same initial distribution.
    """

    unit: DiscretizedLogistic
    gate: Array


class AmortizedDiscreteParams(NamedTuple):
    """The encoder's parameters, and the shared parameters of count sites, by site."""

    encoder: PyTree
    counts: dict[str, CountParams]


@dataclasses.dataclass(frozen=True)
class AmortizedDiscrete(AmortizedGuide, IndependentDiscrete):
    """Amortized discrete guide: `q(h_i | x_i) = prod_j q(h_ij; encoder(x_i))`.

    The counterpart of `Amortized` for discrete local latents, as in a sigmoid belief network or
    another autoencoder with discrete latents. Gradients are those of `ELBO(discrete=...)`, with or
    without minibatches, and the posterior of new rows is available without a new fit. In models
    that also have continuous sites assign it to the discrete ones,
    `guide={"h": AmortizedDiscrete(...), "z": Amortized(...), ...: "fullrank"}`. Source: Neural
    Variational Inference and Learning in Belief Networks, Mnih, Gregor, 2014.

    For an entry of an unbounded count the encoder has two outputs `a` and `b`. Its distribution, a
    `vijax.families.discrete.DiscretizedLogistic`, has location `m softplus(c + g a)`, at most
    linear in `a`, and scale `s exp(3 tanh(h b / 3))`, bounded in `b`. `m` and `s` are parameters
    shared by all rows, the gates `g` and `h` start at zero, and `softplus(c) = 1`.

    Args:
        encoder: as for `Amortized`. Its outputs, `(rows, width)`, are ordered by site and by entry
            of a site in a row. An entry with `n` values takes `n - 1` outputs, the log odds of the
            values from the second on relative to the first; an entry of an unbounded count takes
            two.
        inputs: name or names of the array arguments whose rows are the encoder's inputs, in order.

    Raises:
        GuideError: on use, if the sites are not those of one plate, an input is not an array of
            the model with a row for each of its rows, or the encoder's outputs have another shape.
    """

    encoder: Encoder
    inputs: Inputs

    def __post_init__(self) -> None:
        check_encoder(self.encoder)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> AmortizedDiscreteParams:
        require_discrete(space, _NAME)
        (plate,) = single_plate_level(space, _NAME).plates
        counts = {
            s.name: _init_count(s, plate, location[s.name])
            for s in space.sites
            if not s.cardinality
        }
        return AmortizedDiscreteParams(init_encoder(self.encoder, key), counts)

    def families(
        self, params: AmortizedDiscreteParams, space: Space, batch: Batch
    ) -> dict[str, Family]:
        level = single_plate_level(space, _NAME)
        (plate,) = level.plates
        widths = [math.prod(_shape(site, plate)[1:]) for site in level.sites]
        outputs = encode(self.encoder, params.encoder, self.inputs, level, sum(widths), batch)
        columns = jnp.split(outputs, np.cumsum(widths)[:-1], axis=1)
        found: dict[str, Family] = {}
        for site, column in zip(level.sites, columns, strict=True):
            entries, axis = column.reshape(_shape(site, plate)), _axis(site, plate)
            if site.cardinality:
                found[site.name] = Categorical(jnp.moveaxis(entries, 0, axis))
            else:
                count = _count_distribution(entries, params.counts[site.name])
                found[site.name] = DiscretizedLogistic(*(jnp.moveaxis(a, 0, axis) for a in count))
        return found

    @property
    def has_statistics(self) -> bool:
        return has_statistics(self.encoder)

    def updated_statistics(
        self,
        params: AmortizedDiscreteParams,
        before: AmortizedDiscreteParams,
        space: Space,
        batch: Batch,
    ) -> AmortizedDiscreteParams:
        state = (
            params.encoder,
            before.encoder,
            self.inputs,
            single_plate_level(space, _NAME),
            batch,
        )
        return params._replace(encoder=updated_statistics(self.encoder, *state))

    @property
    def row_guide(self) -> Discrete:
        return Discrete()

    def row_params(
        self, params: AmortizedDiscreteParams, space: Space, batch: Batch
    ) -> dict[str, Family]:
        return self.families(params, space, batch)


def _init_count(site: Site, plate: str, location: Array) -> CountParams:
    """Initial shared parameters of a count site, at the median of its rows."""
    axis = _axis(site, plate)
    unit = initial_distribution(site, jnp.median(jnp.asarray(location), axis=axis))
    assert isinstance(unit, DiscretizedLogistic)
    return CountParams(unit, jnp.zeros((2, *unit.log_loc.shape), unit.log_loc.dtype))


def _count_distribution(outputs: Array, shared: CountParams) -> DiscretizedLogistic:
    """The distribution of every row `(rows, *entries)` given the encoder's outputs.

    Locations exponential in the outputs diverged: a step in a network weight multiplies them by a
    factor that grows with the inputs.
    """
    loc, log_scale = (shared.gate * jnp.moveaxis(outputs, -1, 1)).swapaxes(0, 1)
    bounded = _MAX_LOG_SCALE_CHANGE * jnp.tanh(log_scale / _MAX_LOG_SCALE_CHANGE)
    return DiscretizedLogistic(
        shared.unit.log_loc + _log_softplus(_SOFTPLUS_INVERSE_1 + loc),
        shared.unit.log_scale + bounded,
    )


def _log_softplus(x: Array) -> Array:
    low = x < -10.0  # softplus(x) equals exp(x) there, and underflows for smaller x
    return jnp.where(low, x, jnp.log(jax.nn.softplus(jnp.where(low, 0.0, x))))


def _shape(site: Site, plate: str) -> tuple[int, ...]:
    """Shape of the encoder's outputs for a site: rows, entries of a row, outputs per entry."""
    shape, axis = site.z_shape, _axis(site, plate)
    return (
        shape[axis],
        *shape[:axis],
        *shape[axis + 1 :],
        site.cardinality - 1 if site.cardinality else 2,
    )


def _axis(site: Site, plate: str) -> int:
    """The axis of the plate in the site's value."""
    return site.axes([plate]).pairs[0][1]
