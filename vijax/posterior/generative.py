"""Rows drawn from models with `vijax.nn.diffusion`, and how these are reached."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, Site, Target
from vijax.model import Call, predictive_program
from vijax.posterior import condition, draws
from vijax.posterior.requirements import require_data
from vijax.posterior.result import FitResult
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import fold_in
from vijax.runtime.row_densities import RowDensity, row_densities


def generate(
    result: FitResult,
    key: Array,
    call: Call,
    num_rows: int | None,
    num_steps: int | None,
    method: str,
    site: str | None,
    keep: Any,
) -> np.ndarray:
    """See `Posterior.generate`."""
    if method not in ("ancestral", "ode"):
        raise ModelError(mismatch("method", "'ancestral' or 'ode'", repr(method)))
    name = named_site(result, "generate", site)
    rows = at(result, "generate", call)
    z, of_rows = _latents(rows, name, fold_in(key, 0)), shape(rows, name)
    number = num_rows or of_rows[0]
    if keep is not None:
        keep = _kept(keep, number, of_rows)
        unknown = max(1, int((~keep).reshape(number, -1).sum(axis=1).max()))
        num_steps = min(num_steps or unknown, unknown)
    program = rows.target.program(generate_rows, name, number, num_steps, method)
    state = (rows.batch._replace(index={}), rows.variables.model, rows.mutable)
    found: np.ndarray = on_host(program(z, fold_in(key, 1), keep, *state))
    return found


def _kept(keep: Any, num_rows: int, shape: tuple[int, ...]) -> np.ndarray:
    """The elements to keep, `(num_rows, *shape of a row)`.

    Raises:
        ModelError: they do not fit the rows.
    """
    keep = np.asarray(keep)
    fits = keep.dtype == bool and keep.shape in (shape, shape[1:]) and num_rows == shape[0]
    if not fits:
        expected = f"truth values of shape {shape} or {shape[1:]}, for as many rows as are passed"
        got = f"{keep.dtype} of shape {keep.shape}, for {num_rows} rows"
        raise ModelError(mismatch("keep", expected, got))
    return np.broadcast_to(keep, shape)


def named_site(result: FitResult, what: str, site: str | None) -> str:
    """The name of the site that is asked for.

    Raises:
        ModelError: there is no such site, or there are several.
    """
    sites = list(result.target.structure.bounds)
    if site is None and len(sites) == 1:
        return sites[0]
    if site not in sites:
        expected = f"site= one of {sites}" if sites else "a model with vijax.nn.diffusion"
        raise ModelError(mismatch(what, expected, f"site={site!r}"))
    return site


def at(result: FitResult, what: str, call: Call) -> FitResult:
    """The fit at some rows, by default its own."""
    if not any(call):
        require_data(result, what)
        return result
    return condition.on_rows(result, what, *call)


def plate_of(target: Target, site: str) -> str:
    """The plate of a site's rows."""
    return next(name for name in reversed(target.structure.dims[site]) if name)


def row_latents(target: Target, site: str) -> list[Site]:
    """The latents that belong to the rows of a site."""
    plate = plate_of(target, site)
    return [one for one in target.space.sites if one.axes([plate]).pairs]


def shape(result: FitResult, site: str) -> tuple[int, ...]:
    """The shape of the rows of a site, `(rows, ...)`."""
    found: list[RowDensity] = []
    origin = {one.name: jnp.zeros(one.z_shape) for one in result.target.space.sites}
    state = (origin, result.batch, result.variables.model, result.mutable)
    jax.eval_shape(lambda *state: found.append(rows_at(result.target, site, *state)), *state)
    return found[0].x.shape


def rows_at(
    target: Target, site: str, z: Position, batch: Batch, model: Any, mutable: Any
) -> RowDensity:
    """The rows of a site with their density, at a position."""
    with row_densities() as found:
        target.constrain(z, batch, model, mutable)
    return found[site]


def _latents(result: FitResult, site: str, key: Array) -> Position:
    """A draw of the latents, those of rows from their prior."""
    if not result.target.space.sites:
        return {}
    z: Any = draws.from_guide(result, fold_in(key, 0), 1)
    new = {one.name for one in row_latents(result.target, site)}
    if new:
        args, kwargs = result.arguments.join(result.batch.data)
        shared = {
            name: x for name, x in draws.constrain(result, z).items() if name in z.keys() - new
        }
        fitted = (result.batch, result.variables.model, result.mutable)
        program = predictive_program(result.model, args, kwargs, result.target, result.arguments)
        drawn = program.program(fold_in(key, 1)[None], shared, program.batch, *fitted[1:])
        values = {name: drawn[name][0] for name in new} | {n: x[0] for n, x in shared.items()}
        z = {name: x[None] for name, x in result.target.unconstrain(values, *fitted).items()}
    return {name: jnp.asarray(value[0]) for name, value in z.items()}


def generate_rows(
    target: Target,
    site: str,
    num_rows: int,
    num_steps: int | None,
    method: str,
    z: Position,
    key: Array,
    keep: Array | None,
    *state: Any,
) -> Array:
    """Rows drawn from the model."""
    return rows_at(target, site, z, *state).generate(key, num_rows, num_steps, method, keep)
