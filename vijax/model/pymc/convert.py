"""The steps of a PyMC model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pymc as pm
from pymc.distributions.transforms import _default_transform
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.traversal import ancestors, graph_inputs, io_toposort
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.subtensor import AdvancedSubtensor, AdvancedSubtensor1
from pytensor.tensor.type import TensorType

from vijax.model.pymc.generic import Functions, PyMCDistribution
from vijax.model.pymc.graphs import jax_function, replaced, rngs
from vijax.model.pymc.known import known_program
from vijax.model.pymc.program import Part, Program, Step, pymc_model
from vijax.model.pymc.table import numpyro_distribution
from vijax.runtime.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Converted:
    """A model function, its static argument, its arrays, and labels by dimension."""

    run: Callable[..., None]
    program: Program
    data: dict[str, np.ndarray]
    coords: dict[str, Any]


def convert(model: pm.Model) -> Converted:
    """A PyMC model as a NumPyro model function with arguments.

    Raises:
        ModelError: see `from_pymc`.
    """
    _check(model)
    data = _data(model)
    values = {variable.name: variable for variable in _named(model)}
    arrays = {name: _value(variable) for name, variable in data.items()}
    shapes = _shapes(model)
    program = known_program(
        model, data, shapes, lambda: Program(_steps(model, values, data, shapes), list(data))
    )
    return Converted(pymc_model, program, arrays, _coords(model, program))


def _check(model: pm.Model) -> None:
    discrete = [rv.name for rv in model.free_RVs if rv.dtype.startswith(("int", "bool", "uint"))]
    if discrete:
        raise ModelError(
            f"site {discrete[0]!r}: expected continuous free variables, got a discrete one. Sum it "
            "out (pm.Mixture, pm.Categorical likelihoods as mixtures), or write the model for "
            "NumPyro, where vijax sums it out."
        )
    for rv in model.observed_RVs:
        if isinstance(rv.owner.op, MinibatchRandomVariable):
            raise ModelError(
                f"site {rv.name!r}: expected all data, got total_size, for minibatches. Pass the "
                "full data without pm.Minibatch, and use batch_size= of fit."
            )
    if not model.free_RVs:
        raise ModelError("model: expected free variables, got none.")


def _named(model: pm.Model) -> list[Variable]:
    """Random variables, deterministics and potentials, each after those that it depends on."""
    wanted = [*model.basic_RVs, *model.deterministics, *model.potentials]
    outputs = (out for node in io_toposort([], wanted) for out in node.outputs)
    known = set(wanted)
    return [one for one in outputs if one in known]


def _data(model: pm.Model) -> dict[str, Variable]:
    """Shared data, observed values and arrays of constants, by name."""
    found: dict[str, Variable] = {variable.name: variable for variable in model.data_vars}
    for rv in model.observed_RVs:
        value = model.rvs_to_values[rv]
        if isinstance(value, Constant):
            found[rv.name] = value
    known, count = set(found.values()), 0
    for variable in _liftable(model):
        if variable not in known:
            name = f"constant_{count}" if variable.name is None else variable.name
            while name in found or name in model.named_vars:
                name, count = f"constant_{count}", count + 1
            found[name] = variable
            known.add(variable)
    return found


def _liftable(model: pm.Model) -> list[Variable]:
    """The arrays in a model whose values its program need not know."""
    outputs = [*model.basic_RVs, *model.deterministics, *model.potentials]
    clients: dict[Variable, list[Any]] = {}
    order: dict[Variable, None] = {}
    for variable in ancestors(outputs):
        for source in variable.owner.inputs if variable.owner is not None else ():
            if isinstance(source, Constant) and isinstance(source.type, TensorType):
                clients.setdefault(source, []).append(variable.owner.op)
                order[source] = None
    elementwise = (Elemwise, AdvancedSubtensor, AdvancedSubtensor1)
    return [
        one
        for one in order
        if one.ndim > 0
        and np.size(one.data) > 1
        and (
            one.dtype.startswith("float") or all(isinstance(op, elementwise) for op in clients[one])
        )
    ]


def _value(variable: Variable) -> np.ndarray:
    value = variable.data if isinstance(variable, Constant) else variable.get_value()
    return np.asarray(value)


def _shapes(model: pm.Model) -> dict[str, tuple[int, ...]]:
    """Shapes of free variables, by name, and of their unconstrained values, by name and `__`."""
    found = {name: tuple(map(int, shape)) for name, shape in model.eval_rv_shapes().items()}
    for rv in model.free_RVs:
        found.setdefault(rv.name, found[model.rvs_to_values[rv].name])
    return found


def _steps(
    model: pm.Model,
    values: dict[str, Variable],
    data: dict[str, Variable],
    shapes: dict[str, tuple[int, ...]],
) -> list[Step]:
    """The steps of a model in order."""
    parts = _Parts({**data, **{n: v for n, v in values.items() if n not in data}}, values)
    dims = {name: _dims(model, name) for name in values}
    potentials, deterministics = set(model.potentials), set(model.deterministics)
    steps = []
    for name, variable in values.items():
        if variable in potentials:
            steps.append(Step(name, "potential", parts.of(name, [variable]), ()))
        elif variable in deterministics:
            steps.append(Step(name, "deterministic", parts.of(name, [variable]), dims[name]))
        else:
            steps.append(_random(model, parts, name, variable, dims[name], shapes))
    return steps


def _dims(model: pm.Model, name: str) -> tuple[str | None, ...]:
    """The dims of a variable; a plate may not have the name of a variable, nor be there twice."""
    dims = model.named_vars_to_dims.get(name) or (None,) * model.named_vars[name].ndim
    plates = [f"{dim}_dim" if dim in model.named_vars else dim for dim in dims]
    return tuple(None if dim in plates[:i] else dim for i, dim in enumerate(plates))


class _Parts:
    """Makes functions of earlier values of a graph.

    Args:
        inputs: variables that are values, by name: data and named variables.
        named: those of them that are computed by steps.
    """

    def __init__(self, inputs: dict[str, Variable], named: dict[str, Variable]) -> None:
        self.inputs, self.named = inputs, named
        self.fresh = {
            name: _fresh(variable, name) for name, variable in {**named, **inputs}.items()
        }

    def local(self, name: str, outputs: Sequence[Variable]) -> list[Variable]:
        """Outputs as a graph of the fresh inputs, except the variable `name` itself."""
        other = {
            variable: self.fresh[one]
            for one, variable in self.inputs.items()
            if variable is not self.named.get(name)
        }
        other |= {v: self.fresh[n] for n, v in self.named.items() if n != name}
        return replaced(outputs, other)

    def used(self, outputs: Sequence[Variable]) -> tuple[str, ...]:
        """The names of the inputs that outputs depend on."""
        inside = set(graph_inputs(outputs))
        return tuple(name for name, variable in self.fresh.items() if variable in inside)

    def of(self, name: str, outputs: Sequence[Variable]) -> Part:
        """The function of a variable's outputs."""
        return self.of_local(name, self.local(name, outputs))

    def of_local(self, name: str, outputs: Sequence[Variable]) -> Part:
        """The function of outputs that are made of the fresh inputs."""
        used = self.used(outputs)
        return Part(used, _compiled(name, [self.fresh[one] for one in used], outputs))


def _fresh(variable: Variable, name: str) -> Variable:
    """An input of the same type; data may have another shape later."""
    if isinstance(variable.type, TensorType):
        return TensorType(
            variable.dtype, shape=tuple(1 if n == 1 else None for n in variable.type.shape)
        )(name)
    return variable.type(name)


def _compiled(name: str, inputs: Sequence[Variable], outputs: Sequence[Variable]) -> Any:
    try:
        return jax_function(inputs, outputs)
    except NotImplementedError as error:
        raise ModelError(
            f"site {name!r}: expected operations that PyTensor has in JAX, got one that it has "
            f"not: {error}"
        ) from error


def _random(
    model: pm.Model,
    parts: _Parts,
    name: str,
    variable: Variable,
    dims: tuple[str | None, ...],
    shapes: dict[str, tuple[int, ...]],
) -> Step:
    """The step of a random variable."""
    observed = None
    value = model.rvs_to_values[variable]
    if variable in set(model.observed_RVs):
        if name in parts.inputs and parts.inputs[name] is value:
            observed = Part((name,), lambda given: [given])
        else:
            observed = parts.of(name + " ", [value])
    (local,) = parts.local(name, [variable])
    kind = "latent" if observed is None else "observed"
    known = numpyro_distribution(local) if _has_default_transform(model, variable) else None
    if known is not None:
        parameters, distribution = known
        part = parts.of_local(name, parameters)
    else:
        part, distribution = _generic(model, parts, name, variable, local, shapes)
    return Step(name, kind, part, dims, distribution, shapes.get(name, ()), observed)


def _has_default_transform(model: pm.Model, rv: Variable) -> bool:
    transform = model.rvs_to_transforms[rv]
    default = _default_transform(rv.owner.op, rv)
    if transform is None or transform is default:
        return True
    same = type(transform) is type(default) and vars(transform).keys() == {"args_fn"}
    return same and transform.args_fn.__code__ is default.args_fn.__code__


def _generic(
    model: pm.Model,
    parts: _Parts,
    name: str,
    variable: Variable,
    local: Variable,
    shapes: dict[str, tuple[int, ...]],
) -> tuple[Part, Any]:
    """The distribution of a random variable by its own graphs."""
    x = variable.type(f"{name} value")
    try:
        log_prob = pm.logp(local, x, warn_rvs=False)
    except (NotImplementedError, RuntimeError) as error:
        raise ModelError(f"site {name!r}: PyMC has no log density of it: {error}") from error
    generators = rngs([local])
    used = parts.used([local, log_prob])
    inputs = [parts.fresh[one] for one in used]
    backward = forward = _no_transform
    transform = model.rvs_to_transforms[variable] or _default_transform(variable.owner.op, variable)
    z_shape: tuple[int, ...] = ()
    batch_dim = log_prob.ndim
    if variable in set(model.free_RVs) and transform is not None:
        parameters = local.owner.inputs
        z = transform.forward(x, *parameters).type(f"{name} unconstrained")
        outputs = [transform.backward(z, *parameters), transform.log_jac_det(z, *parameters)]
        batch_dim = min(batch_dim, outputs[1].ndim)
        backward = _compiled(name, [z, *inputs], outputs)
        forward = _compiled(name, [x, *inputs], [transform.forward(x, *parameters)])
        z_shape = shapes.get(model.rvs_to_values[variable].name, shapes[name])
    try:
        sample = jax_function([*generators, *inputs], [local])
    except NotImplementedError:
        sample = None
    shape = shapes.get(name)
    functions = Functions(
        _compiled(name, [x, *inputs], [log_prob]),
        backward,
        forward,
        backward is not _no_transform,
        sample,
        len(generators),
        variable.ndim - batch_dim,
        variable.dtype.startswith(("int", "bool", "uint")),
        z_shape,
        _value_shape(model, variable) if shape is None else shape,
    )

    def distribution(*values: Any) -> PyMCDistribution:
        return PyMCDistribution(
            functions, values, functions.shape_of(*values) if shape is None else shape
        )

    return Part(used, lambda *values: list(values)), distribution


def _no_transform(*values: Any) -> list[Any]:
    raise AssertionError("a variable without transform")


def _value_shape(model: pm.Model, rv: Variable) -> tuple[int, ...]:
    """The shape of the data of an observed variable."""
    value = model.rvs_to_values[rv]
    return np.shape(value.data if isinstance(value, Constant) else value.eval())


def _coords(model: pm.Model, program: Program) -> dict[str, Any]:
    """The labels of the plates."""
    plates = {dim for step in program.steps for dim in step.dims if dim is not None}
    found = {}
    for name, labels in model.coords.items():
        plate = f"{name}_dim" if name in model.named_vars else name
        distinct = labels is not None and len({str(label) for label in labels}) == len(labels)
        if plate in plates and distinct:
            found[plate] = list(labels)
    return found
