"""Latents of single rows, as amortized guides infer them from the rows' data: blocks of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import (
    AmortizedGuide,
    Batch,
    DiscreteGuide,
    Guide,
    MeanFieldGuide,
    Part,
    Position,
    PyTree,
    RowGuide,
    Space,
    Target,
    TermInfo,
)
from vijax.model import BatchRequest, build, check_batches
from vijax.posterior import condition
from vijax.posterior.requirements import require_data
from vijax.posterior.result import FitResult
from vijax.runtime.errors import GuideError, ModelError


class LocalParts(NamedTuple):
    """The factors of a guide, by whether they infer the latents of a row from its data.

    Attributes:
        local: of the latents of rows, with the parameters of every row in use.
        shared: of all others.
    """

    local: tuple[Part, ...]
    shared: tuple[Part, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class LocalRows:
    """The rows of the plate of an amortized guide's latents.

    Attributes:
        result: of the fit, at these rows.
        plate: name of the plate.
        num_rows: number of rows.
        guides: the amortized guides.
    """

    result: FitResult
    plate: str
    num_rows: int
    guides: tuple[Guide, ...]

    def blocks(self, size: int) -> Iterator[tuple[Target, Batch, int]]:
        """The target on a block of rows, its data, and the number of rows that are new in it.

        Each has about `size` rows, where arrays can be subsampled by rows; the last is padded.
        """
        target = self.target(size)
        used = target.subsampled.get(self.plate, self.num_rows)
        for start in range(0, self.num_rows, used):
            rows = np.minimum(np.arange(start, start + used), self.num_rows - 1)
            yield target.on_batch, self.batch(target, rows), min(used, self.num_rows - start)

    def target(self, size: int) -> Target:
        """The target of minibatches of `size` rows; of all, or the fit's, if there can be none."""
        result = self.result
        request = result.target.subsampling.request
        if result.target.subsampled and request is None:  # by the model itself
            return result.target
        sampled = frozenset(result.target.space.discrete.names)
        axes = request.axes if isinstance(request, BatchRequest) else ()
        rows = BatchRequest(((self.plate, min(size, self.num_rows)),), axes)
        try:
            target = build(result.model, result.arguments, rows, sampled)
            if target.subsampled and request is None:  # fits on minibatches have checked it
                check_batches(target, result.batch, result.variables.model, result.mutable)
        except ModelError:  # axes are ambiguous, or terms of a row depend on other rows
            return build(result.model, result.arguments, None, sampled)
        return target

    def batch(self, target: Target, rows: np.ndarray) -> Batch:
        """The data of some rows."""
        index = {self.plate: jnp.asarray(rows, jnp.int32)} if target.subsampled else {}
        return self.result.batch._replace(index=index, fetched={})

    @property
    def row_elements(self) -> int:
        """Array elements of a row: its data and latents."""
        arrays = sum(value.size for value in self.result.batch.data.values())
        return max(1, (arrays + self.result.target.footprint) // max(1, self.num_rows))


def local_rows(
    result: FitResult, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> LocalRows:
    """The rows in the model's arguments, by default those of the fit.

    Args:
        result: of the fit.
        what: name of the calling method, for errors.
        args: the model's arguments.
        kwargs: its keyword arguments.

    Raises:
        GuideError: the latents of rows have no amortized guide.
        ModelError: the rows of the fit are not in memory, or are not independent.
    """
    if args or kwargs:
        if _amortized(result):  # `at` refuses others, too, with another remedy
            result = condition.at(result, args, kwargs)
    elif _amortized(result):
        require_data(result, f"{what} at the fit's own rows")
    found = _amortized(result)
    plates = {plate.name: plate for part in found for s in part.space.sites for plate in s.plates}
    if len(plates) != 1:
        raise GuideError(
            f"{what}: expected the latents of the rows of one plate with guides.Amortized or "
            f"AmortizedDiscrete, got {result.guide!r}. Fit with guide={{'z': "
            "guides.Amortized(Encoder, 'x'), ...: 'meanfield'}."
        )
    ((name, plate),) = plates.items()
    local = {site for part in found for site in part.space.names}
    for site in result.target.space.sites:
        if site.name not in local and site.axes([name]).pairs:
            raise GuideError(
                f"{what}: expected an amortized guide for all latents of a row, site "
                f"{site.name!r} in plate {name!r} has another one. Assign it to the same "
                f"guides.Amortized: guide={{({site.name!r}, ...): guides.Amortized(...)}}."
            )
    _check_independent(result, what, name, local)
    return LocalRows(result, name, plate.size, tuple(part.guide for part in found))


def _amortized(result: FitResult) -> list[Part]:
    parts = result.guide.independent_parts(result.params, result.target.space)
    return [part for part in parts if isinstance(part.guide, AmortizedGuide)]


def _check_independent(result: FitResult, what: str, plate: str, local: set[str]) -> None:
    """Checks that every term with latents of a row belongs to one row."""
    if result.target.marginalized.sizes:  # whose density is one term of all rows
        raise ModelError(
            f"{what}: expected no discrete sites that are marginalized, got "
            f"{list(result.target.marginalized.sizes)}. Write a mixture distribution in their "
            "place (dist.MixtureSameFamily), or infer them by guides.AmortizedDiscrete."
        )
    for name, term in result.target.term_info(result.batch).items():
        if term.parents & local and plate not in {one.name for one in term.plates}:
            raise ModelError(
                f"{what}: expected rows that are independent given the other latents, got the term "
                f"{name!r}, which depends on {sorted(term.parents & local)} and is outside of "
                f"plate {plate!r}. Put it into the plate; for latents that rows share there is "
                "posterior.log_evidence()."
            )


def has_independent_coordinates(guide: Guide) -> bool:
    """Whether a row's latents are independent given its data: the encoder has all of `q`."""
    return isinstance(guide, MeanFieldGuide | DiscreteGuide)


def local_parts(guide: Guide, params: PyTree, space: Space, batch: Batch) -> LocalParts:
    """The factors of a guide on a block of rows.

    Encoders are applied here, once, where coordinates are independent; else by every draw.
    """
    local, shared = [], []
    for part in guide.independent_parts(params, space):
        if not isinstance(part.guide, AmortizedGuide):
            shared.append(part)
        elif has_independent_coordinates(part.guide):
            by_row = part.guide.row_params(part.params, part.space, batch)
            local.append(Part(part.guide.row_guide, by_row, part.space))
        else:
            local.append(part)
    return LocalParts(tuple(local), tuple(shared))


def draw_latents(
    parts: LocalParts, plate: str, shared_key: Array, key: Array, number: Array, batch: Batch
) -> tuple[Position, Array]:
    """A draw by its number, and `log q(z_i | x_i)` of every row; all rows share `shared_key`."""
    z: Position = {}
    log_q = jnp.zeros(())
    for i, part in enumerate(parts.shared):
        of_part = jax.random.fold_in(jax.random.fold_in(shared_key, number), i)
        z |= part.guide.draw(part.params, part.space, of_part, batch).z
    for i, part in enumerate(parts.local):
        of_part = jax.random.fold_in(jax.random.fold_in(key, number), i)
        drawn = part.guide.draw(part.params, part.space, of_part, batch).z
        log_q += row_log_q(part, drawn, plate, batch)
        z |= drawn
    return z, log_q


def row_log_q(part: Part, z: Position, plate: str, batch: Batch) -> Array:
    """`log q(z_i | x_i)` of every row, `(rows,)`."""
    guide, params, space = part
    if isinstance(guide, RowGuide):
        return guide.row_log_probs(params, space, z, batch)
    if isinstance(guide, MeanFieldGuide):
        log_q = guide.site_log_probs(params, space, z, batch)
    else:
        assert isinstance(guide, DiscreteGuide)
        families = guide.families(params, space, batch)
        log_q = {name: families[name].log_prob(z[name]) for name in space.names}
    total = jnp.zeros(())
    for site in space.sites:
        axis = site.axes([plate]).pairs[0][1]
        total += jnp.sum(jnp.moveaxis(log_q[site.name], axis, 0).reshape(site.shape[axis], -1), 1)
    return total


def row_terms(
    values: Mapping[str, Array], info: Mapping[str, TermInfo], plate: str, scale: float
) -> Array:
    """The sum of each row's terms of the log density, `(rows,)`, without the scale of batches."""
    total = jnp.zeros(())
    for name, value in values.items():
        for one in info[name].plates:
            if one.name == plate:
                others = [axis for axis in range(-value.ndim, 0) if axis != one.dim]
                total += jnp.sum(value, axis=others)
    return total / scale
