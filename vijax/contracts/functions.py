"""The pure functions of a model, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vijax.contracts.conjugate import Comparison, ConjugatePlan, WordCounts
from vijax.contracts.projections import ProjectionPlan, Projections
from vijax.contracts.space import Array, Plate, Position

PyTree = Any


class Evaluation(NamedTuple):
    """The log density at one position, a scalar, and the model's new mutable state."""

    log_density: Array
    mutable: dict[str, PyTree]


class Terms(NamedTuple):
    """The terms of the log density at one position, by name, and the new mutable state.

    Each term is elementwise over the plates it is in; the log density is the sum of all.
    """

    values: dict[str, Array]
    mutable: dict[str, PyTree]


class TermInfo(NamedTuple):
    """The dependence structure of a term of the log density.

    Attributes:
        plates: the plates it has a dimension for.
        parents: the latent sites it depends on.
        prior_of: the site whose log prior or log Jacobian it is; `None` for likelihoods and
            factors.
    """

    plates: tuple[Plate, ...]
    parents: frozenset[str]
    prior_of: str | None = None


class Functions(NamedTuple):
    """The pure functions of a model; see the methods of `Target` of the same names."""

    evaluate: Callable[..., Evaluation]
    constrain: Callable[..., dict[str, Array]]
    unconstrain: Callable[..., Position]
    terms: Callable[..., Terms]
    site_log_probs: Callable[..., dict[str, Array]]
    fisher_root: Callable[..., dict[str, Array]]
    log_dets: Callable[..., dict[str, Array]]
    log_prior_sds: Callable[..., dict[str, Array]]
    initialize: Callable[..., tuple[dict[str, PyTree], dict[str, PyTree]]]
    starts: Callable[..., dict[str, Array]]
    constrain_params: Callable[..., dict[str, PyTree]]
    observations: Callable[..., dict[str, Array]]
    draw_discrete: Callable[..., Position]
    discrete_probs: Callable[..., dict[str, Array]]
    term_info: Callable[[frozenset[str]], Mapping[str, TermInfo]]
    conjugate_plan: Callable[..., ConjugatePlan]
    expected_log_joint: Callable[..., Array]
    conjugate_evaluate: Callable[..., Evaluation]
    compare_reading: Callable[..., Comparison]
    word_counts: Callable[..., WordCounts | None]
    projection_plan: Callable[[tuple[str, ...]], ProjectionPlan]
    projections: Callable[..., Projections]
