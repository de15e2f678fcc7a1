"""Description of the gradient estimator of discrete sites, for reports."""

from __future__ import annotations

from vijax.contracts import Batch, Objective, Target
from vijax.objectives.elbo import ELBO
from vijax.objectives.estimators.discrete import select_estimator
from vijax.objectives.tempered import Tempered


def describe_gradients(objective: Objective | None, target: Target, batch: Batch) -> str:
    """The gradient estimator of an objective for discrete sites; empty without such sites."""
    space = target.space.discrete
    if isinstance(objective, Tempered):
        return describe_gradients(objective.objective, target, batch)
    if objective is None or not space.sites:
        return ""
    if not isinstance(objective, ELBO):
        return "gradients by the score function"
    estimator = select_estimator(objective.discrete, space, target.term_info(batch))
    return f"gradients by {estimator!r}" + ("" if estimator.unbiased else ", which are biased")
