"""NumPyro: stochastic variational inference, and NUTS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

from bench.posteriors.answer import Answer
from bench.posteriors.case import Case

_DRAWS = 4000
_BLOCK = 500  # draws evaluated at once


class Fit(NamedTuple):
    """The result of an optimization, with model, arguments and guide."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    guide: Any
    svi: SVI
    state: Any
    params: dict[str, Any]


def run(case: Case, method: str, seed: int) -> Answer:
    return {"svi": svi, "nuts": nuts}[method](case, seed)


def svi(case: Case, seed: int) -> Answer:
    """`AutoMultivariateNormal`, Adam 1e-2, 5,000 steps."""
    fitted = optimize(case.model, case.args, seed=seed)
    key = jax.random.key(seed + 1)
    draws = fitted.guide.sample_posterior(key, fitted.params, sample_shape=(_DRAWS,))
    missing = [site for site in case.reference if site not in draws]
    if missing:  # deterministics
        predictive = Predictive(case.model, draws, return_sites=missing)
        draws = draws | predictive(key, *case.args)
    return Answer(jax.device_get(draws), fitted.guide.latent_dim)


def nuts(case: Case, seed: int, warmup: int = 500, samples: int = 500) -> Answer:
    """One chain."""
    chain = MCMC(
        NUTS(case.model), num_warmup=warmup, num_samples=samples, num_chains=1, progress_bar=False
    )
    chain.run(jax.random.key(seed), *case.args)
    draws = jax.device_get(chain.get_samples())
    position = chain.last_state.z
    return Answer(draws, sum(int(np.size(value)) for value in position.values()))


def optimize(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    guide: Callable[..., Any] = AutoMultivariateNormal,
    *,
    steps: int = 5000,
    rate: float = 1e-2,
    particles: int = 1,
    seed: int = 0,
) -> Fit:
    """`SVI.run` as in its documentation, without the progress bar."""
    instance = guide(model)
    svi = SVI(model, instance, numpyro.optim.Adam(rate), Trace_ELBO(num_particles=particles))
    found = svi.run(jax.random.key(seed), steps, *args, progress_bar=False)
    jax.block_until_ready(found.params)
    return Fit(model, args, instance, svi, found.state, found.params)


def log_weights(fitted: Fit, key: jax.Array, num_draws: int) -> np.ndarray:
    """`log p - log q` of fresh draws, `(num_draws,)`."""

    def one(key: jax.Array) -> jax.Array:
        loss = Trace_ELBO().loss(key, fitted.params, fitted.model, fitted.guide, *fitted.args)
        return -loss

    @jax.jit
    def every(key: jax.Array) -> jax.Array:
        return jax.lax.map(one, jax.random.split(key, num_draws), batch_size=_BLOCK)

    return np.asarray(every(key), np.float64)


def steps_per_second(fitted: Fit, steps: int) -> float:
    """Steps per second of the compiled update, called from a Python loop."""
    update = jax.jit(lambda state: fitted.svi.update(state, *fitted.args)[0])
    state = jax.block_until_ready(update(fitted.state))
    started = time.perf_counter()
    for _ in range(steps):
        state = update(state)
    jax.block_until_ready(state)
    return steps / (time.perf_counter() - started)


def compiled(
    model: Callable[..., Any], args: tuple[Any, ...], guide: Callable[..., Any], steps: int
) -> Callable[[], Any]:
    """`SVI.run` from a fixed start, Adam 1e-3, compiled once instead of at every call."""
    svi = SVI(model, guide(model), numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = svi.init(jax.random.key(0), *args)

    @jax.jit
    def run(state: Any, *args: Any) -> Any:
        found = svi.run(jax.random.key(0), steps, *args, init_state=state, progress_bar=False)
        return found.losses

    return lambda: jax.block_until_ready(run(state, *args))
