"""Fits whose programs are lowered for other platforms instead of being compiled and run.

While `recorded()` is active, a program of a `Target` that is called is traced as for a run, lowered
for each of `PLATFORMS`, and returns arbitrary values of the right shapes: nothing is compiled, and
no device is needed. Log densities are those of a standard normal, so that solvers and chains end at
once.

Lowering takes longer than tracing, and whether it fails is decided by single operations. So the
first program of each name is lowered as a whole, and of all others only operations that are new,
each by itself.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from vijax.contracts import Target

PLATFORMS = ("cuda", "tpu")


class Known(NamedTuple):
    """What has been lowered before.

    Attributes:
        names: of programs that were lowered as a whole.
        operations: names of operations with the types of their inputs.
        bodies: programs, loops and branches by id, kept so that no other one gets it.
    """

    names: set[str]
    operations: set[tuple[str, ...]]
    bodies: dict[int, Any]


def nothing() -> Known:
    return Known(set(), set(), {})


KNOWN = nothing()  # shared by all tests of a process


@dataclasses.dataclass
class Recorder:
    """Lowers programs and notes what fails.

    Attributes:
        known: what is not lowered again.
        programs: names of the programs called.
        failures: a line for every program and platform that does not lower.
    """

    known: Known = KNOWN
    programs: set[str] = dataclasses.field(default_factory=set)
    failures: list[str] = dataclasses.field(default_factory=list)
    _results: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def call(self, name: str, program: Any, *args: Any) -> Any:
        """Lowers a program instead of calling it."""
        self.programs.add(name)
        leaves, structure = jax.tree.flatten(args)
        lookup = (program, structure, tuple((np.shape(x), jnp.result_type(x)) for x in leaves))
        if lookup not in self._results:
            traced = program.trace(*args)
            whole = name not in self.known.names
            if whole:
                self.known.names.add(name)
                self.attempt(name, traced)
            self.check(name, traced.jaxpr, lowered=whole)
            self._results[lookup] = arbitrary(traced.out_info, name.endswith("_differences"))
        return result(name, args, self._results[lookup])

    def check(self, name: str, jaxpr: Any, lowered: bool = False) -> None:
        """Lowers the operations of a program that are new, loops and inner programs included."""
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        if id(jaxpr) in self.known.bodies:
            return
        self.known.bodies[id(jaxpr)] = jaxpr
        for equation in jaxpr.eqns:
            inner = list(core.jaxprs_in_params(equation.params))
            for one in inner:
                self.check(name, one, lowered)
            types = (str(getattr(atom.aval, "dtype", "")) for atom in equation.invars)
            operation = (equation.primitive.name, *types)
            if inner or operation in self.known.operations:
                continue
            self.known.operations.add(operation)
            if not lowered:
                self.attempt(f"{name}, {equation.primitive.name}", _alone(jaxpr, equation))

    def attempt(self, name: str, traced: Any) -> None:
        """Lowers for all platforms at once, and if that fails for each, to name those at fault."""
        with contextlib.suppress(Exception):  # of whatever type
            traced.lower(lowering_platforms=PLATFORMS)
            return
        for platform in PLATFORMS:
            try:
                traced.lower(lowering_platforms=(platform,))
            except Exception as error:
                self.failures.append(f"{name} on {platform}: {error}")


def _alone(jaxpr: Any, equation: Any) -> Any:
    """An operation as a program of its own."""
    inputs = {a: a.aval for a in equation.invars if not isinstance(a, core.Literal)}
    single = jaxpr.replace(
        constvars=[], invars=[*inputs], outvars=equation.outvars, eqns=[equation]
    )
    function = core.jaxpr_as_fun(core.ClosedJaxpr(single, ()))
    shapes = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in inputs.values()]
    return jax.jit(function).trace(*shapes)


def lowers(name: str, jaxpr: Any) -> None:
    """Asserts that a traced program lowers for all platforms."""
    recorder = Recorder()
    recorder.check(name, jaxpr)
    assert recorder.failures == []


def result(name: str, args: tuple[Any, ...], values: Any) -> Any:
    """What a program returns: exact for a standard normal where callers depend on it."""
    if name == "run_steps":
        return args[0], np.ones((args[5], len(args[2]))), True
    if name in ("solver_kernel", "pullback_kernel"):
        points = np.asarray(args[0])
        density = -0.5 * np.sum(points**2, axis=1, keepdims=True)
        return jnp.asarray(np.concatenate([density, -points], axis=1))
    if name == "stacked_kernel":
        points = np.asarray(args[0])
        density = -0.5 * np.sum(points**2, axis=2, keepdims=True)
        return jnp.asarray(np.concatenate([density, -points], axis=2))
    if name == "stacked_trajectories":
        points, speed = np.asarray(args[0]), np.asarray(args[1])
        density = -0.5 * np.sum(points**2, axis=2, keepdims=True)
        return jnp.asarray(np.concatenate([density, -points, points, speed], axis=2))
    if name == "log_densities":
        return jnp.asarray(-0.5 * np.sum(np.asarray(args[0]) ** 2, axis=1))
    if name == "solver_products":
        return -jnp.asarray(args[1])
    if name == "solver_paired_products":
        return -jnp.asarray(args[0])[:, 1]
    return values


def arbitrary(shapes: Any, zero: bool) -> Any:
    """Zeros, or random values that may be scales and probabilities, too."""
    rng = np.random.default_rng(0)

    def values(info: Any) -> jax.Array:
        if jnp.issubdtype(info.dtype, jnp.floating) and not zero:
            return jnp.asarray(rng.uniform(0.5, 0.9, info.shape), info.dtype)
        return jnp.full(info.shape, info.dtype == bool, info.dtype)

    return jax.tree.map(values, shapes)


@contextlib.contextmanager
def recorded(known: Known = KNOWN) -> Iterator[Recorder]:
    """Lowers all programs inside instead of running them."""
    recorder, original = Recorder(known), Target.program

    def program(
        target: Target, function: Callable[..., Any], *static: Any, **options: Any
    ) -> Callable[..., Any]:
        compiled = original(target, function, *static, **options)
        lowered = functools.partial(recorder.call, function.__name__, compiled)
        lowered.compile = lambda *args: None
        return lowered

    with mock.patch.object(Target, "program", program):
        yield recorder
