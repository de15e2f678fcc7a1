"""Discrete latents of a row inferred from the row's own data, by one network for all rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax._contracts import Axes, Batch, Position, PyTree, Site, Space
from vijax._discrete import Family, Finite
from vijax._errors import GuideError, mismatch
from vijax.guides.amortised_encoder import (
    Encoder,
    Inputs,
    check_encoder,
    encoded,
    one_level,
    start,
)
from vijax.guides.discrete import Independent, require_discrete

_NAME = "AmortisedDiscrete"


@dataclasses.dataclass(frozen=True)
class AmortisedDiscrete(Independent):
    """`q(h_i | x_i) = prod_j q(h_ij)`, the parameters of all `q(h_ij)` being `encoder(x_i)`.

    For a sigmoid belief network or any other autoencoder with discrete latents: as `Amortised` is
    for continuous ones, with the gradients of `ELBO(discrete=...)`, on batches as on all rows, and
    for rows that the fit has not seen. Beside continuous sites it is named for the discrete ones,
    `guide={"h": AmortisedDiscrete(...), "z": Amortised(...), ...: "fullrank"}`. Source: Neural
    Variational Inference and Learning in Belief Networks, Mnih, Gregor, 2014.

    Args:
        encoder: as for `Amortised`. Its outputs, `(rows, width)`, are sites in order, and the
            entries of a site in a row in order. An entry with `n` values has `n - 1` numbers, the
            logits of the values from the second on against the first.
        inputs: name or names of the array arguments whose rows it sees, in order.

    Raises:
        GuideError: on use, if the sites are not those of one plate, or one is a count without an
            end, an input is not an array of the model with a row for each of its rows, or the
            encoder's outputs have another shape.
    """

    conditional: ClassVar[bool] = True
    encoder: Encoder
    inputs: Inputs

    def __post_init__(self) -> None:
        check_encoder(self.encoder)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PyTree:
        require_discrete(space, _NAME)
        for site in space.sites:
            if not site.states:
                expected = "sites with finitely many values"
                remedy = "Use guide='discrete', which has parameters for every count."
                raise GuideError(
                    mismatch(f"guide {_NAME}", expected, f"count {site.name!r}", remedy)
                )
        one_level(space, _NAME)
        return start(self.encoder, key)

    def row_axes(self, params: PyTree, space: Space, plates: Collection[str]) -> PyTree:
        return jax.tree.map(lambda _: Axes(), params)  # one network serves all rows

    def families(self, params: PyTree, space: Space, batch: Batch) -> dict[str, Family]:
        level = one_level(space, _NAME)
        plate = level.plates[0]
        widths = [math.prod(_shape(site, plate)[1:]) for site in level.sites]
        outputs = encoded(self.encoder, params, self.inputs, level, sum(widths), batch)
        columns = jnp.split(outputs, np.cumsum(widths)[:-1], axis=1)
        return {
            site.name: Finite(
                jnp.moveaxis(column.reshape(_shape(site, plate)), 0, _axis(site, plate))
            )
            for site, column in zip(level.sites, columns, strict=True)
        }


def _shape(site: Site, plate: str) -> tuple[int, ...]:
    """Rows, the site's entries in each, and logits of each entry."""
    shape, axis = site.z_shape, _axis(site, plate)
    return (shape[axis], *shape[:axis], *shape[axis + 1 :], (site.states or 1) - 1)


def _axis(site: Site, plate: str) -> int:
    """The axis of the plate in the site's value."""
    return site.axes([plate]).pairs[0][1]
