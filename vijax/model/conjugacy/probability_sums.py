"""Whether the probabilities of categories add up to one.

NumPyro neither checks nor normalizes them in a traced program: the log density of a site with
other probabilities is not that of a distribution, and an ELBO of it bounds no evidence.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from numpyro.distributions.discrete import CategoricalProbs, MultinomialProbs

from vijax.model.conjugacy.reader import bases
from vijax.model.tracing.log_densities import site_mask
from vijax.model.tracing.sites import Trace

_ROWS = 1000


def probability_sums(trace: Trace) -> dict[str, Array]:
    """By site, the sum of its probabilities that is farthest from one, among a thousand rows.

    Sites with a mask are left out: what is masked may be anything.
    """
    found = {}
    for name, site in trace.items():
        if site["type"] != "sample" or site_mask(site) is not None:
            continue
        for fn in bases(site["fn"]):
            if isinstance(fn, (CategoricalProbs, MultinomialProbs)):
                rows = jnp.reshape(fn.probs, (-1, jnp.shape(fn.probs)[-1]))
                sums = jnp.sum(rows[:: -(-len(rows) // _ROWS)], axis=-1)
                found[name] = sums[jnp.argmax(jnp.abs(sums - 1))]
    return found
