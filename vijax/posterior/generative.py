"""Bounds on the log density of rows, and rows drawn, of models with `vijax.nn.diffusion`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, Target
from vijax.model import Call
from vijax.posterior import condition, draws
from vijax.posterior.local_rows import row_terms
from vijax.posterior.requirements import require_data
from vijax.posterior.result import FitResult
from vijax.posterior.scoring import Score, mean
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import fold_in
from vijax.runtime.row_densities import RowDensity, row_densities

_ORDER = ("prior", "reconstruction", "diffusion", "rate")  # parts of bounds


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
    use: np.ndarray | None = None

    @property
    def by_row(self) -> np.ndarray:
        """The bound on `log p` of each row, `(rows,)`."""
        return -np.sum([*self.parts.values()], axis=0)

    @property
    def scores(self) -> dict[str, Score]:
        """Means over rows: of the bound, per dimension in bits, and of its parts."""
        bits = mean(-self.by_row / (self.dim * math.log(2)))
        found = {"bound": mean(self.by_row), "bits per dimension": bits}
        if len(self.parts) > 1:
            found |= {name: mean(values) for name, values in self.parts.items()}
        if self.ode is not None:
            found["log density by the ODE"] = mean(self.ode)
        if self.use is not None:
            shares = self.use[self.use > 0] / self.use.sum()
            found["codes in use"] = Score(len(shares), 0.0)
            found["perplexity of codes"] = Score(math.exp(-np.sum(shares * np.log(shares))), np.nan)
        return found


def bound(
    result: FitResult,
    key: Array,
    call: Call,
    num_draws: int,
    num_steps: int | None,
    site: str | None,
    ode_steps: int | None,
) -> Bound:
    """See `Posterior.bound`."""
    rows, name = _at(result, "bound", call, site)
    z = _draws(rows, fold_in(key, 0), num_draws)
    state = (rows.batch, rows.variables.model, rows.mutable)
    program = rows.target.program(bound_parts, name, num_steps, num_draws)
    parts, dim = on_host(program(z, fold_in(key, 1), *state)), _shape(rows, name)[1]
    use = None
    if _noted(rows, name).num_codes:
        one = {site: value[0] for site, value in z.items()}
        use, dim = on_host(rows.target.program(code_use, name)(one, *state)), _observed(rows, name)
    ode = None
    if ode_steps is not None:
        one = {site: value[0] for site, value in z.items()}
        ode = on_host(
            rows.target.program(ode_log_densities, name, ode_steps)(one, fold_in(key, 2), *state)
        )
    order = sorted(parts, key=_ORDER.index)  # a program returns them by name
    return Bound({name: np.asarray(parts[name], float) for name in order}, ode, dim, use)


def generate(
    result: FitResult,
    key: Array,
    call: Call,
    num_rows: int | None,
    num_steps: int | None,
    method: str,
    site: str | None,
) -> np.ndarray:
    """See `Posterior.generate`."""
    if method not in ("ancestral", "ode"):
        raise ModelError(mismatch("method", "'ancestral' or 'ode'", repr(method)))
    rows, name = _at(result, "generate", call, site)
    one = {site: value[0] for site, value in _draws(rows, fold_in(key, 0), 1).items()}
    number = num_rows or _shape(rows, name)[0]
    program = rows.target.program(generate_rows, name, number, num_steps, method)
    state = (rows.batch, rows.variables.model, rows.mutable)
    found: np.ndarray = on_host(program(one, fold_in(key, 1), *state))
    return found


def _at(result: FitResult, what: str, call: Call, site: str | None) -> tuple[FitResult, str]:
    """The fit at some rows, and the name of the site whose bound is asked for.

    Raises:
        ModelError: there is no such site, or there are several.
    """
    sites = list(result.target.structure.bounds)
    if site is None and len(sites) == 1:
        site = sites[0]
    if site not in sites:
        expected = f"site= one of {sites}" if sites else "a model with vijax.nn.diffusion"
        raise ModelError(mismatch(what, expected, f"site={site!r}"))
    if not any(call):
        require_data(result, what)
        return result, site
    return condition.on_rows(result, what, *call), site


def _draws(result: FitResult, key: Array, num_draws: int) -> Position:
    """Draws of the latents, `(num_draws, ...)`; none of a model with parameters only."""
    if not result.target.space.sites:
        return {}
    found: Any = draws.from_guide(result, key, num_draws)
    return found


def _rows(
    target: Target, site: str, z: Position, batch: Batch, model: Any, mutable: Any
) -> RowDensity:
    with row_densities() as found:
        target.constrain(z, batch._replace(index={}), model, mutable)
    return found[site]


def _shape(result: FitResult, site: str) -> tuple[int, int]:
    """Number of rows, and of elements of a row."""
    found = _noted(result, site)
    return found.num_rows, found.dim


def _noted(result: FitResult, site: str) -> RowDensity:
    """What a site notes, with abstract rows."""
    found: list[RowDensity] = []
    origin = {one.name: jnp.zeros(one.z_shape) for one in result.target.space.sites}
    state = (origin, result.batch, result.variables.model, result.mutable)
    jax.eval_shape(lambda *state: found.append(_rows(result.target, site, *state)), *state)
    return found[0]


def _observed(result: FitResult, site: str) -> int:
    """Number of elements of a row of what is observed in the plate of a site."""
    target, state = result.target, (result.batch, result.variables.model, result.mutable)
    info = target.term_info(result.batch)
    found = jax.eval_shape(target.observations, *state)
    names = [name for name in found if info[name].plates == info[site].plates]
    return sum(math.prod(found[name].shape) for name in names) // _shape(result, site)[0]


def bound_parts(
    target: Target,
    site: str,
    num_steps: int | None,
    num_draws: int,
    z: Position,
    key: Array,
    *state: Any,
) -> dict[str, Array]:
    """The parts of the bound by row, averaged over draws."""

    def one(inputs: tuple[Array, Position]) -> dict[str, Array]:
        number, z = inputs
        rows = _rows(target, site, z, *state)
        start = first + number / num_draws  # the times of a row are equally spaced, too
        parts = rows.parts(jax.random.fold_in(key, number), start, num_steps)
        if rows.num_codes:
            parts["reconstruction"] = -_others(target, site, z, *state)
        return parts

    first = jax.random.uniform(jax.random.fold_in(key, num_draws))
    found = jax.lax.map(one, (jnp.arange(num_draws), z))
    return {name: values.mean(axis=0) for name, values in found.items()}


def _others(
    target: Target, site: str, z: Position, batch: Batch, model: Any, mutable: Any
) -> Array:
    """The log density of what else is observed in the plate of a site, by row."""
    (plate,) = target.term_info(batch)[site].plates
    log_probs = target.site_log_probs(z, batch._replace(index={}), model, mutable)
    found = {name: log_probs[name] for name in target.structure.observed}
    return row_terms(found, target.term_info(batch), plate.name, 1.0)


def code_use(target: Target, site: str, z: Position, *state: Any) -> Array:
    """How often each code is used, `(num_codes,)`."""
    rows = _rows(target, site, z, *state)
    return jnp.bincount(rows.x.reshape(-1), length=rows.num_codes)


def ode_log_densities(
    target: Target, site: str, num_steps: int, z: Position, key: Array, *state: Any
) -> Array:
    """The log density of rows by the ODE."""
    return _rows(target, site, z, *state).ode_log_density(key, num_steps)


def generate_rows(
    target: Target,
    site: str,
    num_rows: int,
    num_steps: int | None,
    method: str,
    z: Position,
    key: Array,
    *state: Any,
) -> Array:
    """Rows drawn from the model."""
    return _rows(target, site, z, *state).generate(key, num_rows, num_steps, method)
