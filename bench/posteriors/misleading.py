"""Posteriors on which a status was false in an earlier version, each with exact draws.

Modes that few starts reach, modes inside of others, hard edges, mass where float32 ends.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import special, stats

from bench.posteriors import exact
from bench.posteriors.case import Case

_DRAWS = 100_000


def _conditional_rng() -> np.random.Generator:
    """For draws given those of `exact.on_grid`, which must not come from the same numbers."""
    return np.random.default_rng(20_261_129)


def steep_slope() -> Case:
    """A slope of 20 under an exponential prior of mean 0.2, 105 nats above a flat mode."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, 60).astype(np.float32)
    y = (3 + 20 * x + 0.2 * random.normal(size=60)).astype(np.float32)

    def model(x, y):
        w = numpyro.sample("w", dist.Exponential(5.0))
        b = numpyro.sample("b", dist.Normal(0, 10))
        s = numpyro.sample("s", dist.HalfNormal(10))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(b + w * x, s), obs=y)

    num, (x1, y1) = len(x), (np.sum(x, dtype=float), np.sum(y, dtype=float))
    xx, xy, yy = (float(np.sum(a.astype(float) * c)) for a, c in ((x, x), (x, y), (y, y)))

    def log_density(w, log_s):  # the intercept is normal given the others, and integrated out
        variance = np.exp(2 * log_s)
        total, squares = y1 - w * x1, yy - 2 * w * xy + w**2 * xx
        misfit = (squares - 100 * total**2 / (variance + 100 * num)) / variance
        log_det = num * 2 * log_s + np.log1p(100 * num / variance)
        return -0.5 * (misfit + log_det) - 5 * w - variance / 200 + log_s

    grid = np.linspace(19.0, 21.0, 801), np.linspace(np.log(0.12), np.log(0.35), 801)
    w, log_s = exact.on_grid(log_density, *grid).T
    variance = np.exp(2 * log_s)
    mean = 100 * (y1 - w * x1) / (variance + 100 * num)
    sd = np.sqrt(100 * variance / (variance + 100 * num))
    b = _conditional_rng().normal(mean, sd)
    return Case(model, (x, y), {"w": w, "b": b, "s": np.exp(log_s)})


def narrow_in_broad() -> Case:
    """Half of the mass in a mode of a twentieth of the width, in five dimensions."""

    def model():
        x = numpyro.sample("x", dist.Normal(0, 1).expand([5]).to_event(1))
        broad, narrow = (dist.Normal(0, s).log_prob(x).sum() for s in (1.0, 0.05))
        numpyro.factor("narrow", jnp.logaddexp(broad, narrow) - broad)

    random = exact.rng()
    scale = np.where(random.random(_DRAWS) < 0.5, 1.0, 0.05)
    x = scale[:, None] * random.normal(size=(_DRAWS, 5))
    return Case(model, (), {"x": x})


def far_modes() -> Case:
    """Modes at 30 and 90 under a prior N(50, 50)."""

    def model():
        x = numpyro.sample("x", dist.Normal(50, 50))
        one, other = (dist.Normal(m, 3.0).log_prob(x) for m in (30.0, 90.0))
        numpyro.factor("modes", jnp.logaddexp(one, other) - dist.Normal(50, 50).log_prob(x))

    random = exact.rng()
    x = np.where(random.random(_DRAWS) < 0.5, 30.0, 90.0) + 3 * random.normal(size=_DRAWS)
    return Case(model, (), {"x": x})


def hard_edge() -> Case:
    """The origin of shifted exponential data: all mass next to an edge that the data set."""
    y = (2 + np.random.default_rng(0).exponential(1.0, 40)).astype(np.float32)

    def model(y):
        origin = numpyro.sample("origin", dist.Normal(0, 5))
        numpyro.sample("y", dist.Exponential(1.0), obs=y - origin)

    # density exp(40 origin - origin^2 / 50) below the smallest observation: a truncated normal
    mean, below = 25.0 * len(y), float(y.min())
    tail = special.log_ndtr((below - mean) / 5) + np.log(exact.rng().random(_DRAWS))
    origin = mean + 5 * special.ndtri_exp(tail)
    return Case(model, (y,), {"origin": origin})


def two_peaks() -> Case:
    """One peak fitted to data with two: 3 % of the mass at the lower one."""
    random = np.random.default_rng(0)
    random.normal(size=572)
    x = np.arange(100).astype(np.float32)
    bumps = sum(np.exp(-0.5 * ((x - c) / 3) ** 2) for c in (30, 70))
    y = (bumps + 0.3 * random.normal(size=100)).astype(np.float32)

    def model(x, y):
        c = numpyro.sample("c", dist.Normal(50, 25))
        a = numpyro.sample("a", dist.HalfNormal(2.0))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(a * jnp.exp(-0.5 * ((x - c) / 3.0) ** 2), s), obs=y)

    def of_amplitude(c, s):
        """Mean and sd of the amplitude before truncation, and the log density of the others."""
        shape = np.exp(-0.5 * ((x - c[..., None]) / 3) ** 2)
        precision = np.sum(shape**2, -1) / s**2 + 0.25
        mean = shape @ y.astype(float) / s**2 / precision
        misfit = float(y.astype(float) @ y) / s**2 - mean**2 * precision
        log_density = -0.5 * misfit - 100 * np.log(s) - 0.5 * np.log(precision)
        log_density += special.log_ndtr(mean * np.sqrt(precision))
        return mean, precision**-0.5, log_density - 0.5 * ((c - 50) / 25) ** 2 - 0.5 * s**2

    grid = np.linspace(24.0, 76.0, 2601), np.linspace(0.2, 0.7, 251)
    c, s = exact.on_grid(lambda c, s: of_amplitude(c, s)[2], *grid).T
    mean, sd, _ = of_amplitude(c, s)
    a = stats.truncnorm.rvs(-mean / sd, np.inf, mean, sd, random_state=_conditional_rng())
    return Case(model, (x, y), {"c": c, "a": a, "s": s})


def sine() -> Case:
    """The frequency of a sine wave: a peak of a ten thousandth of the prior's width."""
    random = np.random.default_rng(0)
    t = np.sort(random.uniform(0, 60, 60)).astype(np.float32)
    wave = 2.0 * np.sin(2 * np.pi * 1.31 * t + 0.7)
    y = (wave + 0.3 * random.normal(size=60)).astype(np.float32)

    def model(t, y):
        f = numpyro.sample("f", dist.Uniform(0.01, 3.0))
        a = numpyro.sample("a", dist.Normal(0, 2).expand([2]).to_event(1))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        angle = 2 * jnp.pi * f * t
        numpyro.sample("y", dist.Normal(a[0] * jnp.sin(angle) + a[1] * jnp.cos(angle), s), obs=y)

    def of_amplitudes(f, s):
        """Precision and mean of the amplitudes, and the log density of the others."""
        angle = 2 * np.pi * f[..., None] * t.astype(float)
        design = np.stack([np.sin(angle), np.cos(angle)], axis=-1)
        scaled = s[..., None, None] ** -2
        precision = design.swapaxes(-1, -2) @ design * scaled + np.eye(2) / 4
        linear = (design.swapaxes(-1, -2) @ y.astype(float)[:, None]) * scaled
        mean = np.linalg.solve(precision, linear)[..., 0]
        found = np.sum(linear[..., 0] * mean, -1) - float(y.astype(float) @ y) / s**2
        found -= np.linalg.slogdet(precision)[1] + 120 * np.log(s) + s**2
        return precision, mean, 0.5 * found

    def log_density(f, s):
        f, s = np.broadcast_arrays(f, s)
        return of_amplitudes(f, s)[2]

    grid = np.linspace(1.3077, 1.3118, 411), np.linspace(0.2, 0.55, 141)
    f, s = exact.on_grid(log_density, *grid).T
    precision, mean, _ = of_amplitudes(f, s)
    upper = np.linalg.cholesky(precision).swapaxes(-1, -2)
    noise = np.linalg.solve(upper, _conditional_rng().normal(size=(len(f), 2, 1)))[..., 0]
    return Case(model, (t, y), {"f": f, "a": mean + noise, "s": s})


def beta_at_both_ends() -> Case:
    """Half of a Beta(0.01, 0.01) is at values that float32 does not distinguish from one."""

    def model():
        numpyro.sample("p", dist.Beta(0.01, 0.01))

    return Case(model, (), {"p": exact.rng().beta(0.01, 0.01, _DRAWS)})


def beta_by_moments() -> Case:
    """Rates with a beta prior by mean and sd, whose density exists in a part of the space."""
    trials = np.array([3, 5, 10, 15, 20, 100, 200, 300, 500, 1000])
    hits = np.array([2, 5, 7, 13, 14, 81, 166, 235, 400, 760])

    def model(trials, hits):
        mu = numpyro.sample("mu", dist.Beta(1, 1))
        sd = numpyro.sample("sd", dist.HalfCauchy(1.0))
        size = mu * (1 - mu) / sd**2 - 1
        with numpyro.plate("rows", len(trials)):
            p = numpyro.sample("p", dist.Beta(mu * size, (1 - mu) * size))
            numpyro.sample("hits", dist.Binomial(trials, p), obs=hits)

    def shapes(mu, log_sd):
        size = np.maximum(mu * (1 - mu) * np.exp(-2 * log_sd) - 1, 1e-9)
        return mu * size, (1 - mu) * size

    def log_density(mu, log_sd):  # beta-binomial
        a, b = shapes(mu, log_sd)
        terms = special.betaln(a[..., None] + hits, b[..., None] + trials - hits)
        found = np.sum(terms - special.betaln(a, b)[..., None], -1)
        valid = mu * (1 - mu) > np.exp(2 * log_sd)
        return np.where(valid, found - np.log1p(np.exp(2 * log_sd)) + log_sd, -np.inf)

    def broadcast(mu, log_sd):
        return log_density(*np.broadcast_arrays(mu, log_sd))

    grid = np.linspace(0.6, 0.95, 351), np.linspace(-9.0, -0.8, 411)
    mu, log_sd = exact.on_grid(broadcast, *grid).T
    a, b = shapes(mu, log_sd)
    p = _conditional_rng().beta(a[:, None] + hits, b[:, None] + trials - hits)
    return Case(model, (trials, hits), {"mu": mu, "sd": np.exp(log_sd), "p": p})


CASES: dict[str, Callable[[], Case]] = {
    one.__name__: one
    for one in (
        *(steep_slope, narrow_in_broad, far_modes, hard_edge, two_peaks, sine),
        *(beta_at_both_ends, beta_by_moments),
    )
}
