"""A converted PyMC model: steps that a NumPyro model function takes in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from vijax.model.pymc.graphs import Function
from vijax.runtime.errors import ArgumentError, ModelError, mismatch
from vijax.runtime.keywords import did_you_mean

Values = dict[str, Any]
Shape = tuple[int, ...]
Dims = tuple[str | None, ...]


class Part(NamedTuple):
    """A function of earlier values, by their names."""

    inputs: tuple[str, ...]
    function: Function

    def arguments(self, values: Values, name: str) -> list[Any]:
        """The values of its inputs."""
        missing = [one for one in self.inputs if values[one] is None]
        if missing:
            raise ModelError(
                f"site {name!r}: expected a value of {missing[0]!r}, on which it depends, got None."
            )
        return [values[one] for one in self.inputs]

    def __call__(self, values: Values, name: str) -> list[Any]:
        """Its value for the variable `name`."""
        return self.function(*self.arguments(values, name))


class Step(NamedTuple):
    """A named variable of the model.

    Attributes:
        name: of the variable.
        kind: "latent", "observed", "deterministic" or "potential".
        part: its value; of random variables, the arguments of `distribution`.
        dims: names of its dimensions.
        distribution: the distribution at these arguments.
        shape: of a latent variable.
        observed: the value of an observed variable.
    """

    name: str
    kind: str
    part: Part
    dims: Dims
    distribution: Callable[..., dist.Distribution] | None = None
    shape: Shape = ()
    observed: Part | None = None


class Program:
    """The steps of a model in order; compared by identity, so that it is static."""

    def __init__(self, steps: Sequence[Step], data: Sequence[str]) -> None:
        self.steps = tuple(steps)
        self.data = tuple(data)

    def __repr__(self) -> str:
        return f"Program({', '.join(step.name for step in self.steps)})"


def pymc_model(program: Program, /, **data: Any) -> None:
    """The model of `from_pymc`."""
    for name in data.keys() - set(program.data):
        hint = did_you_mean(name, program.data)
        raise ArgumentError(f"model arguments: expected {list(program.data)}, got {name!r}.{hint}")
    values: Values = dict.fromkeys(program.data) | data
    for step in program.steps:
        _RUN[step.kind](step, values)


def _deterministic(step: Step, values: Values) -> None:
    (value,) = step.part(values, step.name)
    names = step.dims if len(step.dims) == jnp.ndim(value) else ()
    with _plates(names, jnp.shape(value)):
        values[step.name] = numpyro.deterministic(step.name, jnp.asarray(value))


def _potential(step: Step, values: Values) -> None:
    (value,) = step.part(values, step.name)
    numpyro.factor(step.name, jnp.sum(value))


def _latent(step: Step, values: Values) -> None:
    assert step.distribution is not None
    fn = step.distribution(*step.part(values, step.name))
    rows = len(step.shape) - fn.event_dim
    if fn.batch_shape != step.shape[:rows]:
        fn = fn.expand(step.shape[:rows])
    names = step.dims[:rows]
    named = next((i for i in reversed(range(rows)) if names[i] is not None), -1) + 1
    fn = fn.to_event(rows - named) if rows > named else fn
    with _plates(_filled(step.name, names[:named]), step.shape[:named]):
        values[step.name] = numpyro.sample(step.name, fn)


def _observed(step: Step, values: Values) -> None:
    assert step.distribution is not None
    assert step.observed is not None
    given = all(values[name] is not None for name in step.observed.inputs)
    obs: Any = step.observed(values, step.name)[0] if given else None
    fn = step.distribution(*step.part(values, step.name))
    shape = fn.batch_shape if obs is None else jnp.shape(obs)[: jnp.ndim(obs) - fn.event_dim]
    if fn.batch_shape != shape:
        try:
            fn = fn.expand(shape)
        except (TypeError, ValueError):
            remedy = "Pass None for the observed data to predict them at other inputs."
            what = f"site {step.name!r}"
            raise ModelError(
                mismatch(what, f"data of shape {fn.shape()}", jnp.shape(obs), remedy)
            ) from None
    with _plates(_filled(step.name, step.dims[: len(shape)]), shape):
        values[step.name] = numpyro.sample(step.name, fn, obs=obs)


_RUN: Mapping[str, Callable[[Step, Values], None]] = {
    "deterministic": _deterministic,
    "potential": _potential,
    "latent": _latent,
    "observed": _observed,
}


def _filled(name: str, dims: Dims) -> tuple[str, ...]:
    """Names of all dimensions, with those of ArviZ for the unnamed."""
    return tuple(f"{name}_dim_{i}" if dim is None else dim for i, dim in enumerate(dims))


@contextlib.contextmanager
def _plates(names: Sequence[str | None], shape: Shape) -> Any:
    """The plates of the dimensions that have a name."""
    with contextlib.ExitStack() as stack:
        for i, (name, size) in enumerate(zip(names, shape, strict=False)):
            if name is not None:
                stack.enter_context(numpyro.plate(name, size, dim=i - len(shape)))
        yield
