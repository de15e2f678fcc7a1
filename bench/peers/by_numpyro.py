"""NumPyro: stochastic VI with a full-rank guide, and NUTS."""

from __future__ import annotations

import jax
import numpy as np
import numpyro
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

from bench.posteriors.answer import Answer
from bench.posteriors.case import Case

_DRAWS = 4000
_STEPS = 5000


def run(case: Case, method: str, seed: int) -> Answer:
    return {"svi": svi, "nuts": nuts}[method](case, seed)


def svi(case: Case, seed: int) -> Answer:
    """`AutoMultivariateNormal`, Adam 1e-2, 5,000 steps."""
    guide = AutoMultivariateNormal(case.model)
    optimisation = SVI(case.model, guide, numpyro.optim.Adam(1e-2), Trace_ELBO())
    found = optimisation.run(jax.random.key(seed), _STEPS, *case.args, progress_bar=False)
    key = jax.random.key(seed + 1)
    draws = guide.sample_posterior(key, found.params, sample_shape=(_DRAWS,))
    missing = [site for site in case.reference if site not in draws]
    if missing:  # deterministics
        predictive = Predictive(case.model, draws, return_sites=missing)
        draws = draws | predictive(key, *case.args)
    return Answer(jax.device_get(draws), guide.latent_dim)


def nuts(case: Case, seed: int, warmup: int = 500, samples: int = 500) -> Answer:
    """One chain."""
    chain = MCMC(
        NUTS(case.model), num_warmup=warmup, num_samples=samples, num_chains=1, progress_bar=False
    )
    chain.run(jax.random.key(seed), *case.args)
    draws = jax.device_get(chain.get_samples())
    position = chain.last_state.z
    return Answer(draws, sum(int(np.size(value)) for value in position.values()))
