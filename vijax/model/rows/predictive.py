"""The posterior predictive distribution one row at a time, for models with independent rows.

The model is run on a single row, vectorized over rows and posterior draws. The results of a row
therefore cannot depend on the rows beside it, which may be padding, and the model never sees how
many there are. Whether this is the model's own posterior predictive is checked by
`vijax.model.rows.checks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, PyTree, Target
from vijax.model.analysis import trace_with_default_rows
from vijax.model.predictive import Draws, from_posterior
from vijax.model.rows.statistics import Statistic, of_draw, of_row
from vijax.model.traced_model import TracedModel
from vijax.model.tracing.arguments import Arguments, ModelCall
from vijax.model.tracing.handler import Message, Step, SubstituteFn
from vijax.model.tracing.sites import Trace, at_step, fixed_value, site_shape
from vijax.model.tracing.substitution import at_origin_or_draw
from vijax.runtime.errors import ModelError
from vijax.runtime.keys import OffsetKey, numbered_key


class LocalLatentError(ModelError):
    """Other rows than those of the fit need values of latents that rows do not share."""


class RowSite(NamedTuple):
    """A site with an axis of rows.

    Attributes:
        name: its name.
        axis: its axis of rows.
        shape: its shape without that axis.
    """

    name: str
    axis: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class RowCall:
    """A model that runs on single rows; equality is that of its programs.

    Attributes:
        call: the model with its static arguments.
        axes: the axis of rows of each array that has one, by name.
        resampled: observed sites that are sampled although data are given.
        discrete: marginalized latents of the fit; those of other rows are sampled, but are not
            part of the result.
        sites: the sites with an axis of rows.
    """

    call: ModelCall
    axes: tuple[tuple[str, int], ...]
    resampled: frozenset[str]
    discrete: frozenset[str]
    sites: tuple[RowSite, ...] = ()

    @property
    def returned(self) -> tuple[RowSite, ...]:
        """The sites that are predicted."""
        return tuple(site for site in self.sites if site.name not in self.discrete)

    def arguments(self, num_rows: int) -> Arguments:
        """The model's arguments with so many rows."""
        avals = dict(self.call.arguments.avals)
        for name, axis in self.axes:
            shape, dtype = avals[name]
            avals[name] = (*shape[:axis], num_rows, *shape[axis + 1 :]), dtype
        return dataclasses.replace(self.call.arguments, avals=avals)

    def trace(
        self,
        keys: tuple[OffsetKey, OffsetKey],
        values: Draws,
        data: Mapping[str, Array],
        model: Mapping[str, PyTree],
        mutable: Mapping[str, PyTree],
        num_rows: int = 1,
        drawn: Mapping[str, Array] | None = None,
        linearized: Mapping[str, Array] | None = None,
    ) -> Trace:
        """The model's trace on some rows.

        Args:
            keys: of draws for these rows, and of draws that all rows share.
            values: of the latents that all rows share.
            data: the arrays; those that are missing are zero.
            model: its `param` sites.
            mutable: its mutable state.
            num_rows: number of rows.
            drawn: values of sites that otherwise are drawn.
            linearized: where networks are linearized, see `Batch`.
        """
        traced = TracedModel(self.call.model, self.arguments(num_rows))
        trace_with_default_rows(traced, at_origin_or_draw, with_log_density=False)
        missing = traced.arguments.avals.keys() - data.keys()
        zeros = {name: jnp.asarray(traced.arguments.placeholder(name)) for name in missing}
        key = numbered_key(keys[0], 0)
        batch = Batch({**data, **zeros}, key=key, linearized=dict(linearized or {}))
        return traced.trace(batch, self._substitute(keys, values, drawn or {}), model, mutable)

    def _substitute(
        self, keys: tuple[OffsetKey, OffsetKey], values: Draws, drawn: Mapping[str, Array]
    ) -> SubstituteFn:
        """Latents from the posterior; other sites are drawn for each row, or once for all rows."""
        of_row, of_all = (
            from_posterior(key, values, self.resampled, self.discrete) for key in keys
        )
        along_rows = {site.name for site in self.sites}

        def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Array | None:
            if name in drawn:
                site["is_observed"] = False
                return at_step(drawn[name], steps)
            if name in values and name not in self.discrete:
                _check_shared(name, site, steps, values[name])
            shared = bool(self.sites) and name not in along_rows
            return (of_all if shared else of_row)(name, site, steps)

        return substitute


def _check_shared(name: str, site: Message, steps: tuple[Step, ...], value: Array) -> None:
    """Refuses latents of the rows of the fit, which other rows do not have."""
    expected = (*(step.length for step in steps), *site_shape(site))
    if value.shape != expected and fixed_value(site) is None:
        raise LocalLatentError(
            f"site {name!r}: expected latents that all rows share, got those of the rows of the "
            f"fit, of shape {value.shape}, which new rows do not have. Draw those of new rows from "
            f"their prior, from_prior=[{name!r}]; or use posterior.predict() for later steps of a "
            "series, posterior.at(*rows).predict() with an amortized guide."
        )


def draw_keys(key: Array, draw: Array, row: Array) -> tuple[OffsetKey, OffsetKey]:
    """The keys of a posterior draw: for a row, and for what all rows share."""
    of_row, of_all = jax.random.split(key)
    offsets = jnp.stack([row, draw]), jnp.stack([jnp.zeros_like(draw), draw])
    return OffsetKey(of_row, offsets[0]), OffsetKey(of_all, offsets[1])


def predict_rows(
    target: Target,
    call: RowCall,
    returns: Statistic,
    ci_prob: float,
    seed: Array,
    rows: dict[str, Array],
    fixed: dict[str, Array],
    values: Draws,
    model: dict[str, PyTree],
    mutable: dict[str, PyTree],
    linearized: dict[str, Array],
) -> PyTree:
    """A statistic of the posterior predictive distribution of every row.

    Args:
        target: of the fit.
        call: the model on single rows.
        returns: the statistic.
        ci_prob: probability of its interval.
        seed: the two words of a key, and the number of the first row.
        rows: the arrays along rows.
        fixed: the other arrays.
        values: posterior draws of the latents that all rows share, `(num_draws, *shape)`.
        model: the model's `param` sites.
        mutable: its mutable state.
        linearized: where networks are linearized, see `Batch`.
    """
    axes = dict(call.axes)
    key = jax.random.wrap_key_data(seed[:2], impl="threefry2x32")
    (num_draws,) = {value.shape[0] for value in values.values()}

    name, axis = next((name, axes[name]) for name in rows)
    numbers = seed[2] + jnp.arange(rows[name].shape[axis], dtype=jnp.uint32)

    def draw(index: Array, values: Draws) -> dict[str, dict[str, Array]]:
        def one(number: Array, row: dict[str, Array]) -> dict[str, dict[str, Array]]:
            data = fixed | {name: jnp.expand_dims(x, axes[name]) for name, x in row.items()}
            keys = draw_keys(key, index, number)
            trace = call.trace(keys, values, data, model, mutable, linearized=linearized)
            return {
                site.name: of_draw(site.name, trace[site.name], site.shape, returns)
                for site in call.returned
            }

        return jax.vmap(one, (0, {name: axes[name] for name in rows}))(numbers, rows)

    drawn = jax.vmap(draw)(jnp.arange(num_draws, dtype=jnp.uint32), values)
    found = jax.vmap(lambda row: of_row(row, returns, ci_prob), 1)(drawn)
    return jax.tree.map(
        lambda x, axis: jnp.moveaxis(x, 0, axis), found, out_axes(call, returns, found)
    )


def out_axes(call: RowCall, returns: Statistic, values: PyTree) -> PyTree:
    """The axis of rows of every leaf of what `predict_rows` returns."""
    if callable(returns):
        return jax.tree.map(lambda _: 0, values)
    axes = {site.name: site.axis + (returns == "draws") for site in call.returned}
    return jax.tree.broadcast({name: axes[name] for name in values}, values)
