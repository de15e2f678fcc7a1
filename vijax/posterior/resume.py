"""Continues the gradient steps of a fit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vijax.engine.run import Budget
from vijax.guides.conjugate import BoundConjugate, Conjugate
from vijax.posterior.finish import finish_run
from vijax.posterior.held_out import with_predictions
from vijax.posterior.requirements import require_data
from vijax.posterior.result import FitResult
from vijax.runtime.checks import check_count
from vijax.runtime.deadline import keep_answer
from vijax.runtime.errors import VijaxError
from vijax.runtime.interrupt import best_answer
from vijax.runtime.progress import show_progress


def _no_steps(result: FitResult) -> str:
    """Why a fit by a direct solver cannot be resumed, and what to do instead."""
    expected = "resume: expected a fit by gradient steps, got one by "
    if isinstance(result.guide, BoundConjugate):
        guide = result.guide.unbound_guide
        name = "'conjugate'" if guide == Conjugate() else repr(guide)
        return (
            f"{expected}coordinate ascent. A new fit continues where this one ended: "
            f"fit(..., guide={name}, init=posterior)."
        )
    return (
        f"{expected}a direct solver. Start a new fit from it: fit(..., init=posterior, "
        "algorithm='gradient')."
    )


def resume(
    result: FitResult,
    num_steps: int,
    max_seconds: float | None,
    callbacks: Sequence[Callable[..., Any]],
    progress_bar: bool,
) -> FitResult:
    """See `Posterior.resume`."""
    if not set(result.missing) <= result.arguments.sources.keys():
        require_data(result, "resume")
    start = time.perf_counter()
    if result.unsaved:
        raise VijaxError(
            f"resume: expected the fit's {' and '.join(result.unsaved)}, which cannot be saved to "
            f"a file. Load the fit with vijax.load(path, model, *data, {result.unsaved[0]}=...)."
        )
    if result.engine is None or result.run is None:
        raise VijaxError(_no_steps(result))
    budget = Budget(result.run.step + check_count("num_steps", num_steps), max_seconds)
    engine = result.engine.without_cache()
    loop = jax.tree.map(lambda leaf: leaf.copy(), result.run.loop)  # steps may overwrite it
    before = start - result.seconds  # total time of both runs

    def continued() -> FitResult:
        keep_answer(lambda: finish_run(engine, run, before, complete=False))
        found = finish_run(engine, engine.advance(run, budget, callbacks), before)
        found = dataclasses.replace(found, held_out=result.held_out)
        return with_predictions(found, engine.problem.key)

    run = result.run._replace(loop=loop)
    with show_progress(progress_bar):
        return best_answer(continued, max_seconds, start, "resume", result.timing)
