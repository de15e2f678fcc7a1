"""Counts and proportions: baseball, UCB admissions, mortality, zero inflation, conversion rates."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import expit
from numpyro.infer.reparam import TransformReparam

from bench.examples.case import Example


def _batters():
    rng = np.random.default_rng(0)
    at_bats = np.full(18, 45)
    hits = rng.binomial(at_bats, expit(rng.normal(-1.0, 0.25, 18)))
    return at_bats, hits


def baseball_pooled():
    def model(at_bats, hits):
        phi = numpyro.sample("phi", dist.Uniform(0, 1))
        with numpyro.plate("players", len(hits)):
            numpyro.sample("hits", dist.Binomial(at_bats, probs=phi), obs=hits)

    return Example(model, _batters())


def baseball_partially_pooled():
    def model(at_bats, hits):
        m = numpyro.sample("m", dist.Uniform(0, 1))
        kappa = numpyro.sample("kappa", dist.Pareto(1.0, 1.5))
        with numpyro.plate("players", len(hits)):
            phi = numpyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            numpyro.sample("hits", dist.Binomial(at_bats, probs=phi), obs=hits)

    return Example(model, _batters())


def baseball_log_odds():
    def model(at_bats, hits):
        loc = numpyro.sample("loc", dist.Normal(-1, 1))
        scale = numpyro.sample("scale", dist.HalfCauchy(1.0))
        with numpyro.plate("players", len(hits)):
            prior = dist.TransformedDistribution(
                dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(loc, scale)
            )
            with numpyro.handlers.reparam(config={"alpha": TransformReparam()}):
                alpha = numpyro.sample("alpha", prior)
            numpyro.sample("hits", dist.Binomial(at_bats, logits=alpha), obs=hits)

    return Example(model, _batters(), compared=("loc", "scale", "alpha"))


def ucbadmit():
    rng = np.random.default_rng(1)
    department, male = np.repeat(np.arange(6), 2), np.tile([0, 1], 6)
    applications = rng.integers(20, 500, 12)
    offset = rng.normal(-0.5, 1.0, 6)[department]
    admitted = rng.binomial(applications, expit(offset - 0.1 * male))

    def model(department, male, applications, admitted):
        mean = numpyro.sample("mean", dist.Normal(0, jnp.array([1.0, 1.0])).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(jnp.ones(2)).to_event(1))
        correlation = numpyro.sample("L", dist.LKJCholesky(2, 2.0))
        with numpyro.plate("departments", 6):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        v = numpyro.deterministic("v", mean + z @ (sigma[:, None] * correlation).T)
        logits = v[department, 0] + v[department, 1] * male
        numpyro.sample("admitted", dist.Binomial(applications, logits=logits), obs=admitted)

    args = (department, male, applications, admitted)
    return Example(model, args, compared=("mean", "sigma", "v"))


def mortality():
    rng = np.random.default_rng(2)
    region, age = (one.reshape(-1) for one in np.meshgrid(np.arange(12), np.arange(5)))
    population = rng.integers(500, 5000, region.size)
    log_rate = -5 + 0.6 * age + rng.normal(0, 0.3, 12)[region]
    deaths = rng.binomial(population, expit(log_rate))

    def model(region, age, population, deaths):
        intercept = numpyro.sample("intercept", dist.Normal(-5.0, 2.0))
        sd = numpyro.sample("sd", dist.HalfNormal(jnp.array([1.0, 0.5])).to_event(1))
        with numpyro.plate("regions", 12):
            effect = numpyro.sample("effect", dist.Normal(0.0, sd[0]))
        step = numpyro.sample("step", dist.Normal(0.0, sd[1]).expand([4]).to_event(1))
        trend = jnp.concatenate([jnp.zeros(1), jnp.cumsum(step)])
        logits = intercept + effect[region] + trend[age]
        with numpyro.plate("cells", len(deaths)):
            numpyro.sample("deaths", dist.Binomial(population, logits=logits), obs=deaths)

    return Example(model, (region, age, population, deaths))


def zero_inflated_poisson():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(250, 2))
    y = rng.poisson(np.exp(0.5 + x @ [0.5, -0.3])) * (rng.random(250) < 0.6)

    def model(x, y):
        b0 = numpyro.sample("b0", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(jnp.zeros(2), 1).to_event(1))
        gate = numpyro.sample("gate", dist.Beta(1, 1))
        with numpyro.plate("rows", len(y)):
            rate = jnp.exp(b0 + x @ b)
            numpyro.sample("y", dist.ZeroInflatedPoisson(gate=gate, rate=rate), obs=y)

    return Example(model, (x, y))


def proportion_test():
    rng = np.random.default_rng(4)
    treated = np.repeat([0, 1], 500)
    x = np.column_stack([treated, rng.normal(size=1000)])
    made = rng.binomial(1, expit(-2.0 + 0.4 * treated + 0.3 * x[:, 1]))

    def model(x, made):
        intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0))
        slope = numpyro.sample("slope", dist.Normal(jnp.zeros(2), 2.0).to_event(1))
        numpyro.sample("made", dist.Bernoulli(logits=intercept + x @ slope), obs=made)

    return Example(model, (x, made))


EXAMPLES = {
    "baseball, pooled": baseball_pooled,
    "baseball, partially pooled": baseball_partially_pooled,
    "baseball, log odds": baseball_log_odds,
    "ucbadmit": ucbadmit,
    "mortality": mortality,
    "zero_inflated_poisson": zero_inflated_poisson,
    "proportion_test": proportion_test,
}
