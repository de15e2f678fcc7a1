"""Bounds on the log density of rows, of models with `vijax.nn.diffusion`, in blocks of rows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Guide, Position, PyTree, Target, TermInfo, Variables
from vijax.model import Call
from vijax.posterior import generative
from vijax.posterior.local_rows import LocalRows, draw_latents, local_parts, local_rows, row_terms
from vijax.posterior.result import FitResult
from vijax.posterior.scoring import Score, mean
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import fold_in
from vijax.runtime.row_densities import row_densities

_ORDER = ("latents", "prior", "reconstruction", "diffusion", "rate")  # parts of bounds
_LOG_2 = math.log(2)
_BLOCK_ROWS, _BLOCK_ELEMENTS = 2**14, 2**19  # evaluated at once; networks need several times that


class Bound(NamedTuple):
    """A bound on the log density of some rows.

    Attributes:
        parts: of the bound on `-log p`, by name and row, `(rows,)`, averages over draws.
        ode: log density by the ordinary differential equation, `(rows,)`; `None` if not asked for.
        dim: elements of a row.
        use: how often each code was used, `(num_codes,)`; `None` of rows without codes.
    """

    parts: dict[str, np.ndarray]
    ode: np.ndarray | None
    dim: int
    use: np.ndarray | None

    @property
    def by_row(self) -> np.ndarray:
        """The bound on `log p` of each row, `(rows,)`."""
        return -np.sum([*self.parts.values()], axis=0)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The bound by row, per dimension in bits, and its parts, each `(rows,)`."""
        found = {"bound": self.by_row, "bits per dimension": -self.by_row / (self.dim * _LOG_2)}
        found |= self.parts if len(self.parts) > 1 else {}
        return found if self.ode is None else found | {"log density by the ODE": self.ode}

    @property
    def scores(self) -> dict[str, Score]:
        """Means over rows, and the use of codes by all of them."""
        found = {name: mean(values) for name, values in self.columns.items()}
        if self.use is not None:
            shares = self.use[self.use > 0] / self.use.sum()
            found["codes in use"] = Score(len(shares), 0.0)
            found["perplexity of codes"] = Score(math.exp(-np.sum(shares * np.log(shares))), np.nan)
        return found


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked for; the static part of a program.

    Attributes:
        site: name of the site of the rows.
        num_draws: times and draws of noise for each row.
        num_steps: of the process; `None` for those of the model.
        ode_steps: of the ordinary differential equation; `None` for none.
    """

    site: str
    num_draws: int
    num_steps: int | None
    ode_steps: int | None


def bound(result: FitResult, key: Array, call: Call, asked: Question) -> Bound:
    """See `Posterior.bound`.

    Raises:
        ModelError: rows have latents and the log density by the ODE is asked for.
        GuideError: latents of rows have no amortized guide.
    """
    rows = _rows(result, call, asked)
    noted = generative.noted(rows.result, asked.site)
    num_rows, dim = noted.num_rows, noted.dim
    if noted.num_codes:
        dim = _observed(rows.result, asked.site, num_rows)
    most = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // dim))
    size = math.ceil(num_rows / math.ceil(num_rows / most))
    fit, found, ode, use = rows.result, [], [], []
    keys = (fold_in(key, 0), fold_in(key, 1))
    for number, (target, batch, new) in enumerate(rows.blocks(size)):
        state = (fit.variables, fit.mutable, keys[0], fold_in(keys[1], number), batch)
        parts, coded = on_host(target.program(bound_parts, fit.guide, asked)(*state))
        found.append({name: values[:new] for name, values in parts.items()})
        if asked.ode_steps is not None:
            program = target.program(ode_log_densities, fit.guide, asked)
            ode.append(on_host(program(*state))[:new])
        if coded is not None:
            use.append(np.bincount(coded[:new].ravel(), minlength=noted.num_codes))
    order = sorted(found[0], key=_ORDER.index)  # a program returns them by name
    parts = {name: np.concatenate([one[name] for one in found]).astype(float) for name in order}
    used = np.sum(use, axis=0) if use else None
    return Bound(parts, np.concatenate(ode) if ode else None, dim, used)


def _rows(result: FitResult, call: Call, asked: Question) -> LocalRows:
    plate = generative.plate_of(result.target, asked.site)
    if not generative.row_latents(result.target, asked.site):
        fit = generative.at(result, "bound", call)
        return LocalRows(fit, plate, generative.noted(fit, asked.site).num_rows, ())
    if asked.ode_steps is not None:
        what, got = "ode_steps, the log density", f"latents of the rows of plate {plate!r}"
        expected = "a model in which it is no integral over latents of a row"
        raise ModelError(mismatch(what, expected, got, "Leave it out."))
    return local_rows(result, "bound", *call)


def bound_parts(
    target: Target,
    guide: Guide,
    asked: Question,
    variables: Variables,
    mutable: dict[str, PyTree],
    shared_key: Array,
    key: Array,
    batch: Batch,
) -> tuple[dict[str, Array], Array | None]:
    """The parts of the bound by row, averaged over draws, and the codes of rows by the first draw.

    Where rows have latents `z`, `latents` is their divergence from the prior, by draws.
    """
    plate = generative.plate_of(target, asked.site)
    parts = local_parts(guide, variables.guide, target.space, batch)
    info, local = target.term_info(batch), [site for one in parts.local for site in one.space.sites]
    priors = {name: term for name, term in info.items() if _is_prior(term, local)}
    (rows,) = (one for one in info[asked.site].plates if one.name == plate)
    scale = rows.size / rows.subsample_size

    def one(number: Array) -> tuple[dict[str, Array], Array | None]:
        z, log_q = draw_latents(parts, plate, shared_key, key, number, batch)
        with row_densities() as noted:
            values = target.terms(z, batch, variables.model, mutable).values
        start = first + number / asked.num_draws  # the times of a row are equally spaced, too
        row_key = jax.random.fold_in(jax.random.fold_in(key, number), len(parts.local))
        own = noted[asked.site]
        found = own.parts(row_key, start, asked.num_steps)
        if own.num_codes:
            given = {name: values[name] for name in target.structure.observed}
            found["reconstruction"] = -row_terms(given, info, plate, scale)
        if local:
            log_p = row_terms({name: values[name] for name in priors}, info, plate, scale)
            found["latents"] = log_q - log_p
        return found, own.x if own.num_codes else None

    first = jax.random.uniform(jax.random.fold_in(key, asked.num_draws))
    found, coded = jax.lax.map(one, jnp.arange(asked.num_draws))
    means = {name: values.mean(axis=0) for name, values in found.items()}
    return means, None if coded is None else coded[0]


def _is_prior(term: TermInfo, sites: list[Any]) -> bool:
    return term.prior_of in [site.name for site in sites]


def ode_log_densities(
    target: Target,
    guide: Guide,
    asked: Question,
    variables: Variables,
    mutable: dict[str, PyTree],
    shared_key: Array,
    key: Array,
    batch: Batch,
) -> Array:
    """The log density of rows by the ODE, with one draw of latents."""
    parts = local_parts(guide, variables.guide, target.space, batch)
    plate = generative.plate_of(target, asked.site)
    z: Position = draw_latents(parts, plate, shared_key, key, jnp.zeros((), int), batch)[0]
    rows = generative.rows_at(target, asked.site, z, batch, variables.model, mutable)
    return rows.ode_log_density(key, asked.ode_steps or 1)


def _observed(result: FitResult, site: str, num_rows: int) -> int:
    """Number of elements of a row of what is observed in the plate of a site."""
    target, state = result.target, (result.batch, result.variables.model, result.mutable)
    info = target.term_info(result.batch)
    found = jax.eval_shape(target.observations, *state)
    names = [name for name in found if info[name].plates == info[site].plates]
    return sum(math.prod(found[name].shape) for name in names) // num_rows
