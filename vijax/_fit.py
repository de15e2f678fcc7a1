"""`fit`: trace the model, choose guide and algorithm, run, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax import Array

from vijax import _options, _starts
from vijax._batches import Rows
from vijax._contracts import Algorithm, Batch, Guide, Objective, Position, PyTree, Solver, Target, Variables
from vijax._engine import Budget, Engine
from vijax._keys import as_key
from vijax._posterior import Posterior, finish
from vijax._progress import Progress
from vijax.algorithms import Gradient, Optimizer
from vijax.guides import resolve
from vijax.model import Arguments, build, check_data, init_strategy, split, unwrap
from vijax.objectives import ELBO

_FULL_RANK_DIM = 500  # largest dimension at which d x d work stays cheap beside the model
_BASE_RATE = 0.05  # Adam's step size before the pilot
_PILOT_FACTORS = (1.0, 0.25, 0.0625, 0.015625)
_PILOT_STEPS = 100


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
    init: Any = None,
    max_seconds: float | None = None,
    callbacks: Sequence[Callable[..., Any]] = (),
    progress_bar: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Posterior:
    """Fits an approximate posterior to a NumPyro model.

    Args:
        model: a NumPyro model function.
        *args: its positional arguments. Arrays are data; anything else is configuration.
        rng_key: an int, a JAX key or a legacy key.
        guide: `"auto"`, `"meanfield"`, `"fullrank"`, `"lowrank"`, `"laplace"`, `"map"`, a vijax
            guide, `{site or tuple of sites: any of these}`, a NumPyro autoguide or guide function.
        algorithm: `"auto"`, or an `Algorithm` or `Solver`.
        objective: what to minimise; the negative ELBO by default.
        optimizer: any optax transformation; Adam with a step size found by a short pilot by
            default.
        num_steps: gradient steps; `None` runs until converged.
        num_particles: draws per gradient step, 1 by default.
        num_restarts: independent starts run side by side, the best kept by a fresh ELBO.
        init: start values by site (constrained), an earlier `Posterior`, or a NumPyro
            `init_to_*` strategy.
        max_seconds: wall-clock limit.
        callbacks: called as `callback(state, losses, step)` a few times a second; raising
            `StopIteration` ends the fit.
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
    """
    began = time.perf_counter()
    options = {name: value for name, value in locals().items() if name in _DEFAULTS}
    model_kwargs = dict(model_kwargs or {})
    model, args, kwargs = unwrap(model, args, kwargs)
    _options.check_names(model, options, _DEFAULTS, kwargs, model_kwargs)
    _check_values(num_steps, num_particles, num_restarts, max_seconds, objective, callbacks)

    arguments, data = split(model, args, {**kwargs, **model_kwargs})
    target = build(model, arguments)
    batch = Batch(data)
    check_data(target, arguments, batch)
    key = as_key(rng_key)
    rows = Rows(target.plates, int(np.ravel(jax.random.key_data(key))[-1]))
    chosen = resolve(_auto(target) if guide == "auto" else guide, target, model, arguments)

    parameters, mutable = _model_state(target, batch, key)
    first = batch._replace(index={n: t[0] for n, t in rows.table(0, 1).items()})
    starts = _positions(
        init, model, arguments, target, first, parameters, mutable, key, num_restarts or 1
    )
    variables = _variables(init, chosen, target, parameters, key, starts)
    stepper = _algorithm(algorithm, objective, optimizer, num_particles)
    engine = Engine(
        target, chosen, stepper, batch, rows, jax.random.fold_in(key, 3),
        anneal=optimizer is None or num_steps is None,
    )
    with Progress(progress_bar, num_steps) as bar:
        own = optimizer is None and not isinstance(algorithm, Algorithm)
        factor = _pilot(engine, variables[0], mutable) if own else 1.0
        run = engine.start(variables, mutable, [factor] * len(variables))
        run = engine.advance(run, Budget(num_steps, max_seconds), callbacks, bar)
    return finish(model, arguments, engine, run, began)


_DEFAULTS = {
    "rng_key": 0,
    "guide": "auto",
    "algorithm": "auto",
    "objective": None,
    "optimizer": None,
    "num_steps": None,
    "num_particles": None,
    "num_restarts": None,
    "init": None,
    "max_seconds": None,
    "callbacks": (),
    "progress_bar": True,
    "model_kwargs": None,
}


def _check_values(
    num_steps: Any,
    num_particles: Any,
    num_restarts: Any,
    max_seconds: Any,
    objective: Any,
    callbacks: Any,
) -> None:
    """Refuses counts that are not positive and combinations that contradict each other."""
    counts = {
        "num_steps": num_steps,
        "num_particles": num_particles,
        "num_restarts": num_restarts,
    }
    for name, value in counts.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1
        ):
            raise ValueError(f"{name}: expected a positive integer or None, got {value!r}.")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds: expected a positive number or None, got {max_seconds!r}.")
    if objective is not None and not callable(objective):
        raise TypeError(
            f"objective: expected a vijax objective such as ELBO(), got {type(objective).__name__}."
        )
    if objective is not None and num_particles is not None:
        raise ValueError("num_particles: set it in the objective, ELBO(num_particles=...).")
    if callable(callbacks) or not all(callable(one) for one in callbacks):
        raise TypeError("callbacks: expected a sequence of functions callback(state, losses, step).")


def _auto(target: Target) -> str:
    """The guide behind `"auto"`: the richest whose cost suits the dimension."""
    return "fullrank" if target.space.dim <= _FULL_RANK_DIM else "lowrank"


def _model_state(
    target: Target, batch: Batch, key: Array
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Start values of `param` sites and mutable state; runs nothing for models without them."""
    shapes = jax.eval_shape(target.initialise, key, batch)
    if not any(shapes):
        return {}, {}
    return target.program(_initialise)(jax.random.fold_in(key, 1), batch)


def _initialise(target: Target, key: Array, batch: Batch) -> Any:
    return target.initialise(key, batch)


def _positions(
    init: Any,
    model: Callable[..., Any],
    arguments: Arguments,
    target: Target,
    batch: Batch,
    parameters: dict[str, PyTree],
    mutable: dict[str, PyTree],
    key: Array,
    count: int,
) -> list[Position]:
    """One start a restart, in unconstrained space."""
    key = jax.random.fold_in(key, 2)
    state = (batch, parameters, mutable)
    if init is None:
        return _starts.random_starts(target, *state, key, count)
    if isinstance(init, Posterior):
        values = init.center()
        values = {name: values[name] for name in target.space.names if name in values}
    elif isinstance(init, Mapping):
        values = dict(init)
    elif callable(init):
        values = _starts.strategy_start(init_strategy(model, arguments, init), key, batch)
        values = {name: values[name] for name in target.space.names}
    else:
        raise TypeError(
            "init: expected start values by site, a Posterior or a NumPyro init_to_* strategy, "
            f"got {type(init).__name__}."
        )
    start = _starts.given_start(target, *state, key, values)
    moved = [
        _starts.jitter(target.space, start, jax.random.fold_in(key, i)) for i in range(1, count)
    ]
    return [start, *moved]


def _variables(
    init: Any,
    guide: Guide,
    target: Target,
    parameters: dict[str, PyTree],
    key: Array,
    starts: list[Position],
) -> list[Variables]:
    """The variables at every start; the first continues an earlier posterior of the same guide."""
    variables = [
        Variables(guide.init(jax.random.fold_in(key, 100 + i), target.space, start), parameters)
        for i, start in enumerate(starts)
    ]
    if isinstance(init, Posterior) and init.guide == guide and init.target.space == target.space:
        variables[0] = init.variables
    return variables


def _algorithm(
    algorithm: Any,
    objective: Objective | None,
    optimizer: optax.GradientTransformation | None,
    num_particles: int | None,
) -> Algorithm:
    """The algorithm asked for, gradient descent by default."""
    if isinstance(algorithm, Algorithm):
        if objective is not None or optimizer is not None or num_particles is not None:
            raise ValueError(
                "algorithm: objective, optimizer and num_particles belong to it; set them there."
            )
        return algorithm
    if algorithm not in ("auto", "gradient"):
        raise ValueError(
            f"algorithm: expected 'auto', 'gradient', an Algorithm or a Solver, got {algorithm!r}."
        )
    return Gradient(
        objective or ELBO(num_particles or 1),
        Optimizer(optimizer if optimizer is not None else optax.adam(_BASE_RATE)),
    )


def _pilot(engine: Engine, variables: Variables, mutable: dict[str, PyTree]) -> float:
    """The step-size factor whose short trial ends lowest; larger ones win ties."""
    scores = [
        engine.trial(engine.start([variables], mutable, [factor]), _PILOT_STEPS)
        for factor in _PILOT_FACTORS
    ]
    return _PILOT_FACTORS[int(np.argmin(scores))]
