"""The one compiled program that every solver drives: log density and gradient at a block of points.

Compiling is what small fits spend their time on, so a solver compiles this and nothing else. All
of its linear algebra runs on the host, in float64, on what the kernel returns. The program is
kept by the target: a second solve, by another solver or on other data of the same shapes, finds it.
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
from vijax.runtime.device_layout import on_host

Floats = np.ndarray  # host arrays are float64 throughout

_BLOCK = 16  # points evaluated at once, see `Kernel`
_SMALL_BLOCK = 64  # the same for models that read little, whose calls are mostly dispatch
_SMALL = 2**11  # numbers that such a model reads at most
_LONG_BLOCK = 128  # the same for models with a long loop, whose steps take no longer for more
_MOST = 2**24  # numbers that a block of those takes at most
_WORTH_COMPILING = 2**25  # points times data elements: about a second of gradients


class Climbable(Protocol):
    """A function with its gradient that an optimizer can climb; `Kernel` is one."""

    @property
    def resolution(self) -> float:
        """Spacing of the values relative to their size."""
        ...

    def round(self, points: Floats) -> Floats:
        """The points `(num, dim)` at which the function is evaluated for these."""
        ...

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """Values `(num,)` and gradients `(num, dim)` at points `(num, dim)`."""
        ...


def _log_density(
    target: Target, joint: bool, batch: Batch, model: PyTree, mutable: PyTree
) -> Callable[[Array], Array]:
    """The log density as a function of one vector: `z`, followed by the model's own if `joint`."""
    dim = target.space.dim
    unravel = ravel_pytree(model)[1] if joint else None

    def function(point: Array) -> Array:
        params = model if unravel is None else unravel(point[dim:])
        return target.log_density(target.space.unravel(point[:dim]), batch, params, mutable)

    return function


def solver_kernel(
    target: Target, joint: bool, points: Array, batch: Batch, model: PyTree, mutable: PyTree
) -> Array:
    """`(block, dim)` points to `(block, 1 + dim)`: log density, then its gradient."""
    function = jax.value_and_grad(_log_density(target, joint, batch, model, mutable))
    value, gradient = jax.vmap(function)(target.devices.shard_particles(points))
    return jnp.concatenate([value[:, None], gradient], axis=1)  # one transfer to the host


def log_densities(
    target: Target, points: Array, batch: Batch, model: PyTree, mutable: PyTree
) -> Array:
    """`(block, dim)` points to `(block,)` log densities."""
    function = _log_density(target, False, batch, model, mutable)
    return jax.vmap(function)(target.devices.shard_particles(points))


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

    Points go through the device in blocks of a fixed size, the last one padded, so that exactly
    one program is compiled. Their size was chosen by measurement (docs/decisions.md): large models
    pay for padding from 16 on, small ones mostly for dispatch, and those with a long loop for its
    steps, which take no longer for more points. Rows that are read a block at a time are read once
    for all points that are asked for together, the next block while the device is busy with the
    last; what blocks give is added up in float64.

    Args:
        target: the target.
        batch: the data, all rows, in memory or in blocks.
        model: the model's `param` sites in unconstrained space.
        mutable: the model's mutable state; held fixed.
        joint: points are `z` followed by the raveled `model`, so that both can be optimized.
        block: points per device call.

    Attributes:
        dim: length of a point.
        dtype: what the device computes in, float32 unless x64 is enabled.
        calls: device calls so far.
        points: points asked for so far, Hessian-vector products included.
        num_elements: numbers that one evaluation takes: all data, one point, and what discrete
            sites are summed from.
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
        self._rows: Iterable[Block]
        if isinstance(batch, Blocks):
            self._rows, data, numbers = batch, batch.batch.data, batch.num_elements
        else:
            self._rows, data = (Block(batch, 1.0, 0),), batch.data
            numbers = sum(np.size(value) for value in data.values())
        self._state = (self.model, dict(mutable or {}))
        self._spread = target.devices.mesh is not None or any(
            len(_devices(value)) > 1 for value in data.values()
        )
        self.num_elements = self.dim + target.marginalized.entries + numbers
        self.block = block or self._usual_block()

    def _usual_block(self) -> int:
        if self.target.structure.sequential:
            return max(1, min(_LONG_BLOCK, _MOST // self.num_elements))
        return _SMALL_BLOCK if self.num_elements <= _SMALL else _BLOCK

    @property
    def resolution(self) -> float:
        """Spacing of the device's numbers relative to their size."""
        return float(np.finfo(self.dtype).eps)

    def pack(self, location: Floats) -> Floats:
        """The point `(dim,)` at `location` `(space.dim,)`, with the model's own if joint."""
        own = [np.ravel(leaf) for leaf in jax.tree.leaves(self.model)] if self.joint else []
        return np.concatenate([np.asarray(location, np.float64), *own])

    def unpack(self, point: Floats) -> tuple[Floats, dict[str, PyTree]]:
        """The location in a point and the model's `param` sites, moved if joint; see `pack`."""
        start = self.target.space.dim
        location = point[:start]
        if not self.joint:
            return location, self.model
        leaves, treedef = jax.tree.flatten(self.model)
        moved = []
        for leaf in leaves:
            stop = start + np.size(leaf)
            value = point[start:stop].reshape(np.shape(leaf))
            moved.append(jax.device_put(np.asarray(value, jnp.result_type(leaf))))
            start = stop
        return location, jax.tree.unflatten(treedef, moved)

    def label(self, coordinate: int) -> str:
        """What a coordinate of a point is called: `tau`, `theta[3]`, or a `param` site's name."""
        labels = self.target.space.coordinates()
        if coordinate < len(labels):
            return labels[coordinate]
        leaves = jax.tree_util.tree_flatten_with_path(self.model)[0]
        owners = [str(path[0].key) for path, leaf in leaves for _ in range(np.size(leaf))]
        return owners[coordinate - len(labels)]

    def round(self, points: Floats) -> Floats:
        """The points as the device sees them, back in float64."""
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and treated as such
            return np.asarray(points, self.dtype).astype(np.float64)

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """Log density `(num,)` and its gradient `(num, dim)` at `points` `(num, dim)`.

        Never raises for numerical reasons: a log density that is NaN or +inf comes back as -inf,
        a gradient with a non-finite entry as it is.
        """
        program = self.target.program(solver_kernel, self.joint)
        result = self._sum(lambda block, batch: program(block, batch, *self._state), points)
        log_density = np.where(result[:, 0] < np.inf, result[:, 0], -np.inf)
        return log_density, result[:, 1:]

    def is_costly(self, num: int) -> bool:
        """Whether `num` gradients take longer than compiling another program."""
        return num * self.num_elements >= _WORTH_COMPILING

    def log_density(self, points: Floats) -> Floats:
        """Log density `(num,)` at `points` `(num, dim)`, without the gradient.

        Many points of a large model get a program of their own, in larger blocks; few points are
        worth no second compilation.
        """
        if self.joint or (self.target.structure.differentiable and not self.is_costly(len(points))):
            return self(points)[0]
        program = self.target.program(log_densities)
        values = self._sum(lambda block, batch: program(block, batch, *self._state), points)
        return np.where(values < np.inf, values, -np.inf)

    def products(self, point: Floats, vectors: Floats) -> Floats:
        """Hessian of the log density at `point` times each row of `vectors` `(num, dim)`.

        Compiles a second program when it is first asked for.
        """
        program = self.target.program(solver_products, self.joint)
        at = np.asarray(point, self.dtype)
        return self._sum(lambda block, batch: program(at, block, batch, *self._state), vectors)

    def paired_products(self, points: Floats, vectors: Floats) -> Floats:
        """Hessian of the log density at each of `points` `(num, dim)` times its own vector.

        Compiles one more program when it is first asked for.
        """
        program = self.target.program(solver_paired_products, self.joint)
        pairs = np.stack([points, vectors], axis=1)
        return self._sum(lambda block, batch: program(block, batch, *self._state), pairs)

    def hessian(self, point: Floats) -> Floats:
        """Hessian of the log density at `point`, symmetric `(dim, dim)`."""
        hessian = self.products(point, np.eye(self.dim))
        return 0.5 * (hessian + hessian.T)

    def _sum(self, program: Callable[[Floats, Batch], Any], points: Floats) -> Floats:
        """What a program gives at each of the points, summed over all rows, `(num, ...)`."""
        blocks, total = self._cut(points), np.zeros(())
        self.points += len(points)
        waiting: deque[tuple[float, list[Any]]] = deque()
        for rows in self._rows:
            waiting.append((rows.weight, [self._call(program, one, rows.batch) for one in blocks]))
            if len(waiting) > 1:  # the device is busy with these rows while the next are read
                total = _added(total, *waiting.popleft())
        return _added(total, *waiting.popleft())[: len(points)]

    def _cut(self, points: Floats) -> list[Floats]:
        """The points in blocks of one size, in the device's precision."""
        with np.errstate(over="ignore"):
            points = np.ascontiguousarray(points, self.dtype)
        # the last row again: a zero might lie outside the model's domain, and its NaNs would trip
        # jax_debug_nans
        padding = np.repeat(points[-1:], -len(points) % self.block, axis=0)
        whole = np.concatenate([points, padding])
        return [whole[start : start + self.block] for start in range(0, len(whole), self.block)]

    def _call(self, program: Callable[[Floats, Batch], Any], block: Floats, batch: Batch) -> Any:
        self.calls += 1
        result = program(block, batch)  # asynchronous: blocks queue up on the device
        if self._spread:  # queued collectives wait for one another for ever on CPU devices
            result.block_until_ready()
        return result


def _added(total: Floats, weight: float, results: list[Any]) -> Floats:
    """A weighted sum with the results for all blocks of points added to it."""
    found = np.concatenate(on_host(results)).astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite less infinite is NaN, and treated as such
        return total + weight * found


def _devices(value: Any) -> set[Any]:
    """The devices that an array is on; of a posterior without its data it is on none."""
    return value.devices() if isinstance(value, Array) else set()
