"""pymc-extras: Pathfinder and DADVI with default settings."""

from __future__ import annotations

import importlib.util

from bench.peers.by_pymc import answer, model_of
from bench.posteriors.answer import Answer, Skipped
from bench.posteriors.case import Case

_DRAWS = 4000


def run(case: Case, method: str, seed: int) -> Answer:
    if not importlib.util.find_spec("pymc_extras"):
        raise Skipped("pymc-extras is not installed")
    return {"pathfinder": pathfinder, "dadvi": dadvi}[method](case, seed)


def pathfinder(case: Case, seed: int) -> Answer:
    """Four paths with resampled draws, in one process, which is faster here than two."""
    from pymc_extras.inference import fit_pathfinder

    model = model_of(case)
    found = fit_pathfinder(
        model,
        num_draws=_DRAWS,
        random_seed=seed,
        progressbar=False,
        concurrent=None,
        display_summary=False,
    )
    return answer(case, model, found)


def dadvi(case: Case, seed: int) -> Answer:
    """Thirty fixed draws."""
    from pymc_extras.inference import fit_dadvi

    model = model_of(case)
    found = fit_dadvi(model, n_draws=_DRAWS, random_seed=seed, progressbar=False)
    return answer(case, model, found)
