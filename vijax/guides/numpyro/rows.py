"""The rows of a minibatch in a NumPyro guide: those of the model, with its scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array
from numpyro.primitives import Messenger

from vijax.contracts import Batch, Site, Target
from vijax.contracts.rows import take_rows
from vijax.runtime.errors import GuideError


class Rows(Messenger):
    """Effect handler that sets the rows in use of plates, and scales the sites in them.

    Args:
        fn: a guide.
        index: rows in use, by plate.
        sizes: number of all rows, by plate. NumPyro scales the sites in a plate of this size, not
            those in a plate whose size is taken from the arrays of a minibatch.
    """

    def __init__(
        self, fn: Callable[..., Any], index: Mapping[str, Array], sizes: Mapping[str, int]
    ) -> None:
        super().__init__(fn)
        self.index = index
        self.sizes = sizes
        self.scales: dict[str, float] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        """Sets the rows of a plate, or the scale of a sample site."""
        if msg["type"] == "plate" and msg["name"] in self.index:
            msg["value"] = self._rows(msg)
        elif msg["type"] == "sample":
            for name in {frame.name for frame in msg["cond_indep_stack"]} & self.scales.keys():
                scale = 1.0 if msg["scale"] is None else msg["scale"]
                msg["scale"] = scale * self.scales[name]

    def _rows(self, msg: dict[str, Any]) -> Array:
        name, size = msg["name"], msg["args"][0]
        rows = jnp.asarray(self.index[name])
        used, full = len(rows), self.sizes.get(name, size)
        if size not in (full, used):
            raise GuideError(
                f"plate {name!r} of the guide: expected {full} rows, as in the model, or the "
                f"{used} of a minibatch, got {size}. Give it the size of the model's plate."
            )
        if size != full:
            self.scales[name] = full / used
        msg["args"] = (full, used)  # else NumPyro warns that the sizes differ
        return rows


def subsample(target: Target, batch: Batch) -> dict[str, Array]:
    """The arrays with the rows of a minibatch only, as the model gets them."""
    taken = batch.data | batch.fetched
    for name, axes in target.subsampling.axes.items():
        if name not in batch.fetched:
            taken[name] = take_rows(taken[name], axes, batch.index)
    return taken


def local_sites(target: Target) -> tuple[Site, ...]:
    """The latent sites with rows of a plate that is subsampled in minibatches."""
    return tuple(site for site in target.space.sites if site.axes(target.subsampled).pairs)


def rows_in_use(target: Target) -> dict[str, Array]:
    """The first rows of every subsampled plate, as many as in a minibatch."""
    return {name: jnp.arange(rows) for name, rows in target.subsampled.items()}
