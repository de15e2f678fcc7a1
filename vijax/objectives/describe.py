"""What is said of the gradients of discrete sites."""

from __future__ import annotations

from vijax.contracts import Batch, Objective, Target
from vijax.objectives.elbo import ELBO
from vijax.objectives.estimators.discrete import chosen
from vijax.objectives.tempered import Tempered


def describe_gradients(objective: Objective | None, target: Target, batch: Batch) -> str:
    """How an objective gets gradients in discrete sites, in a few words; empty without any."""
    drawn = target.space.discrete
    if isinstance(objective, Tempered):
        return describe_gradients(objective.objective, target, batch)
    if objective is None or not drawn.sites:
        return ""
    if not isinstance(objective, ELBO):
        return "gradients by the score function"
    estimator = select_estimator(objective.discrete, drawn, target.term_info(batch))
    return f"gradients by {estimator!r}" + ("" if estimator.unbiased else ", which are biased")
