"""Sweeps of parallel expectation propagation, in the coordinates of a standard normal prior.

The approximation is `q(e) ~ N(e; 0, I) prod_n exp(h_n u_n - t_n u_n^2 / 2)` with `u = A e`. A sweep
removes the share `p` of each site from the marginal of `u_n` (the cavity), replaces it by the
likelihood to the power `p`, and changes the site so that mean and variance agree (Minka, 2001;
power `p`, Minka, 2004). All sites move together, then `q` is computed anew. Where there are more
elements than sites, it is by `B = J + S K S` with `K = A A'`, `S = |t|^(1/2)`, `J = sign(t)`, which
is `I + S K S` for positive `t` (Rasmussen and Williams, 2006, section 3.6).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import lu_factor, lu_solve, solve_triangular

from vijax.contracts import Batch, Position, Target
from vijax.contracts.projections import ProjectionPlan, Projections
from vijax.solvers.expectation_propagation.support import Support, support
from vijax.solvers.expectation_propagation.tilted import Moments, Near, moments

CHUNK = 32  # largest number of sweeps between two looks at the clock
LEAST_RATE = 0.02  # share of an update that is taken where larger ones do not converge
_GROWTH = 0.95  # of the largest change, from which updates are too large
_RECOVERY = 1.25  # of the share of an update that is taken
_TINY = 1e-300


class Options(NamedTuple):
    """What the programs depend on, see `ExpectationPropagation`."""

    power: float
    quadrature: int
    tolerance: float
    damping: float


class Sites(NamedTuple):
    """Natural parameters of Gaussian sites, `(num,)`.

    Attributes:
        precision: `t`; may be negative.
        shift: `h`, precision times mean.
    """

    precision: Array
    shift: Array


class Sweeps(NamedTuple):
    """Some sweeps.

    Attributes:
        sites: after the last.
        log_evidence: before each sweep, `(CHUNK + 1,)`.
        change: of the largest change of a marginal that each asks for, in sds, likewise.
        skipped: number of sites without a proper cavity in the last one.
        num_sweeps: their number.
        proper: whether the last one left a proper Gaussian; if not, it was taken back.
        rate: the share of an update that the next one is to take.
    """

    sites: Sites
    log_evidence: Array
    change: Array
    skipped: Array
    num_sweeps: Array
    proper: Array
    rate: Array


class Gaussian(NamedTuple):
    """Marginals of `u`, `log |P|` and `m' P m` of the Gaussian of `e`, and whether it is proper."""

    mean: Array
    variance: Array
    log_det: Array
    square: Array
    proper: Array


def gaussian(rows: Array, sites: Sites) -> Gaussian:
    """The Gaussian approximation.

    Args:
        rows: `A`, `(num, dim)`.
        sites: the sites.
    """
    num, dim = rows.shape
    by = _by_elements if dim <= num else _by_sites
    mean, variance, log_det, square = by(rows, sites)
    proper = jnp.isfinite(log_det) & jnp.all((variance >= 0) & jnp.isfinite(mean))
    return Gaussian(mean, variance, log_det, square, proper)


def _by_elements(rows: Array, sites: Sites) -> tuple[Array, ...]:
    precision = jnp.eye(rows.shape[1]) + rows.T @ (sites.precision[:, None] * rows)
    factor = jnp.linalg.cholesky(precision)
    scaled = solve_triangular(factor, rows.T, lower=True)
    shift = scaled @ sites.shift
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    return scaled.T @ shift, jnp.sum(scaled**2, axis=0), log_det, shift @ shift


def _by_sites(rows: Array, sites: Sites) -> tuple[Array, ...]:
    kernel, root = rows @ rows.T, jnp.sqrt(jnp.abs(sites.precision))
    sign = jnp.where(sites.precision < 0, -1.0, 1.0)
    scaled = root[:, None] * kernel
    lu = lu_factor(jnp.diag(sign) + scaled * root)
    covariance = kernel - scaled.T @ lu_solve(lu, scaled)
    mean = covariance @ sites.shift
    pivots = jnp.diagonal(lu[0])
    odd = jnp.sum(lu[1] != jnp.arange(len(lu[1]))) + jnp.sum(pivots < 0) + jnp.sum(sign < 0)
    log_det = jnp.where(odd % 2 == 0, jnp.sum(jnp.log(jnp.abs(pivots))), jnp.nan)
    return mean, jnp.diagonal(covariance), log_det, mean @ sites.shift


class Tilted(NamedTuple):
    """Cavities, the moments of tilted distributions, and which of these are proper."""

    precision: Array
    shift: Array
    moments: Moments
    proper: Array


def is_seen(rows: Array) -> Array:
    """Which elements depend on a latent site."""
    return jnp.sum(rows**2, axis=1) > 0


def tilt(
    read: Projections, sites: Sites, now: Gaussian, where: Support, power: float, points: int
) -> Tilted:
    """The tilted distributions of all sites.

    Args:
        read: the model.
        sites: the sites.
        now: their Gaussian.
        where: the supports of the likelihoods.
        power: `p`.
        points: of quadrature, on each panel.
    """
    seen = is_seen(read.rows)
    variance = jnp.where(seen & (now.variance > 0), now.variance, 1.0)
    precision = 1 / variance - power * sites.precision
    shift = now.mean / variance - power * sites.shift
    proper = seen & (precision > 0) & (now.variance > 0) & ~where.empty
    cavity = jnp.where(proper, precision, 1.0)
    mean = jnp.where(proper, shift, 0.0) / cavity
    near = Near(now.mean, variance, proper)
    found = moments(lambda u: power * read.log_likelihood(u), mean, 1 / cavity, where, points, near)
    proper &= (found.variance > _TINY) & jnp.isfinite(found.log_integral)
    return Tilted(precision, shift, found, proper)


def log_evidence(
    read: Projections, sites: Sites, now: Gaussian, tilted: Tilted, power: float
) -> Array:
    """`log Z` of expectation propagation: an approximation, and not a bound.

    `sum_n [log Z_n + log(1 + p t/c) / 2 + (g^2/c - (g + p h)^2/(c + p t)) / 2] / p + constant -
    log |P| / 2 + m' P m / 2`, with cavities of precision `c` and shift `g` and integrals `Z_n` of
    the tilted distributions. Its derivative in `t` and `h` is zero at a fixed point.
    """
    t, h = power * sites.precision, power * sites.shift
    proper, seen = tilted.proper, is_seen(read.rows)
    c, g, total = (
        jnp.where(proper, x, 1.0) for x in (tilted.precision, tilted.shift, tilted.precision + t)
    )
    each = 0.5 * (jnp.log(total / c) + g**2 / c - (g + h) ** 2 / total)
    # the integral of a constant likelihood is the likelihood
    each = jnp.where(proper, each, 0.0) + jnp.where(
        proper | ~seen, tilted.moments.log_integral, 0.0
    )
    return read.constant + jnp.sum(each) / power - 0.5 * now.log_det + 0.5 * now.square


class _State(NamedTuple):
    """Of a loop over sweeps; `before` are the last sites that had a proper Gaussian."""

    sites: Sites
    before: Sites
    rate: Array
    log_evidence: Array
    change: Array
    done: Array
    skipped: Array
    proper: Array
    stop: Array


def propagate(
    target: Target,
    plan: ProjectionPlan,
    options: Options,
    z: Position,
    sites: Sites,
    where: Support,
    batch: Batch,
    count: Array,
    rate: Array,
    narrow: Array,
) -> Sweeps:
    """At most `count` sweeps, fewer if they converge.

    The share of an update that is taken is halved where marginals change by more than in the sweep
    before, and returns slowly to the one given: where many sites share few elements, all of them
    overshoot at first.

    Args:
        target: the target.
        plan: how it is read.
        options: power, number of points, tolerance and the largest share of an update.
        z: positions of the hyper-parameters.
        sites: before the first sweep.
        where: the supports of the likelihoods.
        batch: the data.
        count: at most `CHUNK`.
        rate: the share of the first update that is taken.
        narrow: factor on the precision of the prior in the first sweep, 1 for none. Where many
            sites share few elements, the first update is so that of Newton's method: far from zero,
            where the prior reaches, likelihoods are too flat for a second.
    """
    read = target.functions.projections(plan, z, batch)
    power, points = options.power, options.quadrature

    def body(state: _State) -> _State:
        sites, done = state.sites, state.done
        now = gaussian(read.rows, sites)
        factor = jnp.where(done == 0, narrow, 1.0)
        now = now._replace(variance=now.variance / factor)
        tilted = tilt(read, sites, now, where, power, points)
        update, change = _update(now, tilted, power)
        convex = (factor > 1) & (update.precision < 0)
        update = jax.tree.map(lambda x: jnp.where(convex, 0.0, x), update)
        log_z = log_evidence(read, sites, now, tilted, power)
        grows = (done > 0) & (change > _GROWTH * state.change[done - 1])
        rate = jnp.where(grows | ~now.proper, 0.5 * state.rate, _RECOVERY * state.rate)
        rate = jnp.clip(rate, LEAST_RATE, options.damping)
        # the last sweep only evaluates the sites it starts from
        stop = (done == count) | ~now.proper | (change < options.tolerance)
        kept = jax.tree.map(lambda a, b: jnp.where(now.proper, a, b), sites, state.before)
        moved = jax.tree.map(lambda a, b: jnp.where(stop, a, a + rate * b), kept, update)
        return _State(
            moved,
            kept,
            rate,
            state.log_evidence.at[done].set(log_z),
            state.change.at[done].set(change),
            done + 1,
            jnp.sum(is_seen(read.rows) & ~tilted.proper),
            now.proper,
            stop,
        )

    zeros, none, yes = jnp.zeros(CHUNK + 1), jnp.zeros((), int), jnp.ones((), bool)
    start = _State(sites, sites, jnp.asarray(rate), zeros, zeros, none, none, yes, ~yes)
    end = lax.while_loop(lambda state: ~state.stop, body, start)
    return Sweeps(
        end.sites, end.log_evidence, end.change, end.skipped, end.done - 1, end.proper, end.rate
    )


def _update(now: Gaussian, tilted: Tilted, power: float) -> tuple[Sites, Array]:
    """What moments ask of the sites, and the largest change of a marginal."""
    old = jnp.where(tilted.proper, now.variance, 1.0)
    mean, variance = (
        jnp.where(tilted.proper, new, same)
        for new, same in ((tilted.moments.mean, now.mean), (tilted.moments.variance, old))
    )
    update = Sites(1 / variance - 1 / old, mean / variance - now.mean / old)
    change = jnp.abs(mean - now.mean) / jnp.sqrt(old)
    change = jnp.maximum(change, 0.5 * jnp.abs(jnp.log(variance / old)))
    largest = jnp.max(jnp.where(tilted.proper, change, 0.0), initial=0.0)
    return jax.tree.map(lambda x: x / power, update), largest


class Reading(NamedTuple):
    """What the host needs of `Projections`, and the supports of the likelihoods."""

    rows: Array
    loc: Array
    factor: Array
    misfit: dict[str, Array]
    support: Support


def read_model(target: Target, plan: ProjectionPlan, z: Position, batch: Batch) -> Reading:
    """The model at hyper-parameters, as arrays."""
    read = target.functions.projections(plan, z, batch)
    where = support(read.log_likelihood, jnp.sqrt(jnp.sum(read.rows**2, axis=1)))
    where = where._replace(empty=where.empty & is_seen(read.rows))
    return Reading(read.rows, read.loc, read.factor, read.misfit, where)


def evidence_slope(
    target: Target,
    plan: ProjectionPlan,
    options: Options,
    z: Position,
    sites: Sites,
    where: Support,
    batch: Batch,
) -> tuple[Array, Position]:
    """The log evidence at a fixed point, and its gradient in the hyper-parameters.

    Sites are held fixed: at a fixed point the evidence is stationary in them.
    """

    def value(z: Position) -> Array:
        read = target.functions.projections(plan, z, batch)
        now = gaussian(read.rows, sites)
        tilted = tilt(read, sites, now, where, options.power, options.quadrature)
        return log_evidence(read, sites, now, tilted, options.power)

    return jax.value_and_grad(value)(z)
