"""Hidden states: hidden Markov models, capture and recapture."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from jax.scipy.special import logsumexp
from numpyro.contrib.control_flow import scan

from bench.examples.case import Example

_STATES, _WORDS = 3, 6


def _words():
    rng = np.random.default_rng(0)
    transition = 0.1 + 0.7 * np.eye(_STATES)
    emission = rng.dirichlet(0.5 * np.ones(_WORDS), _STATES)
    state, states, words = 0, [], []
    for _ in range(200):
        state = rng.choice(_STATES, p=transition[state])
        states.append(state)
        words.append(rng.choice(_WORDS, p=emission[state]))
    return np.array(states), np.array(words)


def _rows():
    with numpyro.plate("states", _STATES):
        transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(_STATES)))
        emission = numpyro.sample("emission", dist.Dirichlet(jnp.ones(_WORDS)))
    return transition, emission


def _forward(log_transition, log_likelihoods, log_first):
    def step(log_prob, one):
        return logsumexp(log_prob[:, None] + log_transition, axis=0) + one, None

    last, _ = lax.scan(step, log_first + log_likelihoods[0], log_likelihoods[1:])
    return logsumexp(last)


def semi_supervised():
    """Part of the states are known, the rest marginalized by the forward algorithm."""
    states, words = _words()

    def model(states, words, unlabeled):
        transition, emission = _rows()
        numpyro.sample("moves", dist.Categorical(transition[states[:-1]]), obs=states[1:])
        numpyro.sample("words", dist.Categorical(emission[states]), obs=words)
        likelihoods = jnp.log(emission)[:, unlabeled].T
        first = -jnp.log(_STATES) * jnp.ones(_STATES)
        numpyro.factor("unlabeled", _forward(jnp.log(transition), likelihoods, first))

    return Example(model, (states[:60], words[:60], words[60:]))


def enumerated():
    """The state is a discrete site in a scan; its number is fixed by the order of the means."""
    rng = np.random.default_rng(1)
    states, _ = _words()
    y = rng.normal(np.array([-2.0, 0.0, 2.5])[states[:100]], 0.6).astype(np.float32)

    def priors():
        with numpyro.plate("states", _STATES):
            transition = numpyro.sample("transition", dist.Dirichlet(1.0 + jnp.ones(_STATES)))
        ordered = dist.transforms.OrderedTransform()
        base = dist.Normal(jnp.array([-2.0, 0.0, 0.5]), 1.0).to_event(1)
        mean = numpyro.sample("mean", dist.TransformedDistribution(base, ordered))
        return transition, mean, numpyro.sample("sd", dist.HalfNormal(1.0))

    def model(y):
        transition, mean, sd = priors()

        def step(state, now):
            state = numpyro.sample("state", dist.Categorical(transition[state]))
            numpyro.sample("y", dist.Normal(mean[state], sd), obs=now)
            return state, None

        scan(step, jnp.array(0), y)

    def marginal(y):
        transition, mean, sd = priors()
        likelihoods = dist.Normal(mean, sd).log_prob(y[:, None])
        first = jnp.log(transition[0])
        numpyro.factor("y", _forward(jnp.log(transition), likelihoods, first))

    return Example(model, (y,), nuts=marginal)


def capture_recapture():
    """Cormack, Jolly and Seber: whether an animal is alive is a discrete site in a scan."""
    rng = np.random.default_rng(2)
    alive = np.cumprod(rng.random((80, 6)) < 0.8, axis=1)
    seen = np.column_stack([np.ones(80), alive * (rng.random((80, 6)) < 0.5)]).astype(int)

    def model(seen):
        phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))
        rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))

        def step(alive, now):
            with numpyro.plate("animals", seen.shape[0], dim=-1):
                alive = numpyro.sample("alive", dist.Bernoulli(phi * alive))
                numpyro.sample("seen", dist.Bernoulli(rho * alive), obs=now)
            return alive, None

        scan(step, jnp.ones(seen.shape[0], jnp.int32), seen.T[1:])

    def marginal(seen):
        phi = numpyro.sample("phi", dist.Uniform(0.0, 1.0))
        rho = numpyro.sample("rho", dist.Uniform(0.0, 1.0))
        alive, dead = jnp.zeros(len(seen)), jnp.full(len(seen), -jnp.inf)
        for now in seen.T[1:]:
            dead = jnp.logaddexp(dead, alive + jnp.log1p(-phi)) + jnp.where(now, -jnp.inf, 0.0)
            alive = alive + jnp.log(phi) + jnp.where(now, jnp.log(rho), jnp.log1p(-rho))
        numpyro.factor("seen", jnp.logaddexp(alive, dead).sum())

    return Example(model, (seen,), nuts=marginal)


EXAMPLES = {
    "hmm": semi_supervised,
    "hmm_enum": enumerated,
    "capture_recapture": capture_recapture,
}
