"""The compiled program shared by all solvers: log density and gradient at a block of points.

Compilation dominates the time of small fits, so a solver compiles this program and nothing else.
All of its linear algebra runs on the host, in float64, on what the kernel returns. The target
caches the program: a second solve, by another solver or on other data of the same shapes, reuses
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from vijax.contracts import Batch, Block, Blocks, Data, PyTree, Target
from vijax.contracts.finite_differences import difference_products, lacks_forward_mode
from vijax.contracts.over_points import over_points
from vijax.runtime.device_layout import default_platform, on_host
from vijax.runtime.errors import ModelError
from vijax.runtime.jaxpr import without_dead_code
from vijax.runtime.progress import advance

Floats = np.ndarray  # host arrays are float64 throughout

_DEFAULT_BLOCK = 16  # points per device call, see `Kernel`
_SMALL_BLOCK = 64  # the same for small models, whose calls are dominated by dispatch
_SMALL_MODEL = 2**11  # data elements of a small model, at most
_SMALL_ON_ACCELERATORS = 2**22  # the same there: 64 points are too few to keep a device busy
_SEQUENTIAL_BLOCK = 128  # the same for sequential models: a loop step costs no more for more points
_MAX_BLOCK_ELEMENTS = 2**24  # array elements in a block of a sequential model, at most
_COMPILE_THRESHOLD = 2**25  # points times data elements: gradients take about one second


class DifferentiableObjective(Protocol):
    """An objective with gradient that an optimizer can maximize; `Kernel` is one."""

    @property
    def eps(self) -> float:
        """Relative precision (machine epsilon) of the values."""
        ...

    def round(self, points: Floats) -> Floats:
        """The points `(num, dim)` at which the function is evaluated, after rounding."""
        ...

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """Values `(num,)` and gradients `(num, dim)` at points `(num, dim)`."""
        ...


def _log_density(
    target: Target, joint: bool, batch: Batch, model: PyTree, mutable: PyTree
) -> Callable[[Array], Array]:
    """The log density as a function of one vector: `z`, then the `param` sites if `joint`."""
    dim = target.space.dim
    unravel = ravel_pytree(model)[1] if joint else None

    def function(point: Array) -> Array:
        params = model if unravel is None else unravel(point[dim:])
        return target.log_density(target.space.unravel(point[:dim]), batch, params, mutable)

    if not target.many_sites:
        return function
    size = dim + sum(np.size(leaf) for leaf in jax.tree.leaves(model)) * joint
    simplified = without_dead_code(function, jax.ShapeDtypeStruct((size,), jnp.result_type(float)))
    return lambda point: simplified(point)[0]


def solver_kernel(
    target: Target, joint: bool, points: Array, batch: Batch, model: PyTree, mutable: PyTree
) -> Array:
    """Log density and gradient, `(block, 1 + dim)`, at points `(block, dim)`."""
    function = jax.value_and_grad(_log_density(target, joint, batch, model, mutable))
    value, gradient = over_points(target, function, target.devices.shard_particles(points))
    return jnp.concatenate([value[:, None], gradient], axis=1)  # one transfer to the host


def log_densities(
    target: Target, points: Array, batch: Batch, model: PyTree, mutable: PyTree
) -> Array:
    """Log densities `(block,)` at points `(block, dim)`."""
    function = _log_density(target, False, batch, model, mutable)
    return over_points(target, function, target.devices.shard_particles(points))


def solver_products(
    target: Target,
    joint: bool,
    point: Array,
    vectors: Array,
    batch: Batch,
    model: PyTree,
    mutable: PyTree,
) -> Array:
    """Hessian of the log density at `point` `(dim,)` times each row of `vectors` `(block, dim)`."""
    gradient = jax.grad(_log_density(target, joint, batch, model, mutable))
    vectors = target.devices.shard_particles(vectors)
    return jax.vmap(lambda vector: jax.jvp(gradient, (point,), (vector,))[1])(vectors)


def solver_paired_products(
    target: Target,
    joint: bool,
    pairs: Array,
    batch: Batch,
    model: PyTree,
    mutable: PyTree,
) -> Array:
    """Hessians of the log density at `pairs[:, 0]` times `pairs[:, 1]`, both `(block, dim)`."""
    gradient = jax.grad(_log_density(target, joint, batch, model, mutable))
    pairs = target.devices.shard_particles(pairs)
    return jax.vmap(lambda pair: jax.jvp(gradient, (pair[0],), (pair[1],))[1])(pairs)


class Kernel:
    """Log density and gradient of a target at any number of points, on the host in float64.

    Points are sent to the device in blocks of a fixed size, the last one padded, so that exactly
    one program is compiled. The block size was chosen by measurement (docs/decisions.md): for large
    models padding costs more than it saves beyond 16 points, for small ones dispatch dominates, and
    for sequential ones loop steps dominate, which take no longer for more points. Accelerators
    take the larger blocks for all but the largest models. Data that are
    streamed in blocks of rows are read once per call for all points, the next block while the
    device evaluates the current one; results are summed over blocks in float64.

    Args:
        target: the target.
        batch: the data, all rows, in memory or in blocks.
        model: the model's `param` sites in unconstrained space.
        mutable: the model's mutable state; held fixed.
        joint: points are `z` followed by the raveled `model`, so that both can be optimized.
        block: points per device call.

    Attributes:
        dim: length of a point.
        dtype: floating-point type on the device, float32 unless x64 is enabled.
        calls: number of device calls.
        points: number of points evaluated, Hessian-vector products included.
        num_elements: array elements in one evaluation: all data, one point, and the enumeration of
            marginalized discrete sites.
        found: a run calls it with a function that returns the best Gaussian so far.
    """

    def __init__(
        self,
        target: Target,
        batch: Data,
        model: Mapping[str, PyTree] | None = None,
        mutable: Mapping[str, PyTree] | None = None,
        joint: bool = False,
        block: int | None = None,
    ) -> None:
        self.target = target
        self.model = dict(model or {})
        self.joint = joint and bool(self.model)
        self.dim = target.space.dim
        if self.joint:
            self.dim += sum(np.size(leaf) for leaf in jax.tree.leaves(self.model))
        self.dtype = np.dtype(jnp.result_type(float))
        self.calls = 0
        self.points = 0
        self.found: Callable[[Callable[[], Any]], None] = lambda _: None
        self._has_forward_mode = True  # until a product fails
        self._rows: Iterable[Block]
        if isinstance(batch, Blocks):
            self._rows, data, num_elements = batch, batch.batch.data, batch.num_elements
        else:
            self._rows, data = (Block(batch, 1.0, 0),), batch.data
            num_elements = sum(np.size(value) for value in data.values())
        plate = batch.plate if isinstance(batch, Blocks) else None
        self._share = 1 / -(-plate.size // plate.subsample_size) if plate else 1  # of a pass
        self._state = (self.model, dict(mutable or {}))
        self._sharded = target.devices.mesh is not None or any(
            len(_devices(value)) > 1 for value in data.values()
        )
        self.num_elements = self.dim + target.marginalized.entries + num_elements
        self.block = block or self._choose_block()

    def _choose_block(self) -> int:
        if self.target.structure.sequential:
            return max(1, min(_SEQUENTIAL_BLOCK, _MAX_BLOCK_ELEMENTS // self.num_elements))
        small = _SMALL_MODEL if default_platform() == "cpu" else _SMALL_ON_ACCELERATORS
        return _SMALL_BLOCK if self.num_elements <= small else _DEFAULT_BLOCK

    @property
    def eps(self) -> float:
        """Machine epsilon of the device's floating-point type."""
        return float(np.finfo(self.dtype).eps)

    def pack(self, location: Floats) -> Floats:
        """The point `(dim,)` at `location` `(space.dim,)`, followed by `param` sites if joint."""
        params = [np.ravel(leaf) for leaf in jax.tree.leaves(self.model)] if self.joint else []
        return np.concatenate([np.asarray(location, np.float64), *params])

    def unpack(self, point: Floats) -> tuple[Floats, dict[str, PyTree]]:
        """The location in a point and the `param` sites (the point's if joint); see `pack`."""
        start = self.target.space.dim
        location = point[:start]
        if not self.joint:
            return location, self.model
        leaves, treedef = jax.tree.flatten(self.model)
        updated = []
        for leaf in leaves:
            stop = start + np.size(leaf)
            value = point[start:stop].reshape(np.shape(leaf))
            updated.append(jax.device_put(np.asarray(value, jnp.result_type(leaf))))
            start = stop
        return location, jax.tree.unflatten(treedef, updated)

    def label(self, coordinate: int) -> str:
        """The name of a coordinate of a point: `tau`, `theta[3]`, or a `param` site's name."""
        labels = self.target.space.coordinates()
        if coordinate < len(labels):
            return labels[coordinate]
        leaves = jax.tree_util.tree_flatten_with_path(self.model)[0]
        site_names = [str(path[0].key) for path, leaf in leaves for _ in range(np.size(leaf))]
        return site_names[coordinate - len(labels)]

    def round(self, points: Floats) -> Floats:
        """The points rounded to the device's precision, in float64."""
        with np.errstate(over="ignore"):  # overflow of float32 is handled as infinity
            return np.asarray(points, self.dtype).astype(np.float64)

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """Log density `(num,)` and its gradient `(num, dim)` at `points` `(num, dim)`.

        Never raises for numerical reasons: a log density that is NaN or +inf is returned as -inf, a
        gradient with non-finite entries unchanged.
        """
        program = self.target.program(solver_kernel, self.joint)
        result = self._sum(lambda block, batch: program(block, batch, *self._state), points)
        log_density = np.where(result[:, 0] < np.inf, result[:, 0], -np.inf)
        return log_density, result[:, 1:]

    def is_costly(self, num: int) -> bool:
        """Whether `num` gradients take longer than compiling another program."""
        return num * self.num_elements >= _COMPILE_THRESHOLD

    def log_density(self, points: Floats) -> Floats:
        """Log density `(num,)` at `points` `(num, dim)`, without the gradient.

        For many points of a large model a separate program without gradient is compiled; for few
        points a second compilation does not pay.
        """
        if self.joint or (self.target.differentiable and not self.is_costly(len(points))):
            return self(points)[0]
        program = self.target.program(log_densities)
        values = self._sum(lambda block, batch: program(block, batch, *self._state), points)
        return np.where(values < np.inf, values, -np.inf)

    def products(self, point: Floats, vectors: Floats) -> Floats:
        """Hessian of the log density at `point` times each row of `vectors` `(num, dim)`.

        Compiles a second program on first use; models with a derivative in reverse mode only take
        finite differences of the gradient.
        """
        program = self.target.program(solver_products, self.joint)
        at = np.asarray(point, self.dtype)
        return self._products(
            lambda block, batch: program(at, block, batch, *self._state),
            vectors,
            np.broadcast_to(point, vectors.shape),
            vectors,
        )

    def paired_products(self, points: Floats, vectors: Floats) -> Floats:
        """Hessian of the log density at each of `points` `(num, dim)` times its row of `vectors`.

        Compiles another program on first use.
        """
        program = self.target.program(solver_paired_products, self.joint)
        pairs = np.stack([points, vectors], axis=1)
        return self._products(
            lambda block, batch: program(block, batch, *self._state), pairs, points, vectors
        )

    def _products(
        self,
        program: Callable[[Floats, Batch], Any],
        inputs: Floats,
        points: Floats,
        vectors: Floats,
    ) -> Floats:
        """Products by a program, by finite differences if the model has no forward mode."""
        if self._has_forward_mode:
            try:
                return self._sum(program, inputs)
            except (TypeError, ModelError) as error:
                if not lacks_forward_mode(error):
                    raise
                self._has_forward_mode = False
        return difference_products(lambda at: self(at)[1], points, vectors, self.eps)

    def hessian(self, point: Floats) -> Floats:
        """Hessian of the log density at `point`, symmetric `(dim, dim)`."""
        hessian = self.products(point, np.eye(self.dim))
        return 0.5 * (hessian + hessian.T)

    def _sum(self, program: Callable[[Floats, Batch], Any], points: Floats) -> Floats:
        """Results of a program at each of the points, summed over all rows, `(num, ...)`."""
        blocks, total = self._split(points), np.zeros(())
        self.points += len(points)
        pending: deque[tuple[float, list[Any]]] = deque()
        for rows in self._rows:
            pending.append((rows.weight, [self._call(program, one, rows.batch) for one in blocks]))
            if len(pending) > 1:  # these rows are evaluated while the next are read
                total = _accumulate(total, *pending.popleft())
        return _accumulate(total, *pending.popleft())[: len(points)]

    def _split(self, points: Floats) -> list[Floats]:
        """The points in blocks of one size, in the device's precision."""
        with np.errstate(over="ignore"):
            points = np.ascontiguousarray(points, self.dtype)
        # repeats the last point: zero may be outside the model's support and trip jax_debug_nans
        padding = np.repeat(points[-1:], -len(points) % self.block, axis=0)
        padded = np.concatenate([points, padding])
        return [padded[start : start + self.block] for start in range(0, len(padded), self.block)]

    def _call(self, program: Callable[[Floats, Batch], Any], block: Floats, batch: Batch) -> Any:
        self.calls += 1
        advance(self._share * len(block), "point")
        result = program(block, batch)  # asynchronous: calls are queued on the device
        if self._sharded:  # queued collectives deadlock on CPU devices
            result.block_until_ready()
        return result


def _accumulate(total: Floats, weight: float, results: list[Any]) -> Floats:
    """Adds the weighted results for all blocks of points to a running sum."""
    found = np.concatenate(on_host(results)).astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf gives NaN, which callers handle
        return total + weight * found


def _devices(value: Any) -> set[Any]:
    """The devices that hold an array; empty for a posterior without its data."""
    return value.devices() if isinstance(value, Array) else set()
