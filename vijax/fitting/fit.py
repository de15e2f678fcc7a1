"""`fit`: trace the model, choose guide and algorithm, run, assess_solution."""

from __future__ import annotations

import dataclasses
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax
from jax.sharding import Mesh

from vijax.auto.centering import DENSE_DIM, learns_centering
from vijax.auto.minibatch import applies, with_mean_field
from vijax.contracts import Algorithm, Batch, Objective, PyTree, Solver, Target
from vijax.data.arrays import opened
from vijax.engine.count_bounds import with_count_bounds
from vijax.engine.problem import Problem
from vijax.fitting import options as _options
from vijax.fitting.initial_values import first_variables, model_state
from vijax.fitting.routes import (
    FitStart,
    GradientOptions,
    Monitoring,
    by_direct_solver,
    by_gradient_steps,
    by_refinement,
    by_search,
)
from vijax.guides import named_discrete, resolve
from vijax.guides.structured.plates import suits_batches
from vijax.model import (
    batch_request,
    build_marginalized,
    check_batches,
    check_data,
    check_sources,
    shard_data,
    shard_target,
    split,
    unwrap,
)
from vijax.model.centering import requested_weights
from vijax.objectives import ScoreELBO
from vijax.posterior.posterior import Posterior
from vijax.runtime.errors import ModelError
from vijax.runtime.keys import as_key
from vijax.runtime.memory import named_memory
from vijax.solvers import by_name, default_solver
from vijax.storage.checkpoint import Checkpoint

_FULL_RANK_STEPS_DIM = 20  # largest at which batches can tell a covariance: noise grows with it
_STEPWISE = (
    "objective",
    "optimizer",
    "num_steps",
    "num_particles",
    "num_restarts",
    "precision",
    "checkpoint",
)


@named_memory(
    "fit",
    "Take steps on some of the rows with batch_size=, read them from disk (vijax.data), spread "
    "them over devices with mesh=, or fit a smaller guide ('meanfield', 'lowrank').",
)
def fit(
    model: Callable[..., Any],
    *args: Any,
    rng_key: Any = 0,
    guide: Any = "auto",
    algorithm: str | Algorithm | Solver = "auto",
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int | None = None,
    num_particles: int | None = None,
    num_restarts: int | None = None,
    precision: str | None = None,
    batch_size: int | Mapping[str, int] | None = None,
    batch_axes: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    init: Any = None,
    centering: Mapping[str, Any] | str | None = None,
    max_seconds: float | None = None,
    callbacks: Sequence[Callable[..., Any]] = (),
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress_bar: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Posterior:
    """Fits an approximate posterior to a NumPyro model.

    Args:
        model: a NumPyro model function.
        *args: its positional arguments. Arrays are data; anything else is configuration. With
            `batch_size=` large memory maps, sparse matrices and what `vijax.data` makes are read
            batch by batch, and never are in memory as a whole.
        rng_key: an int, a JAX key or a legacy key.
        guide: `"auto"`, `"meanfield"`, `"fullrank"`, `"lowrank"`, `"plates"`, `"markov"`,
            `"laplace"`, `"map"`, `"flow"` or the name of one (`"realnvp"`, `"nsf"`, `"iaf"`, ...),
            a vijax guide, `{site or tuple of sites: any of these}`, a NumPyro autoguide or guide
            function.
        algorithm: `"auto"`, `"gradient"`, the name of a solver (`"pathfinder"`,
            `"batch_and_match"`, `"variational_newton"`, `"structured_newton"`, `"fixed_draws"`,
            `"laplace"`, `"mode"`), an `Algorithm` or a `Solver`.
        objective: what to minimize; the negative ELBO by default.
        optimizer: any optax transformation; Adam with a step size found by a short pilot by
            default.
        num_steps: gradient steps; `None` runs until converged.
        num_particles: draws per gradient step; by default 1, for flows 64.
        num_restarts: independent starts run side by side, the best kept by a fresh ELBO.
        precision: `"bfloat16"` takes the model's matrix products and convolutions in it, forwards
            and backwards, in gradient steps: for networks on accelerators. Parameters, optimizer,
            sums and log densities stay in float32, and so does everything after the last step.
        batch_size: rows of each gradient step, for a model written for all rows: of the plate
            round the data, or `{plate: rows}`. The arrays that run along the plate are cut and
            its sites scaled up; that no row depends on the others is checked.
        batch_axes: by array, the axis that runs along the plate, `{plate: axis}`, or `None` for
            one that is not cut; by default the axes as long as the plate.
        mesh: devices to spread a fit over, a `jax.sharding.Mesh`: restarts along its axis
            `"restarts"`, draws along `"particles"`, rows of the data, and parameters that belong
            to them, along all others.
        init: start values by site (constrained), a NumPyro `init_to_*` strategy, or an earlier
            `Posterior`: all that its guide has in common with this one, what an amortized guide
            infers with parameters for each row, `param` sites and mutable state.
        centering: by hierarchical site, weights from 0 (non-centered) to 1 (as the model has it) of
            the coordinates it is fitted in: a number, or one per coordinate; or `"learned"`. By
            default learned for `guide="auto"`, the model's own for any other guide. Draws are the
            same either way.
        max_seconds: wall-clock limit.
        callbacks: called as `callback(state, losses, step)` a few times a second; raising
            `StopIteration` ends the fit.
        checkpoint: a directory in which the fit writes down how far it is, every 30 seconds or as
            a `Checkpoint` says; from what it finds there already it goes on. For gradient steps:
            direct solvers take seconds.
        progress_bar: whether to show one on a terminal.
        model_kwargs: keyword arguments of the model that clash with an option.
        **kwargs: the model's keyword arguments.

    Returns:
        A `Posterior`. Trouble on the way (no convergence, non-finite steps, Ctrl-C) is in its
        `status` and `report()`.

    Raises:
        ModelError: the model or its data cannot be fitted.
        GuideError: the guide does not fit the model.
        TypeError, ValueError: an option is unknown or has the wrong type or value.
        OutOfMemoryError: the device or the host has too little memory.
    """
    began = time.perf_counter()
    options = {name: value for name, value in locals().items() if name in _DEFAULTS}
    model_kwargs = dict(model_kwargs or {})
    model, args, kwargs = unwrap(model, args, kwargs)
    _options.check_names(model, options, _DEFAULTS, kwargs, model_kwargs)
    _options.check_values(options)
    if isinstance(algorithm, str):
        algorithm = by_name(algorithm) or algorithm
    if not (checkpoint is None or isinstance(checkpoint, Checkpoint)):
        checkpoint = Checkpoint(checkpoint)

    problem = _posed(model, args, {**kwargs, **model_kwargs}, algorithm, options)
    if not problem.target.structure.differentiable and objective is None and algorithm == "auto":
        objective = options["objective"] = ScoreELBO()
    parameters, mutable = model_state(problem, init)
    if problem.target.subsampled:
        state = (problem.target, problem.batch, parameters, mutable)
        check_batches(*state, problem.arguments.sources)
    problem = with_count_bounds(problem, parameters, mutable)
    stepwise = any(options[name] is not None for name in _STEPWISE) or bool(callbacks)
    refines = (
        guide == "auto" == algorithm and not stepwise and applies(problem, parameters, mutable)
    )
    problem = with_mean_field(problem) if refines else problem
    solver = None if stepwise else _solver(algorithm, problem, parameters)
    named = guide != "auto" or algorithm is solver
    learns = learns_centering(centering, problem.guide, solver, algorithm == "auto")
    sought = solver is None or init is not None  # solvers look for better places themselves
    count = (num_restarts or 1) if sought else 0
    variables = first_variables(init, problem, parameters, mutable, count)
    begun = FitStart(problem, variables, mutable, began, init is None)
    ended: Posterior | FitStart = begun
    if solver is not None:
        if learns or (solver.maximizes_elbo and not named):
            ended = by_search(begun, max_seconds, progress_bar, named)
        else:
            ended = by_direct_solver(begun, solver, final=algorithm is solver)
    if isinstance(ended, Posterior):
        return ended
    if refines:
        return by_refinement(ended, max_seconds, progress_bar)
    steps = GradientOptions(
        algorithm, objective, optimizer, num_particles, num_steps, max_seconds, precision
    )
    watchers = Monitoring(tuple(callbacks), checkpoint, progress_bar)
    return by_gradient_steps(ended, steps, watchers, "correct" if guide == "auto" else "check")


def _posed(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    algorithm: Any,
    options: Mapping[str, Any],
) -> Problem:
    """The target and its data, checked, the guide and the key."""
    guide, batch_size, mesh = (options[name] for name in ("guide", "batch_size", "mesh"))
    by_batch = batch_size is not None
    args, kwargs = opened((args, kwargs), by_batch)
    arguments, data = split(model, args, kwargs, by_batch)
    wanted = batch_request(batch_size, options["batch_axes"])
    target = build_marginalized(model, arguments, wanted, named_discrete(guide))
    target = target if mesh is None else shard_target(target, arguments, mesh)
    check_sources(target, arguments.sources)
    batch = Batch(data, centering=requested_weights(target, options["centering"]))
    if guide == "auto":
        own = algorithm.own_guide if isinstance(algorithm, Algorithm) else None
        guide = own or _auto(target)
    chosen = resolve(guide, target, model, arguments)
    problem = Problem(model, arguments, target, chosen, batch, as_key(options["rng_key"]))
    check_data(problem.sample[0], arguments, problem.sample[1])
    if mesh is None:
        return problem
    return dataclasses.replace(problem, batch=batch._replace(data=shard_data(target, data)))


_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(fit).parameters.items()
    if parameter.default is not parameter.empty
}


def _auto(target: Target) -> Any:
    """The guide behind `"auto"`: the richest whose cost suits the dimension.

    Latents of a plate that is cut into batches have a block for each row, conditioned on the shared
    ones, or are independent of one another where that would cost too much. So are discrete sites
    that are not summed out, see `guides.resolve`.
    """
    sites = target.space.continuous.sites
    if not sites:
        return "discrete"
    by_row = tuple(site.name for site in sites if site.axes(target.subsampled).pairs)
    dim = sum(site.size for site in sites if site.name not in by_row)
    if not target.subsampled:
        return "fullrank" if dim <= DENSE_DIM else "lowrank"
    if dim > _FULL_RANK_STEPS_DIM:
        return "meanfield"
    if not by_row:
        return "fullrank"
    if suits_batches(target.space.continuous, target.subsampled):
        return "plates"
    return {by_row: "meanfield", ...: "fullrank"} if dim else "meanfield"


def _solver(algorithm: Any, problem: Problem, parameters: dict[str, PyTree]) -> Solver | None:
    """The direct solver for this fit, `None` where gradient steps are to be taken."""
    if isinstance(algorithm, Solver):
        if problem.schedule.subsampled:
            raise ModelError(
                "algorithm: a solver needs the full data, but the model subsamples the plate "
                f"{next(iter(problem.schedule.subsampled))!r}. Use algorithm='gradient'."
            )
        return algorithm
    if algorithm != "auto" or problem.schedule.subsampled:
        return None
    solver = default_solver(problem.guide, problem.target.space.dim)
    # solvers for the ELBO hold `param` sites fixed; gradient steps fit them along
    return None if solver is not None and solver.maximizes_elbo and parameters else solver
