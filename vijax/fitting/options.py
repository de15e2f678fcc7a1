"""Validation of the options of `fit`: names, values, and clashes with the model's arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vijax.algorithms import SGHMC, SWAG, Gradient, Optimizer
from vijax.contracts import Algorithm, Guide, Objective, Solver, Target
from vijax.guides.numpyro import as_optax
from vijax.model import Call, unwrap
from vijax.objectives import ScoreELBO
from vijax.runtime.checks import check_count
from vijax.runtime.device_layout import RESTARTS, mesh_layout
from vijax.runtime.errors import ArgumentError, GuideError
from vijax.runtime.keywords import did_you_mean, merged
from vijax.runtime.precision import check_precision
from vijax.solvers import by_name
from vijax.storage.checkpoint import Checkpoint

# algorithms by name whose steps are not those of an optimizer on an objective
_OWN_STEPS = {"natural": "NaturalGradient", "ivon": "IVON", "swag": "SWAG", "sghmc": "SGHMC"}


def checked(
    model: Callable[..., Any],
    call: Call,
    options: dict[str, Any],
    defaults: Mapping[str, Any],
    model_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """The options of `fit` with their values checked, names replaced by what they stand for.

    Args:
        model: the model function.
        call: its arguments, without those in `model_kwargs`.
        options: the value of each option.
        defaults: the default of each option.
        model_kwargs: the `model_kwargs` option.

    Raises:
        TypeError, ValueError: an option is unknown or has the wrong type or value.
    """
    function, _, keywords = unwrap(model, *call)
    check_names(function, options, defaults, keywords, model_kwargs)
    check_values(options)
    options = options | {"optimizer": as_optax(options["optimizer"])}
    options["algorithm"] = by_algorithm_name(options)
    checkpoint = options["checkpoint"]
    if not (checkpoint is None or isinstance(checkpoint, Checkpoint)):
        options["checkpoint"] = Checkpoint(checkpoint)
    return options


def check_names(
    model: Callable[..., Any],
    options: Mapping[str, Any],
    defaults: Mapping[str, Any],
    kwargs: Mapping[str, Any],
    model_kwargs: Mapping[str, Any],
) -> None:
    """Checks that every keyword is either an option of `fit` or an argument of the model.

    Args:
        model: the model function.
        options: the value of each option.
        defaults: the default of each option.
        kwargs: keywords that are not options.
        model_kwargs: the `model_kwargs` option.

    Raises:
        TypeError: a keyword is neither an option nor an argument of the model (the message suggests
            the right name), or it is both.
    """
    merged(kwargs, model_kwargs)  # none is given twice
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):
        return
    for name, value in options.items():
        plain = isinstance(value, (int, str, tuple, type(None)))  # arrays compare elementwise
        given = value is not defaults[name] and not (plain and value == defaults[name])
        if given and name in parameters and name not in model_kwargs:
            raise TypeError(
                f"{name!r} is an option of fit and an argument of the model. Pass the model's as "
                f"model_kwargs={{{name!r}: ...}}; a keyword of that name is the option of fit."
            )
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in kwargs:
        if name in parameters:
            continue
        hint = did_you_mean(name, [*options, *parameters])
        raise TypeError(
            f"fit() got {name!r}, which is neither one of its options nor an argument of the "
            f"model.{hint} Options: {', '.join(options)}. Model arguments: {', '.join(parameters)}."
        )


def check_values(options: Mapping[str, Any]) -> None:
    """Checks the values of options, and that they do not contradict each other.

    Raises:
        ValueError, TypeError: naming the option.
    """
    for name in ("num_steps", "num_particles", "num_restarts"):
        check_count(name, options[name], optional=True)
    check_precision(options["precision"])
    seconds = options["max_seconds"]
    if seconds is not None and not (isinstance(seconds, (int, float)) and seconds > 0):
        raise ValueError(f"max_seconds: expected a positive number or None, got {seconds!r}.")
    if seconds is not None and options["mesh"] is not None and jax.process_count() > 1:
        raise ValueError(
            f"max_seconds: expected None with {jax.process_count()} processes, whose clocks differ "
            "so that they would stop at different steps. Use num_steps."
        )
    _check_mesh(options["mesh"], options["num_restarts"])
    objective, callbacks = options["objective"], options["callbacks"]
    if objective is not None and not callable(objective):
        raise TypeError(
            f"objective: expected a vijax objective such as ELBO(), got {type(objective).__name__}."
        )
    if callable(callbacks) or not all(callable(one) for one in callbacks):
        raise TypeError(
            "callbacks: expected a sequence of functions callback(state, losses, step)."
        )
    _check_algorithm(options)
    if isinstance(options["algorithm"], str) and options["algorithm"] in _OWN_STEPS:
        _check_own_steps(options)
    if objective is not None and options["num_particles"] is not None:
        raise ValueError("num_particles: set it in the objective, ELBO(num_particles=...).")


def objective_for(target: Target, guide: Guide, options: Mapping[str, Any]) -> Objective | None:
    """The objective: by default with score functions where draws or the model have no gradient.

    Raises:
        GuideError: draws of a site have no gradient, and the objective needs one.
    """
    algorithm, objective = options["algorithm"], options["objective"]
    scored = guide.without_pathwise_gradient
    if (
        objective is None
        and algorithm == "auto"
        and (scored or not target.structure.differentiable)
    ):
        number = options["num_particles"]
        return ScoreELBO() if number is None else ScoreELBO(number)
    used = algorithm.objective if isinstance(algorithm, Gradient) else objective
    if scored and not isinstance(used, ScoreELBO):
        what = algorithm if used is None else type(used).__name__
        raise GuideError(
            f"{guide!r}, site {scored[0]!r}: its distribution has no reparameterized sampler, so "
            f"that its draws have no gradient, which {what} needs. Use "
            "vijax.objectives.ScoreELBO(), the default objective of such a guide, or a "
            "reparameterized distribution."
        )
    return objective


def _check_mesh(mesh: Any, num_restarts: int | None) -> None:
    """Checks the mesh, and that it divides the number of restarts."""
    size = mesh_layout(mesh).size(RESTARTS) if mesh is not None else 1
    if (num_restarts or 1) % size:
        raise ValueError(
            f"num_restarts: expected a multiple of {size}, the length of the mesh's axis "
            f"{RESTARTS!r}, got {num_restarts}."
        )


def _check_algorithm(options: Mapping[str, Any]) -> None:
    """Checks the algorithm, and that options it does not use are not given."""
    algorithm = options["algorithm"]
    if isinstance(algorithm, str):
        algorithm = by_name(algorithm)  # None leaves the choice to `fit`
    elif not isinstance(algorithm, (Algorithm, Solver)):
        raise TypeError(
            f"algorithm: expected a name, an Algorithm or a Solver, got {type(algorithm).__name__}."
        )
    if algorithm is None:
        return
    if isinstance(algorithm, Solver) and options["precision"] is not None:
        raise ValueError(
            f"precision: expected gradient steps, got {algorithm!r}, which evaluates the model in "
            "full precision only. Use algorithm='gradient'."
        )
    for name in ("objective", "optimizer", "num_particles", "precision"):
        if options[name] is not None:
            raise ValueError(f"{name}: it belongs to the algorithm {algorithm!r}; set it there.")
    if isinstance(algorithm, Solver):
        for name in ("num_steps", "num_restarts", "callbacks", "checkpoint"):
            if options[name]:
                raise ValueError(f"{name}: {algorithm!r} takes no gradient steps; leave it out.")


def _check_own_steps(options: Mapping[str, Any]) -> None:
    """Checks that options of gradient steps that other steps lack are not given."""
    algorithm = options["algorithm"]
    elbo, density = "maximizes the ELBO", "takes the gradient of the log joint density"
    unused = {"objective": elbo if algorithm in ("natural", "ivon") else density}
    if algorithm != "natural":
        unused["num_particles"] = "evaluates one point a step, or one for each chain"
    if algorithm in ("natural", "ivon"):
        unused["optimizer"] = f"has a step size of its own, {_OWN_STEPS[algorithm]}(rate=...)"
    for name, instead in unused.items():
        if options[name] is not None:
            raise ValueError(
                f"{name}: expected None with algorithm={algorithm!r}, which {instead}, got "
                f"{type(options[name]).__name__}. Leave it out, or use algorithm='gradient'."
            )


def by_algorithm_name(options: Mapping[str, Any]) -> Any:
    """The algorithm: a solver, or one with a guide of its own, by name; others as they are."""
    algorithm = options["algorithm"]
    if not isinstance(algorithm, str):
        return algorithm
    if algorithm in ("swag", "sghmc"):
        given = {"precision": options["precision"]}
        if options["optimizer"] is not None:
            given["optimizer"] = Optimizer(options["optimizer"])
        return SWAG(**given) if algorithm == "swag" else SGHMC(**given)
    return by_name(algorithm) or algorithm


def check_not_traced(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Refuses a fit inside a transformation of JAX, which has no values on which to decide.

    Raises:
        ArgumentError: an argument of the model is traced, or the fit is inside `jax.jit`.
    """
    names = [*inspect.signature(model).parameters][: len(args)]
    named = [*zip(names, args, strict=False), *kwargs.items()]
    traced = [
        f"argument {name!r}"
        for name, value in named
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))
    ]
    if not traced and isinstance(jax.device_put(0.0), jax.core.Tracer):
        traced = ["fit"]
    if traced:
        raise ArgumentError(
            f"{traced[0]}: expected values, got a traced array: fit cannot run inside jax.jit, "
            "jax.vmap, jax.grad or a loop of jax.lax, since the data decide what it computes. "
            "Call it outside, and transform posterior.log_prob or draws of posterior.sample."
        )
