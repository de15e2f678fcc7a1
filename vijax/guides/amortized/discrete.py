"""Discrete latents of a row inferred from the row's own data, by one network for all rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import AmortizedGuide, Axes, Batch, Position, PyTree, Site, Space
from vijax.families.discrete import Counts, Family, Finite
from vijax.guides.amortized.encoder import Encoder, Inputs, check_encoder, encoded, one_level, start
from vijax.guides.discrete import Discrete, Independent, require_discrete, starting

_NAME = "AmortizedDiscrete"
_STRETCH = 3.0  # log scales of counts differ by no more than this from the one they start at
_UNIT = math.log(math.e - 1)  # where the softplus function is one


class CountParams(NamedTuple):
    """What rows have in common of a count: an entry of a row each.

    Attributes:
        unit: the distribution where the encoder says zero.
        gate: what it says is multiplied by this, location and scale, `(2, entries)`. It starts at
            zero, so that all rows start alike.
    """

    unit: Counts
    gate: Array


class AmortizedDiscreteParams(NamedTuple):
    """The encoder's weights, and of counts what rows have in common, by site."""

    encoder: PyTree
    counts: dict[str, CountParams]


@dataclasses.dataclass(frozen=True)
class AmortizedDiscrete(AmortizedGuide, Independent):
    """`q(h_i | x_i) = prod_j q(h_ij)`, the parameters of all `q(h_ij)` being `encoder(x_i)`.

    For a sigmoid belief network or any other autoencoder with discrete latents: as `Amortized` is
    for continuous ones, with the gradients of `ELBO(discrete=...)`, on batches as on all rows, and
    for rows that the fit has not seen. Beside continuous sites it is named for the discrete ones,
    `guide={"h": AmortizedDiscrete(...), "z": Amortized(...), ...: "fullrank"}`. Source: Neural
    Variational Inference and Learning in Belief Networks, Mnih, Gregor, 2014.

    An entry of a count without an end has two numbers `a` and `b`, from which its distribution, a
    `vijax.families.discrete.Counts`, gets the location `m softplus(c + g a)` and the scale
    `s exp(3 tanh(h b / 3))`: linear at most, and within bounds, in what the encoder says. `m` and
    `s` are parameters for all rows, the gates `g` and `h` start at zero, and `softplus(c) = 1`.

    Args:
        encoder: as for `Amortized`. Its outputs, `(rows, width)`, are sites in order, and the
            entries of a site in a row in order. An entry with `n` values has `n - 1` numbers, the
            logits of the values from the second on against the first; one of a count has two.
        inputs: name or names of the array arguments whose rows it sees, in order.

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
        (plate,) = one_level(space, _NAME).plates
        counts = {
            s.name: _common(s, plate, location[s.name]) for s in space.sites if not s.cardinality
        }
        return AmortizedDiscreteParams(start(self.encoder, key), counts)

    def row_axes(
        self, params: AmortizedDiscreteParams, space: Space, plates: Collection[str]
    ) -> AmortizedDiscreteParams:
        return jax.tree.map(lambda _: Axes(), params)  # one network serves all rows

    def families(
        self, params: AmortizedDiscreteParams, space: Space, batch: Batch
    ) -> dict[str, Family]:
        level = one_level(space, _NAME)
        (plate,) = level.plates
        widths = [math.prod(_shape(site, plate)[1:]) for site in level.sites]
        outputs = encoded(self.encoder, params.encoder, self.inputs, level, sum(widths), batch)
        columns = jnp.split(outputs, np.cumsum(widths)[:-1], axis=1)
        found: dict[str, Family] = {}
        for site, column in zip(level.sites, columns, strict=True):
            numbers = column.reshape(_shape(site, plate))
            if site.cardinality:
                found[site.name] = Finite(jnp.moveaxis(numbers, 0, _axis(site, plate)))
            else:
                own = _counts(numbers, params.counts[site.name])
                found[site.name] = Counts(*(jnp.moveaxis(a, 0, _axis(site, plate)) for a in own))
        return found

    @property
    def row_guide(self) -> Discrete:
        return Discrete()

    def row_params(
        self, params: AmortizedDiscreteParams, space: Space, batch: Batch
    ) -> dict[str, Family]:
        return self.families(params, space, batch)


def _common(site: Site, plate: str, location: Array) -> CountParams:
    """A start at the median of the rows."""
    axis = _axis(site, plate)
    unit = starting(site, jnp.median(jnp.asarray(location), axis=axis))
    assert isinstance(unit, Counts)
    return CountParams(unit, jnp.zeros((2, *unit.log_loc.shape), unit.log_loc.dtype))


def _counts(numbers: Array, common: CountParams) -> Counts:
    """The distribution of every row `(rows, *entries)` for what the encoder says of it.

    Where locations were exponential in it they ran away: a step in a weight multiplies them by
    something that grows with the inputs.
    """
    place, stretch = (common.gate * jnp.moveaxis(numbers, -1, 1)).swapaxes(0, 1)
    bounded = _STRETCH * jnp.tanh(stretch / _STRETCH)
    return Counts(
        common.unit.log_loc + _log_softplus(_UNIT + place), common.unit.log_scale + bounded
    )


def _log_softplus(x: Array) -> Array:
    low = x < -10.0  # where it is the exponential function, which rounds to zero in the end
    return jnp.where(low, x, jnp.log(jax.nn.softplus(jnp.where(low, 0.0, x))))


def _shape(site: Site, plate: str) -> tuple[int, ...]:
    """Rows, the site's entries in each, and numbers that the encoder says of each entry."""
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
