"""`fit`: traces the model, chooses guide and algorithm, runs it and assesses the result."""

from __future__ import annotations

import dataclasses
import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from vijax.algorithms import NaturalGradient
from vijax.auto.centering import DENSE_DIM, learns_centering
from vijax.auto.minibatch import can_refine, with_mean_field
from vijax.contracts import Algorithm, Batch, Guide, Objective, PyTree, Solver, Target
from vijax.data.arrays import as_row_sources
from vijax.diagnostics.assessment import Chains
from vijax.engine.count_bounds import with_count_bounds
from vijax.engine.problem import Problem
from vijax.fitting import options as _options
from vijax.fitting.conjugate import conjugate_algorithm, pays_conjugate
from vijax.fitting.holdout import check_held_out, held_out_rows
from vijax.fitting.initial_values import initial_variables, model_state
from vijax.fitting.methods import (
    FitStart,
    GradientOptions,
    Monitoring,
    initial_answer,
    run_direct_solver,
    run_gradient_steps,
    run_refinement,
    run_search,
)
from vijax.fitting.stochastic_bounds import check_stochastic_bounds
from vijax.guides import Laplace, discrete_guide_sites, resolve
from vijax.guides.conjugate import Conjugate, target_for
from vijax.guides.structured.plates import plates_affordable_on_batches
from vijax.model import (
    Call,
    batch_request,
    bound_arguments,
    check_batches,
    check_data,
    check_indices,
    check_sources,
    model_remarks,
    own_coords,
    shard_data,
    shard_target,
    split_and_build,
    unwrap,
)
from vijax.model.centering import requested_weights
from vijax.posterior.finish import finish_initial
from vijax.posterior.held_out import with_predictions
from vijax.posterior.labels import checked_coords
from vijax.posterior.posterior import Posterior
from vijax.posterior.result import FitResult
from vijax.posterior.update import register_fit
from vijax.runtime.deadline import keep_answer
from vijax.runtime.errors import ModelError, warn
from vijax.runtime.interrupt import best_answer
from vijax.runtime.keys import RngKey, as_key
from vijax.runtime.memory import explain_out_of_memory
from vijax.runtime.progress import show_progress, stage
from vijax.runtime.stopwatch import spent_on
from vijax.solvers import default_solver
from vijax.solvers.curvature.checks import check_curvature
from vijax.storage.checkpoint import Checkpoint

_FULL_RANK_STEPS_DIM = 20  # largest dimension for full-rank gradient steps on minibatches
_GRADIENT_OPTIONS = (
    "objective",
    "optimizer",
    "num_steps",
    "num_particles",
    "num_restarts",
    "precision",
    "checkpoint",
)


@explain_out_of_memory(
    "fit",
    "Use minibatches with batch_size=, read rows from disk (vijax.data), shard them over devices "
    "with mesh=, or fit a smaller guide ('meanfield', 'lowrank').",
)
def fit(
    model: Callable[..., Any],
    *args: Any,
    rng_key: RngKey = 0,
    guide: str | Guide | Mapping[Any, Any] | Callable[..., Any] = "auto",
    algorithm: str | Algorithm | Solver = "auto",
    objective: Objective | None = None,
    optimizer: Any = None,
    num_steps: int | None = None,
    num_particles: int | None = None,
    num_restarts: int | None = None,
    precision: str | None = None,
    batch_size: int | Mapping[str, int] | None = None,
    batch_axes: Mapping[str, Any] | None = None,
    mesh: Mesh | None = None,
    init: Mapping[str, Any] | Callable[..., Any] | Posterior | None = None,
    centering: Mapping[str, Any] | str | None = None,
    max_seconds: float | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    holdout: float | tuple[Any, ...] | Mapping[str, Any] | None = None,
    callbacks: Sequence[Callable[..., Any]] = (),
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress_bar: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Posterior:
    """Fits an approximate posterior to a NumPyro model.

    Args:
        model: a NumPyro model function.
        *args: its positional arguments. Arrays are data, other values configuration. Of a data
            frame (pandas, polars, pyarrow) the model gets the columns by name, labels as integer
            codes, see `vijax.data.columns`. With `batch_size=`, large memory maps, sparse matrices
            and row sources of `vijax.data` are read batch by batch and never loaded in full.
        rng_key: an int, a JAX key or a legacy key.
        guide: `"auto"`, `"meanfield"`, `"fullrank"`, `"lowrank"`, `"plates"`, `"markov"`,
            `"laplace"`, `"map"`, `"flow"` or the name of a flow (`"realnvp"`, `"nsf"`, `"iaf"`,
            ...), a vijax guide, `{site, pattern or tuple of sites: any of these}`, a NumPyro
            autoguide or guide function.
        algorithm: `"auto"`, `"gradient"`, `"natural"` (see `vijax.algorithms.NaturalGradient`),
            `"ivon"`, `"swag"`, `"sghmc"` (see `vijax.algorithms.IVON`, `SWAG` and `SGHMC`), the
            name of a solver (`"pathfinder"`, `"batch_and_match"`, `"variational_newton"`,
            `"structured_newton"`, `"fixed_draws"`, `"laplace"`, `"mode"`,
            `"expectation_propagation"`), an `Algorithm` or a `Solver`.
        objective: the loss; by default the negative ELBO.
        optimizer: any optax transformation, or an optimizer of `numpyro.optim`; by default Adam
            with a learning rate chosen by short pilot runs.
        num_steps: number of gradient steps; `None` runs until converged.
        num_particles: Monte Carlo draws per gradient step; by default 1, for flows 64.
        num_restarts: number of independent runs in parallel; the one with the largest ELBO, on
            fresh draws, is returned.
        precision: `"bfloat16"` computes the model's matrix products and convolutions, forward and
            backward, in bfloat16 during gradient steps: for neural networks on accelerators.
            Parameters, optimizer, sums and log densities stay in float32, as does everything after
            the last step.
        batch_size: minibatch size, for a model written for the full data: rows of the plate around
            the data, or `{plate: rows}`. Arrays are subsampled along the plate and its sites
            rescaled. It is checked that rows are conditionally independent.
        batch_axes: by array, the axis along the plate, `{plate: axis}`, or `None` for an array that
            is not subsampled; by default the axes as long as the plate.
        mesh: a `jax.sharding.Mesh` of devices. Restarts are sharded along its axis `"restarts"`,
            Monte Carlo draws along `"particles"`, rows of the data and per-row parameters along all
            others.
        init: initial values by site (constrained), a NumPyro `init_to_*` strategy, or an earlier
            `Posterior` for a warm start: the parameters of all parts that both guides have in
            common (an amortized guide is evaluated to per-row parameters), `param` sites and
            mutable state.
        centering: parametrization of hierarchical sites: by site, weights from 0 (non-centered) to
            1 (as in the model), a number or one per coordinate; or `"learned"`. By default learned
            for `guide="auto"` and as in the model for any other guide. Draws are always of the
            sites of the model.
        max_seconds: wall-clock limit, compilation included. Loops end at it, and checks that would
            take longer are left out, so that the status may be lower than with more time. It is
            kept to about two seconds, or the compilation of one program, see `stop_reason`.
        coords: labels of the elements of sites, by dimension: the name of a plate, or `site_dim_0`,
            `site_dim_1`, ... outside of plates (as in ArviZ). Summaries, figures and the `DataTree`
            have them. A plate of the groups of a categorical column has its labels by default.
        holdout: rows that check predictions: a share, such as 0.1, that is held out of the fit at
            random (of the arrays as long as the first), or the model's arguments at other rows: a
            tuple of the first ones, or a mapping by name. They decide the status of networks: the
            log score against the point estimate of their weights, calibration, and whether restarts
            agree. For other models they judge the model, and the report has them.
        callbacks: called as `callback(state, losses, step)` a few times a second; raising
            `StopIteration` ends the fit.
        checkpoint: a directory in which gradient steps save their state every 30 seconds, or a
            `Checkpoint`. If it holds a checkpoint of the same fit, the fit continues from there.
            Direct solvers, which take seconds, save none and are not used.
        progress_bar: whether to show the current stage and its progress on a terminal.
        model_kwargs: keyword arguments of the model whose names are also options.
        **kwargs: the model's keyword arguments.

    Returns:
        A `Posterior`. Non-convergence, non-finite steps and interruptions are reported in its
        `status` and `report()`. Ctrl-C returns the best one so far within about two seconds.

    Raises:
        ModelError: the model or its data cannot be fitted.
        GuideError: the guide does not suit the model.
        TypeError, ValueError: an option is unknown or has the wrong type or value.
        OutOfMemoryError: the device or the host has too little memory.
        KeyboardInterrupt: Ctrl-C was pressed twice, or before the model was traced.
    """
    start_time = time.perf_counter()
    options = {name: value for name, value in locals().items() if name in DEFAULTS}
    model_kwargs = dict(model_kwargs or {})
    options = _options.checked(model, (args, kwargs), options, DEFAULTS, model_kwargs)
    call = args, {**kwargs, **model_kwargs}

    with show_progress(progress_bar):
        return Posterior(run_fit(model, call, options, start_time, "fit"))


def run_fit(
    model: Callable[..., Any],
    call: Call,
    options: dict[str, Any],
    start_time: float,
    name: str | None = None,
) -> FitResult:
    """The result of a fit with options from `options.checked`.

    With the `name` of a public function it is the best one so far when its time ends.
    """
    call, held_out = held_out_rows(options["holdout"], model, call, options["rng_key"])

    def run() -> FitResult:
        found = _run(model, *call, options["algorithm"], options, start_time, held_out)
        return with_predictions(dataclasses.replace(found, held_out=held_out), options["rng_key"])

    found = run() if name is None else best_answer(run, options["max_seconds"], start_time, name)
    return dataclasses.replace(found, held_out=held_out)


def _run(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    algorithm: Any,
    options: dict[str, Any],
    start_time: float,
    held_out: Call | None,
) -> FitResult:
    """The result of a fit with checked options; what it has so far is kept for Ctrl-C."""
    guide, init = options["guide"], options["init"]
    with stage("tracing the model"), spent_on("trace"):
        problem = build_problem(model, args, kwargs, algorithm, options)
        check_held_out(held_out, problem.model, problem.arguments, problem.target)
        keep_answer(lambda: initial_answer(problem, start_time))
        objective = _options.objective_for(problem.target, problem.guide, options)
        options["objective"] = objective
        parameters, mutable = model_state(problem, init)
        if problem.target.subsampled:
            state = (problem.target, problem.batch, parameters, mutable)
            check_batches(*state, problem.arguments.sources)
        problem = with_count_bounds(problem, parameters, mutable)
    algorithm, stepwise = conjugate_algorithm(
        problem, algorithm, options, is_stepwise(options), random_init=init is None
    )
    refine = (
        guide == "auto" == algorithm and not stepwise and can_refine(problem, parameters, mutable)
    )
    problem = with_mean_field(problem) if refine else problem
    solver = None if stepwise else _solver(algorithm, problem, parameters)
    named = guide != "auto" or algorithm is solver
    learn = learns_centering(options["centering"], problem.guide, solver, algorithm == "auto")
    # solvers find better starts themselves
    needs_start = solver is None or init is not None or bool(problem.target.space.networks.sites)
    count = (options["num_restarts"] or 1) if needs_start else 0
    with stage("initial values"):
        variables = initial_variables(init, problem, parameters, mutable, count)
    start = FitStart(problem, variables, mutable, start_time, init is None)
    initial = (problem, variables[0], mutable, start_time)
    keep_answer(lambda: finish_initial(*initial))
    result: FitResult | FitStart = start
    if solver is not None:
        if learn or (solver.maximizes_elbo and not named):
            result = run_search(start, named)
        else:
            result = run_direct_solver(start, solver, final=algorithm is solver)
    if isinstance(result, FitResult):
        return result
    if refine:
        return run_refinement(result, options["max_seconds"])
    names = ("objective", "optimizer", "num_particles", "num_steps", "max_seconds", "precision")
    gradient_options = GradientOptions(algorithm, **{name: options[name] for name in names})
    monitoring = Monitoring(tuple(options["callbacks"]), options["checkpoint"])
    chains: Chains = "correct" if guide == "auto" else "check"
    return run_gradient_steps(result, gradient_options, monitoring, chains)


def build_problem(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    algorithm: Any,
    options: Mapping[str, Any],
) -> Problem:
    """The problem: the target with its validated data, the guide and the key."""
    bound = bound_arguments(model)
    labels = own_coords(model, options["coords"])
    model, args, kwargs = unwrap(model, args, kwargs)
    guide, batch_size, mesh = (options[name] for name in ("guide", "batch_size", "mesh"))
    by_batch = batch_size is not None
    args, kwargs = as_row_sources((args, kwargs), by_batch)
    subsampling = batch_request(batch_size, options["batch_axes"])
    sampled = discrete_guide_sites(guide)
    _options.check_not_traced(model, args, kwargs)
    arguments, data, target = split_and_build(model, args, kwargs, subsampling, sampled)
    for text in arguments.data_warnings:
        warn(f"{text}.")
    target = target if mesh is None else shard_target(target, arguments, mesh)
    check_sources(target, arguments.sources)
    batch = Batch(data, centering=requested_weights(target, options["centering"]))
    coords = checked_coords(labels, target, arguments, batch)
    arguments = dataclasses.replace(arguments, coords=coords, bound=bound)
    if guide == "auto":
        algorithm_guide: Guide | None = None
        if isinstance(algorithm, Algorithm):
            algorithm_guide = algorithm.default_guide
        elif isinstance(algorithm, Solver):
            algorithm_guide = algorithm.default_guide(target)
        natural = algorithm in ("natural", "ivon") or isinstance(algorithm, NaturalGradient)
        closed_form = algorithm == "auto" and mesh is None and not is_stepwise(options)
        if closed_form and pays_conjugate(target, batch, as_key(options["rng_key"])):
            algorithm_guide = Conjugate()
        named = algorithm_guide if target.space.sites else None
        guide = named or _default_guide(target, natural)
    final = resolve(guide, target, model, arguments)
    check_stochastic_bounds(target, final, algorithm, options["objective"])
    chosen = final.point_guide(target.space)
    if chosen is not final:
        check_curvature(target, batch)
    target = target_for(chosen, target)
    problem = Problem(model, arguments, target, chosen, batch, as_key(options["rng_key"]))
    problem = dataclasses.replace(problem, final=None if chosen is final else final)
    check_data(problem.sample[0], arguments, problem.sample[1])
    check_indices(problem.sample[0], arguments, problem.sample[1])
    remarks = model_remarks(model, args, kwargs, target, batch)
    for text in remarks.warnings:
        warn(f"{text}.")
    problem = dataclasses.replace(problem, remarks=remarks)
    if mesh is None:
        return problem
    return dataclasses.replace(problem, batch=batch._replace(data=shard_data(target, data)))


register_fit(fit)

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(fit).parameters.items()
    if parameter.default is not parameter.empty
}


def _default_guide(target: Target, natural: bool) -> Any:
    """The guide of `guide="auto"`: the most flexible one that is affordable in the dimension.

    Networks have independent weights. Local latent variables of a subsampled plate have a Gaussian
    for each row, conditional on the global ones, or are independent if that would cost too much.
    Discrete sites that are not marginalized are independent, see `guides.resolve`. With `natural`,
    for which there are no natural gradients of conditional or low-rank Gaussians, these are
    independent, too.
    """
    sites = target.space.continuous.sites
    if not sites:
        return "discrete" if target.space.sites else "map"
    local = tuple(site.name for site in sites if site.axes(target.subsampled).pairs)
    dim = sum(site.size for site in sites if site.name not in local)
    if target.space.networks.sites and not local:
        return "meanfield"
    if not target.subsampled:
        rest = "meanfield" if natural else "lowrank"
        return "fullrank" if dim <= DENSE_DIM else rest
    if dim > _FULL_RANK_STEPS_DIM:
        return "meanfield"
    if not local:
        return "fullrank"
    if not natural and plates_affordable_on_batches(target.space.continuous, target.subsampled):
        return "plates"
    return {local: "meanfield", ...: "fullrank"} if dim else "meanfield"


def is_stepwise(options: Mapping[str, Any]) -> bool:
    """Whether an option asks for gradient steps."""
    return bool(options["callbacks"]) or any(options[n] is not None for n in _GRADIENT_OPTIONS)


def _solver(algorithm: Any, problem: Problem, parameters: dict[str, PyTree]) -> Solver | None:
    """The direct solver for this fit, `None` for gradient steps."""
    if isinstance(algorithm, Solver):
        if problem.schedule.subsampled:
            raise ModelError(
                "algorithm: a solver needs the full data, but the model subsamples the plate "
                f"{next(iter(problem.schedule.subsampled))!r}. Use algorithm='gradient'."
            )
        return algorithm
    if algorithm != "auto" or problem.schedule.subsampled or problem.target.structure.bounds:
        return None
    networks = problem.target.space.networks.sites
    if networks and not isinstance(problem.guide, Laplace):
        return None  # gradient steps: solvers have neither dropout nor draws by row
    solver = default_solver(problem.guide, problem.target.space.dim)
    # solvers that maximize the ELBO hold `param` sites fixed; gradient steps fit them jointly
    return None if solver is not None and solver.maximizes_elbo and parameters else solver
