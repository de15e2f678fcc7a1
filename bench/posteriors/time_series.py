"""An autoregression, and a hidden Markov model with its states marginalized."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from numpyro.distributions import constraints


def autoregression(order, y):
    """The past is observed, so the recursion is a regression on lagged columns."""
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([order]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    lags = jnp.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=1)
    with numpyro.plate("times", len(y) - order):
        numpyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y[order:])


def hidden_markov(concentration, tau, rho, u, v):
    """Two states by the forward recursion, without an initial distribution."""
    rows = [
        numpyro.sample(f"theta{k + 1}", dist.Dirichlet(concentration[k]))
        for k in range(len(concentration))
    ]
    levels = {}
    for name in ("phi", "lambda"):
        levels[name] = numpyro.sample(
            name, dist.ImproperUniform(constraints.ordered_vector, (), event_shape=(2,))
        )
        prior = dist.Normal(jnp.array([0.0, 3.0]), 1.0).log_prob(levels[name])
        numpyro.factor(f"{name} prior", prior.sum())
    transition = jnp.log(jnp.stack(rows))
    emission = dist.Normal(levels["phi"], tau).log_prob(u[:, None])
    emission += dist.Normal(levels["lambda"], rho).log_prob(v[:, None])

    def forward(state, seen):
        return logsumexp(state[:, None] + transition, axis=0) + seen, None

    last, _ = jax.lax.scan(forward, emission[0], emission[1:])
    numpyro.factor("observations", logsumexp(last))


def autoregression_arguments(data: dict[str, Any]) -> tuple[Any, ...]:
    return int(data["K"]), np.asarray(data["y"], np.float32)


def hidden_markov_arguments(data: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(np.asarray(data[name], np.float32) for name in ("alpha", "tau", "rho", "u", "v"))


MODELS = {
    "arK-arK": (autoregression, autoregression_arguments),
    "bball_drive_event_1-hmm_drive_1": (hidden_markov, hidden_markov_arguments),
}
