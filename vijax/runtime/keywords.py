"""Errors for keywords that do not exist, with the name that was probably meant."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T", bound=type)

# names in PyMC, Stan, Pyro, NumPyro, ArviZ or scikit-learn, and their equivalents here
_EQUIVALENTS = {
    "callback": "callbacks",
    "credible_interval": "ci_prob",
    "draws": "num_draws",
    "family": "guide",
    "filter_vars": "sites",
    "grad_samples": "num_particles",
    "hdi_prob": "ci_prob",
    "init_loc_fn": "init",
    "init_params": "init",
    "init_strategy": "init",
    "init_values": "init",
    "inits": "init",
    "initvals": "init",
    "iter": "num_steps",
    "key": "rng_key",
    "learning_rate": "optimizer=optax.adam(...)",
    "loss": "objective",
    "lr": "optimizer=optax.adam(...)",
    "max_iter": "num_steps",
    "max_time": "max_seconds",
    "method": "guide",
    "n_draws": "num_draws",
    "n_iter": "num_steps",
    "n_particles": "num_particles",
    "n_restarts": "num_restarts",
    "n_samples": "num_draws",
    "n_steps": "num_steps",
    "num_elbo_draws": "num_particles",
    "num_iterations": "num_steps",
    "num_samples": "num_draws",
    "obj_optimizer": "optimizer",
    "optim": "optimizer",
    "prob": "ci_prob",
    "progress": "progress_bar",
    "progressbar": "progress_bar",
    "random_seed": "rng_key",
    "random_state": "rng_key",
    "redraw": "from_prior",
    "rng": "rng_key",
    "rng_seed": "rng_key",
    "samples": "num_draws",
    "seed": "rng_key",
    "size": "num_draws",
    "start": "init",
    "step_size": "optimizer=optax.adam(...)",
    "steps": "num_steps",
    "timeout": "max_seconds",
    "var_names": "sites",
    "verbose": "progress_bar",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean '...'?` with the one of `known` that `name` stands for, or an empty string."""
    names = list(known)
    equivalent = _EQUIVALENTS.get(name)
    if equivalent is None or equivalent.partition("=")[0] not in names:
        equivalent = next(iter(difflib.get_close_matches(name, names, n=1)), None)
    return f" Did you mean {equivalent!r}?" if equivalent else ""


def merged(kwargs: Mapping[str, Any], model_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """A model's keyword arguments with those that were passed in `model_kwargs`.

    Raises:
        TypeError: one was given twice.
    """
    other = dict(model_kwargs or {})
    twice = sorted(kwargs.keys() & other.keys())
    if twice:
        raise TypeError(
            f"model argument {twice[0]!r} was given twice, directly and in model_kwargs."
        )
    return {**kwargs, **other}


def argument_names(model: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names of a model's arguments, for errors; `None` if it takes any keyword."""
    try:
        parameters = inspect.signature(model).parameters
    except (TypeError, ValueError):
        return None
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return None if any_name else tuple(parameters)


def explain_keywords(function: _F) -> _F:
    """Decorator: explains a keyword that the function does not have, and a key by position.

    A method with `*args` takes the arguments of a model, whose names are those of its
    `_model_arguments()`, `None` if the model takes any.
    """
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    kinds = {p.kind for p in parameters}
    takes_model_arguments = inspect.Parameter.VAR_POSITIONAL in kinds
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds and not takes_model_arguments

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if "rng_key" in names and any(_is_key(one) for one in args):
            raise TypeError(f"{function.__name__}: pass the key by name, rng_key=...")
        unknown = [] if takes_any else [name for name in kwargs if name not in names]
        if unknown:
            of_model = args[0]._model_arguments() if takes_model_arguments else ()
            if of_model is not None:
                options = [name for name in names if name != "self"]
                _check(function.__name__, unknown, options, of_model)
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def explain_keywords_of_methods(cls: _T) -> _T:
    """Class decorator: `explain_keywords` for the public methods that the class defines."""
    for name, value in list(vars(cls).items()):
        if inspect.isfunction(value) and not name.startswith("_"):
            setattr(cls, name, explain_keywords(value))
    return cls


def _check(function: str, unknown: list[str], options: list[str], of_model: Sequence[str]) -> None:
    for name in unknown:
        if name not in of_model:
            model = f" Arguments of the model: {', '.join(of_model)}." if of_model else ""
            raise TypeError(
                f"{function}: expected one of its options, got {name!r}."
                f"{did_you_mean(name, [*options, *of_model])} Options: {', '.join(options)}.{model}"
            )


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
