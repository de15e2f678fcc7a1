"""vijax, with the draws of `Posterior.sample`."""

from __future__ import annotations

import math

import vijax
from bench.posteriors.answer import Answer
from bench.posteriors.case import Case

_DRAWS = 4000


def run(case: Case, guide: str, seed: int) -> Answer:
    posterior = vijax.fit(case.model, *case.args, guide=guide, rng_key=seed, progress_bar=False)
    draws = posterior.sample(rng_key=seed + 1, num_draws=_DRAWS)
    khat = None if math.isnan(posterior.khat) else posterior.khat
    return Answer(draws, posterior.space.dim, posterior.status, khat)
