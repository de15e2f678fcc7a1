"""A distribution whose log density, support and draws are those of PyMC."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to

from vijax.model.pymc.graphs import Function

Inputs = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Functions:
    """What PyMC knows of a random variable, as JAX functions.

    Attributes:
        log_prob: `(value, *inputs) -> [log density]`, elementwise over the batch.
        backward: `(z, *inputs) -> [value, log |dx/dz|]` from unconstrained space.
        forward: `(value, *inputs) -> [z]`.
        has_transform: whether these two are used.
        sample: `(*generators, *inputs) -> [value]`, `None` where JAX cannot draw.
        num_generators: of `sample`.
        event_dim: number of dimensions of one element of the batch.
        is_discrete: whether values are integers.
        z_shape: shape of unconstrained values.
        shape: of the value when the model was converted.
    """

    log_prob: Function
    backward: Function
    forward: Function
    has_transform: bool
    sample: Function | None
    num_generators: int
    event_dim: int
    is_discrete: bool
    z_shape: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def batch_dim(self) -> int:
        """Number of dimensions of the batch."""
        return len(self.shape) - self.event_dim

    @property
    def z_event_shape(self) -> tuple[int, ...]:
        """The unconstrained shape of one element of the batch."""
        return self.z_shape[self.batch_dim :]

    def draw(self, keys: Array, *inputs: Any) -> Array:
        """One draw, from a key for every generator, `(num_generators, 2)`."""
        if self.sample is None:
            raise NotImplementedError("PyTensor cannot draw from it in JAX")
        generators = [{"jax_state": keys[i]} for i in range(self.num_generators)]
        return jnp.asarray(self.sample(*generators, *inputs)[0])

    def shape_of(self, *inputs: Any) -> tuple[int, ...]:
        """The shape of a value at these inputs; that in the fit where JAX cannot draw."""
        if self.sample is None:
            return self.shape
        keys = jax.ShapeDtypeStruct((max(self.num_generators, 1), 2), jnp.uint32)
        return jax.eval_shape(self.draw, keys, *map(jnp.asarray, inputs)).shape


def _over_batch(terms: Array, batch_dim: int) -> Array:
    """Sums dimensions after those of the batch."""
    return jnp.sum(terms, axis=tuple(range(batch_dim, jnp.ndim(terms))))


class PyMCSupport(constraints.Constraint):
    """The values of a PyMC variable with a transform."""

    def __init__(self, functions: Functions, inputs: Inputs) -> None:
        self.functions, self.inputs = functions, inputs

    @property
    def event_dim(self) -> int:
        """Dimensions that the transform or the density couple."""
        return self.functions.event_dim

    def __call__(self, x: Array) -> Array:
        """Whether values are valid; PyMC's log density says so itself."""
        return jnp.ones(jnp.shape(x)[: jnp.ndim(x) - self.event_dim], bool)

    def feasible_like(self, prototype: Array) -> Array:
        """The value at the origin of unconstrained space."""
        return PyMCTransform(self.functions, self.inputs)(jnp.zeros(self.functions.z_shape))

    def tree_flatten(self) -> Any:
        """As a pytree: inputs may be traced."""
        return (self.inputs,), (("inputs",), {"functions": self.functions})


class PyMCTransform(Transform):
    """The transform of a PyMC variable."""

    def __init__(self, functions: Functions, inputs: Inputs) -> None:
        self.functions, self.inputs = functions, inputs

    @property
    def codomain(self) -> constraints.Constraint:
        """The values of the variable."""
        return PyMCSupport(self.functions, self.inputs)

    @property
    def domain(self) -> constraints.Constraint:
        """Unconstrained space."""
        return constraints.independent(constraints.real, len(self.functions.z_event_shape))

    def __call__(self, x: Array) -> Array:
        """The value at unconstrained `x`."""
        return self.functions.backward(x, *self.inputs)[0]

    def _inverse(self, y: Array) -> Array:
        return self.functions.forward(y, *self.inputs)[0]

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        """`log |dy/dx|` by element of the batch."""
        log_det = jnp.asarray(self.functions.backward(x, *self.inputs)[1])
        return _over_batch(log_det, self.functions.batch_dim)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in unconstrained space."""
        functions = self.functions
        return (*shape[: len(shape) - functions.event_dim], *functions.z_event_shape)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a value."""
        functions = self.functions
        event = functions.shape[functions.batch_dim :]
        return (*shape[: len(shape) - len(functions.z_event_shape)], *event)

    def tree_flatten(self) -> Any:
        """As a pytree: inputs may be traced."""
        return (self.inputs,), (("inputs",), {"functions": self.functions})


@biject_to.register(PyMCSupport)
def _transform(support: PyMCSupport) -> PyMCTransform:
    return PyMCTransform(support.functions, support.inputs)


class PyMCDistribution(dist.Distribution):
    """The distribution of a PyMC variable at given values of those that it depends on."""

    pytree_data_fields = ("inputs",)
    pytree_aux_fields = ("functions",)

    def __init__(self, functions: Functions, inputs: Inputs, shape: tuple[int, ...]) -> None:
        self.functions, self.inputs = functions, inputs
        rows = len(shape) - functions.event_dim
        super().__init__(shape[:rows], shape[rows:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The real line, integers, or the codomain of the transform."""
        functions = self.functions
        if functions.is_discrete:
            return constraints.independent(constraints.integer, functions.event_dim)
        if not functions.has_transform:
            return constraints.independent(constraints.real, functions.event_dim)
        return PyMCSupport(functions, self.inputs)

    def log_prob(self, value: Array) -> Array:
        """PyMC's log density."""
        log_prob = jnp.asarray(self.functions.log_prob(value, *self.inputs)[0])
        return _over_batch(log_prob, self.functions.batch_dim)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws of the variable by its own graph."""
        functions = self.functions
        key = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
        keys = jax.random.split(key, (math.prod(sample_shape), max(functions.num_generators, 1)))
        drawn = jax.vmap(lambda keys: functions.draw(keys, *self.inputs))(keys)
        return drawn.reshape((*sample_shape, *drawn.shape[1:]))
