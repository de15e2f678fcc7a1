"""Draws of many posteriors of one model by one program."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Target
from vijax.diagnostics import importance as weights
from vijax.guides import FullRank
from vijax.guides.location_scale.full_rank import host_factors
from vijax.posterior import draws as single
from vijax.posterior.result import FitResult
from vijax.runtime.blockwise import Arrays
from vijax.runtime.device_layout import on_host
from vijax.runtime.keys import host_rng
from vijax.runtime.stacks import Packed, pack

_SETS = 64  # in one call of the program


def is_fast(result: FitResult) -> bool:
    """Whether draws need no evaluation of the log density, and no discrete sites."""
    if result.guide != FullRank() or result.target.marginalized.sizes:
        return False
    if not result.target.subsampling.whole or result.mutable or result.variables.model:
        return False
    return not result.corrects or result.assessment.chain_states is not None


def unconstrained(result: FitResult, key: Array, num_draws: int, corrected: bool | None) -> Arrays:
    """Draws of a result for which `is_fast` holds; see `vijax.posterior.sampling`."""
    states = result.assessment.chain_states
    if states is not None and (corrected or (corrected is None and result.corrects)):
        return single.choose(states, key, num_draws)
    loc, _, factor = host_factors(result.variables.guide)
    noise = host_rng(key).standard_normal((num_draws, loc.size))
    return weights.split(result.target.space, loc + noise @ factor.T)


def constrained(results: Sequence[FitResult], z: Sequence[Arrays]) -> list[Arrays]:
    """Values of all sites and deterministics at draws of many results of one target.

    Args:
        results: with their data.
        z: the draws of each, by site `(num_draws, *z_shape)`.
    """
    target, out = results[0].target, list[Arrays]()
    program = target.program(stacked_constrain)
    order = list(target.structure.dims)
    for start in range(0, len(results), _SETS):
        rows = [min(start + i, len(results) - 1) for i in range(_SETS)]
        points = {name: np.stack([z[i][name] for i in rows]) for name in z[0]}
        batches = [results[i].batch for i in rows]
        stacked = jax.tree.map(lambda *rows: np.stack([np.asarray(row) for row in rows]), *batches)
        found = on_host(program(pack(points, batch_ndim=2), stacked))
        values = found.unpack()
        names = [name for name in order if name in values]
        names += sorted(values.keys() - {*names})
        used = min(_SETS, len(results) - start)
        out += [{name: values[name][i] for name in names} for i in range(used)]
    return out


def stacked_constrain(target: Target, z: Packed, stacked: Batch) -> Packed:
    """Constrained values at draws `(sets, draws, ...)` of many data sets."""

    def of_set(z: Packed, batch: Batch) -> Packed:
        return jax.vmap(lambda one: pack(target.constrain(one.unpack(), batch, {}, {})))(z)

    return jax.vmap(of_set)(z, stacked)
