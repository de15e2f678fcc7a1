"""Mixtures and small networks of discrete sites."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp

from bench.examples.case import Example


def gaussian_mixture():
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 0.7, 60), rng.normal(2, 1.0, 40)])

    def priors():
        shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(2)))
        ordered = dist.transforms.OrderedTransform()
        base = dist.Normal(jnp.array([-1.0, 0.0]), 2.0).to_event(1)
        mean = numpyro.sample("mean", dist.TransformedDistribution(base, ordered))
        return shares, mean, numpyro.sample("sd", dist.HalfNormal(2.0))

    def model(y):
        shares, mean, sd = priors()
        with numpyro.plate("rows", len(y)):
            component = numpyro.sample("component", dist.Categorical(shares))
            numpyro.sample("y", dist.Normal(mean[component], sd), obs=y)

    def marginal(y):
        shares, mean, sd = priors()
        mixture = dist.MixtureSameFamily(dist.Categorical(shares), dist.Normal(mean, sd))
        numpyro.sample("y", mixture, obs=y)

    return Example(model, (y,), nuts=marginal)


def toy_mixture():
    """Three discrete sites that depend on one another, observed with noise."""
    rng = np.random.default_rng(1)
    a = rng.random(100) < 0.3
    b = rng.random(100) < np.where(a, 0.8, 0.2)
    y = rng.normal(np.where(a & b, 2.0, np.where(b, 0.5, -1.0)), 0.5)

    def priors():
        p_a = numpyro.sample("p_a", dist.Beta(2.0, 4.0))
        with numpyro.plate("values", 2):
            p_b = numpyro.sample("p_b", dist.Beta(jnp.array([2.0, 6.0]), jnp.array([6.0, 2.0])))
        mean = numpyro.sample("mean", dist.Normal(jnp.array([-1.0, 0.5, 2.0]), 0.3).to_event(1))
        return p_a, p_b, mean

    def model(y):
        p_a, p_b, mean = priors()
        with numpyro.plate("rows", len(y)):
            a = numpyro.sample("a", dist.Bernoulli(p_a))
            b = numpyro.sample("b", dist.Bernoulli(p_b[a]))
            numpyro.sample("y", dist.Normal(mean[b + a * b], 0.5), obs=y)

    def marginal(y):
        p_a, p_b, mean = priors()
        weights = jnp.stack(
            [1 - (1 - p_a) * p_b[0] - p_a * p_b[1], (1 - p_a) * p_b[0], p_a * p_b[1]]
        )
        log_probs = dist.Normal(mean, 0.5).log_prob(y[:, None])
        numpyro.factor("y", logsumexp(jnp.log(weights) + log_probs, axis=-1).sum())

    return Example(model, (y,), nuts=marginal)


def sine_mixture():
    """Two clusters of pairs of angles, as in a Ramachandran plot."""
    rng = np.random.default_rng(2)
    first = np.arange(80) < 50
    centers = np.where(first[:, None], [-1.2, -0.8], [1.2, 2.2])
    angles = rng.vonmises(centers, 12.0)

    def priors():
        shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(2)))
        start = jnp.array([[-1.0, -1.0], [1.0, 2.0]])
        with numpyro.plate("clusters", 2):
            phi = numpyro.sample("phi", dist.VonMises(start[:, 0], 2.0))
            psi = numpyro.sample("psi", dist.VonMises(start[:, 1], 2.0))
            kappa = numpyro.sample("kappa", dist.Gamma(4.0 * jnp.ones(2), 0.4).to_event(1))
            share = numpyro.sample("correlation", dist.Beta(1.0, 4.0))
        return shares, (phi, psi, kappa[:, 0], kappa[:, 1], None, share)

    def clusters(phi, psi, phi_kappa, psi_kappa, _, share):
        return dist.SineBivariateVonMises(
            phi_loc=phi,
            psi_loc=psi,
            phi_concentration=phi_kappa,
            psi_concentration=psi_kappa,
            weighted_correlation=share,
        )

    def model(angles):
        shares, parameters = priors()
        with numpyro.plate("rows", len(angles)):
            k = numpyro.sample("k", dist.Categorical(shares))
            chosen = (None if one is None else one[k] for one in parameters)
            numpyro.sample("angles", clusters(*chosen), obs=angles)

    def marginal(angles):
        shares, parameters = priors()
        log_probs = clusters(*parameters).log_prob(angles[:, None])
        mixture = jnp.logaddexp(*(jnp.log(shares) + log_probs).T)
        numpyro.factor("angles", mixture.sum())

    return Example(model, (angles,), nuts=marginal)


EXAMPLES = {
    "gaussian mixture": gaussian_mixture,
    "toy_mixture_model": toy_mixture,
    "ssbvm_mixture": sine_mixture,
}
