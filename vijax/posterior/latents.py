"""How much the latents of an autoencoder are used: posterior collapse, measured."""

from __future__ import annotations

import math
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Guide, PyTree, Site, Target, Variables
from vijax.guides import MeanField
from vijax.posterior.local_rows import (
    LocalParts,
    has_independent_coordinates,
    local_parts,
    local_rows,
    row_terms,
)
from vijax.posterior.result import FitResult
from vijax.runtime.checks import check_count
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import GuideError, ModelError, mismatch
from vijax.runtime.keys import as_key, fold_in, host_rng

NUM_ROWS = 1000
_NUM_DRAWS = 4  # of each row
_ACTIVE = 0.01  # variance of the mean of an active unit
_COLLAPSED = 0.05  # divergence in nats a row
_UNINFORMED = 0.1  # information in nats
_LOG_2PI = math.log(2 * math.pi)
REMEDIES = (
    "Raise the weight of the divergence slowly, objective=ELBO(beta=optax.linear_schedule(0.0, "
    "1.0, steps)), leave some of it free, objective=FreeBits(nats), or use a decoder that is less "
    "able to do without latents."
)


class Latents(NamedTuple):
    """How much the continuous latents `z` of rows `x` are used, from a sample of rows.

    A unit is an unconstrained coordinate of a row's latents, sites in order. Sources: on active
    units, Importance Weighted Autoencoders, Burda, Grosse, Salakhutdinov, 2016; on information,
    ELBO surgery, Hoffman and Johnson, 2016.

    Attributes:
        num_rows: number of rows.
        activity: variance over rows of the mean, `Var_x(E[z_u | x])`, in units of the prior's
            variance, `(units,)`. Of a prior that is not a normal distribution with constant
            parameters the variance of `z_u` over rows and draws takes its place.
        divergences: `KL(q(z_u | x) || p(z_u))` of each unit, the mean over rows in nats,
            `(units,)`; `nan` if the prior is not such a normal distribution.
        divergence: `KL(q(z | x) || p(z))`, the mean over rows in nats.
        divergence_se: its standard error.
        information: `I(x; z)`, the mutual information of rows and latents under `q`, in nats: the
            mean of `log q(z_i | x_i) - log 1/B sum_j q(z_i | x_j)`. At most `max_information`, and
            in expectation below the information of all rows.
        information_se: its standard error.
    """

    num_rows: int
    activity: np.ndarray
    divergences: np.ndarray
    divergence: float
    divergence_se: float
    information: float
    information_se: float

    @property
    def max_information(self) -> float:
        """`log(num_rows)`, the most that `information` can be."""
        return math.log(self.num_rows)

    @property
    def active(self) -> int:
        """Number of active units, those with an activity above 0.01."""
        return int(np.sum(self.activity > _ACTIVE))

    @property
    def marginal_divergence(self) -> float:
        """`KL(q(z) || p(z))`, `divergence - information`: too large where that is too small."""
        return self.divergence - self.information

    @property
    def collapsed(self) -> bool:
        """Whether latents are not used: divergence below 0.05 nats, or information below 0.1."""
        return self.divergence < _COLLAPSED or self.information < min(
            _UNINFORMED, 0.5 * self.max_information
        )

    def __str__(self) -> str:
        text = (
            f"{self.active} of {len(self.activity)} units active, I(rows, z) = "
            f"{abs(self.information):.1f} nats (at most {self.max_information:.1f} can be seen "
            f"with {self.num_rows:,} rows), divergence {_rounded(self.divergence)} nats a row"
        )
        return f"{text}: collapsed" if self.collapsed else text


def latents(
    result: FitResult, key: Array, args: tuple[Any, ...], kwargs: dict[str, Any], num_rows: int
) -> Latents:
    """See `Posterior.latents`."""
    rows = local_rows(result, "latents", args, kwargs)
    for guide in rows.guides:
        if not has_independent_coordinates(guide):
            raise GuideError(
                "latents: expected latents that are independent given their row, guides.Amortized, "
                f"got {guide!r}. What they are worth is in posterior.log_evidence_rows()."
            )
    size = min(check_count("num_rows", num_rows), rows.num_rows)
    if size < 2:
        raise ModelError(mismatch("latents", "two or more rows, which are compared", size))
    target = rows.target(size)
    size = target.subsampled.get(rows.plate, rows.num_rows)
    chosen = np.sort(host_rng(key).choice(rows.num_rows, size, replace=False))
    # run once: compiling it well would take longer than running it
    program = target.on_batch.program(_encodings, rows.result.guide, rows.plate, quick=True)
    fit, batch = rows.result, rows.batch(target, chosen)
    found = on_host(program(fit.variables, fit.mutable, fold_in(key, 1), batch))
    if not found.loc.size:
        raise GuideError(
            f"latents: expected continuous latents with guides.Amortized, got {fit.guide!r}. Of "
            "discrete ones see posterior.discrete_probs()."
        )
    prior = _normal_prior(target, rows.plate, chosen, found)
    return measured(_Encodings(*(np.asarray(one, np.float64) for one in found)), prior)


def latents_of_fit(result: FitResult) -> Latents | None:
    """`latents` of rows of the fit, computed once; `None` where there is nothing to report."""
    if not result.guide.amortized or result.missing:
        return None
    if result not in _known:
        try:
            _known[result] = latents(result, as_key(0), (), {}, NUM_ROWS)
        except (GuideError, ModelError):
            _known[result] = None
    return _known[result]


_known: weakref.WeakKeyDictionary[FitResult, Latents | None] = weakref.WeakKeyDictionary()


class _Encodings(NamedTuple):
    """Normal distributions of rows, draws from them, and the prior's log density at these.

    Attributes:
        loc: `(rows, units)`.
        log_scale: `(rows, units)`.
        z: `(num_draws, rows, units)`.
        log_prior: `(num_draws, rows)`.
    """

    loc: Array | np.ndarray
    log_scale: Array | np.ndarray
    z: Array | np.ndarray
    log_prior: Array | np.ndarray


def measured(found: Any, prior: tuple[np.ndarray, np.ndarray] | None) -> Latents:
    """The measures of encodings in double precision.

    Args:
        found: the encodings.
        prior: locations and scales of a normal prior, `(rows, units)` each; `None` for another.
    """
    loc, log_scale, z, log_prior = found
    scale, num_rows = np.exp(log_scale), len(loc)
    log_q = _log_normal(z, loc, log_scale).sum(axis=-1)
    log_marginal = np.stack([_log_mixture(one, loc, log_scale) for one in z])
    information = (log_q - log_marginal).mean(axis=0)
    if prior is None:
        variance = loc.var(axis=0) + (scale**2).mean(axis=0)
        by_unit = np.full(loc.shape[1], np.nan)
        divergence = (log_q - log_prior).mean(axis=0)
    else:
        mean, sd = prior
        variance = (sd**2).mean(axis=0)
        terms = 0.5 * ((scale / sd) ** 2 + ((loc - mean) / sd) ** 2 - 1) - np.log(scale / sd)
        by_unit, divergence = terms.mean(axis=0), terms.sum(axis=1)
    return Latents(
        num_rows,
        loc.var(axis=0) / variance,
        by_unit,
        *_mean(divergence),
        *_mean(information),
    )


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _log_normal(z: np.ndarray, loc: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    return -0.5 * ((z - loc) * np.exp(-log_scale)) ** 2 - log_scale - 0.5 * _LOG_2PI


def _log_mixture(z: np.ndarray, loc: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    """`log 1/B sum_j q(z_i | x_j)` of every row of `z`, `(rows,)`, by products of matrices."""
    precision = np.exp(-2 * log_scale)
    constant = -0.5 * (precision * loc**2 + 2 * log_scale + _LOG_2PI).sum(axis=1)
    log_q = z @ (precision * loc).T - 0.5 * z**2 @ precision.T + constant
    return np.logaddexp.reduce(log_q, axis=1) - math.log(len(loc))


def _rounded(value: float) -> str:
    return f"{abs(value):.2f}" if abs(value) < 1 else f"{value:.1f}"


def _normal_prior(
    target: Target, plate: str, chosen: np.ndarray, found: _Encodings
) -> tuple[np.ndarray, np.ndarray] | None:
    """Locations and scales of the prior `(rows, units)`, if it is this normal distribution.

    Whether it is follows from its log density at the draws.
    """
    sites = _sites(target, plate)
    if not all(site.name in target.structure.priors for site in sites):
        return None
    columns: list[list[np.ndarray]] = [[], []]
    for site in sites:
        axis = site.axes([plate]).pairs[0][1]
        for column, moment in zip(columns, target.structure.priors[site.name], strict=True):
            rows = np.moveaxis(np.asarray(moment, np.float64), axis, 0)
            column.append(rows.reshape(len(rows), -1)[chosen])
    mean, sd = (np.concatenate(column, axis=1) for column in columns)
    expected = _log_normal(np.asarray(found.z, np.float64), mean, np.log(sd)).sum(axis=-1)
    close = np.abs(expected - found.log_prior) <= 1e-3 * (1 + np.abs(expected))
    return (mean, sd) if close.all() else None


def _sites(target: Target, plate: str) -> tuple[Site, ...]:
    """The continuous latents of a row."""
    return tuple(site for site in target.space.continuous.sites if site.axes([plate]).pairs)


def _encodings(
    target: Target,
    guide: Guide,
    plate: str,
    variables: Variables,
    mutable: dict[str, PyTree],
    key: Array,
    batch: Batch,
) -> _Encodings:
    parts = local_parts(guide, variables.guide, target.space, batch)
    sites, info = _sites(target, plate), target.term_info(batch)
    names = {site.name for site in sites}

    def by_row(values: dict[str, Array]) -> Array:
        rows = parts.local[0].space.sites[0].plates[0].subsample_size
        flat = []
        for site in sites:
            axis = site.axes([plate]).pairs[0][1]
            flat.append(jnp.moveaxis(values[site.name], axis, 0).reshape(rows, -1))
        return jnp.concatenate(flat, axis=1) if flat else jnp.zeros((rows, 0))

    def one(key: Array) -> tuple[Array, Array]:
        z = _draw(parts, key, batch)
        values = target.terms(z, batch, variables.model, mutable).values
        prior = {name: value for name, value in values.items() if info[name].prior_of in names}
        return by_row(z), row_terms(prior, info, plate, sites[0].scale if sites else 1.0)

    loc: dict[str, Array] = {}
    log_scale: dict[str, Array] = {}
    for part in parts.local:
        if isinstance(part.guide, MeanField):
            loc |= part.params.loc
            log_scale |= part.params.log_scale
    z, log_prior = jax.vmap(one)(jax.random.split(key, _NUM_DRAWS))
    return _Encodings(by_row(loc), by_row(log_scale), z, log_prior)


def _draw(parts: LocalParts, key: Array, batch: Batch) -> dict[str, Array]:
    z: dict[str, Array] = {}
    for i, part in enumerate((*parts.shared, *parts.local)):
        z |= part.guide.draw(part.params, part.space, jax.random.fold_in(key, i), batch).z
    return z
