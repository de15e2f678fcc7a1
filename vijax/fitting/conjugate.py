"""Conjugate guides in `fit`: when the default takes one, and the algorithm that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from jax import Array

from vijax.algorithms import PartlyConjugate, StochasticVI
from vijax.algorithms.partly_conjugate import conjugate_part, partly_conjugate
from vijax.contracts import Batch, Solver, Target
from vijax.engine.problem import Problem
from vijax.guides.conjugate import BoundConjugate
from vijax.runtime.errors import GuideError
from vijax.solvers import by_name
from vijax.solvers.check_reading import check_reading
from vijax.solvers.coordinate_ascent import coordinate_ascent

_MANY_LABELS = 2**16  # rows times values of discrete sites


def pays_conjugate(target: Target, batch: Batch, key: Array) -> bool:
    """Whether `guide="auto"` takes the closed form: for many discrete labels, if there is one.

    A pass over all rows then takes longer than the program takes to be read; coordinate ascent
    needs tens of passes, the search over Gaussians thousands.
    """
    if target.marginalized.entries < _MANY_LABELS or target.subsampled:
        return False
    if jax.eval_shape(target.functions.initialize, key, batch)[0]:  # `param` sites
        return False
    try:
        target.functions.conjugate_plan(True, frozenset(), None, False)
        check_reading(target.conjugate, batch, key)
    except GuideError:
        return False
    return True


def conjugate_algorithm(
    problem: Problem,
    algorithm: Any,
    options: Mapping[str, Any],
    stepwise: bool,
    random_init: bool,
) -> tuple[Any, bool]:
    """The algorithm of a guide with a conjugate part, and whether it takes steps.

    Args:
        problem: the problem; one with another guide keeps what is given.
        algorithm: that the user chose.
        options: of `fit`.
        stepwise: whether other guides take steps, by these options.
        random_init: whether the user gave no initial values.

    Raises:
        ValueError: an option does not apply; names it and what applies instead.
        GuideError: the model was not read correctly.
    """
    guide, number = problem.guide, conjugate_part(problem.guide)
    if number is not None:
        _check_algorithm(options, PartlyConjugate, "PartlyConjugate", "a part of the sites")
        _check_unused(options, ("objective", "precision"), "Leave it out.")
        names = guide.parts[number][0]  # type: ignore[attr-defined]
        check_reading(*problem.sample, problem.key, names)
        if algorithm == "auto":
            algorithm = partly_conjugate(options["num_particles"], options["optimizer"])
        return algorithm, stepwise
    if not isinstance(guide, BoundConjugate):
        return algorithm, stepwise
    unused = ("objective", "optimizer", "num_particles", "precision")
    if problem.schedule.subsampled:
        _check_unused(options, unused, "Leave it out.")
        _check_algorithm(options, StochasticVI, "StochasticVI", "minibatches")
        return algorithm, True
    remedy = (
        "num_steps= is the number of sweeps, num_restarts= that of starts; batch_size= takes "
        "steps on minibatches."
    )
    _check_unused(options, (*unused, "checkpoint"), remedy)
    if options["callbacks"]:
        raise ValueError(
            "callbacks: expected none with guide='conjugate' on all data, which is fitted in one "
            "program. Use batch_size=, or read posterior.losses: one per sweep."
        )
    _check_algorithm(options, Solver, "solver", "all data")
    counts = options["num_steps"], options["num_restarts"]
    return coordinate_ascent(algorithm, *counts, random_init), False


def _check_unused(options: Mapping[str, Any], names: tuple[str, ...], remedy: str) -> None:
    for name in names:
        if options[name] is not None:
            raise ValueError(
                f"{name}: expected None with guide='conjugate', whose updates are in closed form, "
                f"got {options[name]!r}. {remedy}"
            )


def _check_algorithm(options: Mapping[str, Any], kind: Any, name: str, where: str) -> None:
    algorithm = options["algorithm"]
    if isinstance(algorithm, str):
        algorithm = by_name(algorithm) or algorithm
    if algorithm != "auto" and not isinstance(algorithm, kind):
        raise ValueError(
            f"algorithm: expected a {name} for guide='conjugate' on {where}, got {algorithm!r}. "
            "Leave it out."
        )
