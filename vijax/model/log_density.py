"""A model from a log density that is given as a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints as supports

from vijax.model.outside import outside_log_density
from vijax.runtime.errors import ModelError, mismatch

Shape = tuple[int, ...]
_ARRAY = "x"  # name of a single array


def from_log_density(
    fn: Callable[..., Array],
    shapes: Mapping[str, Shape] | Shape | int,
    constraints: Any = None,
    *,
    gradient: bool = False,
) -> Callable[..., None]:
    """A model for `fit` from a log density.

    >>> import numpy as np, vijax
    >>> from numpyro.distributions import constraints
    >>> def log_density(values, y):
    ...     rate = values["rate"]
    ...     return 2 * jnp.log(rate) - 2 * rate + (y * jnp.log(rate) - rate).sum()
    >>> model = vijax.from_log_density(log_density, {"rate": ()}, {"rate": constraints.positive})
    >>> posterior = vijax.fit(model, np.array([2.0, 0.0, 3.0]), progress_bar=False)
    >>> print(f"{posterior.sample(4000)['rate'].mean():.1f}")  # a gamma: 8 / 5
    1.6

    A density of a single vector needs no names; draws are called `"x"`:

    >>> model = vijax.from_log_density(lambda x: -0.5 * jnp.sum((x - 1) ** 2), 3)
    >>> posterior = vijax.fit(model, progress_bar=False)
    >>> posterior.sample(1000)["x"].shape
    (1000, 3)

    With `gradient=True` it is computed outside of JAX, with its gradient: a NumPy function, or
    another program.

    >>> def in_numpy(x, y):
    ...     return -0.5 * np.sum((y - x) ** 2), y - x
    >>> model = vijax.from_log_density(in_numpy, 3, gradient=True)
    >>> posterior = vijax.fit(model, np.array([1.0, 2.0, 3.0]), progress_bar=False)
    >>> posterior.status
    'certified'

    Args:
        fn: `fn(values, *args, **kwargs) -> scalar`, the unnormalized log density of constrained
            values by name, or of one array where `shapes` is its shape. `args` and `kwargs` are
            those of `fit`: arrays among them are data, and new values of them do not recompile. If
            it has no gradient (it calls another program by `jax.pure_callback`), `fit` uses the
            objective `ScoreELBO` by default.
        shapes: shape of each value, by name; or the shape (or length) of a single array, whose
            name is `"x"`.
        constraints: `numpyro.distributions.constraints` by name, or the one of the single array;
            the real line by default. `fit` adds the log Jacobian of the transformation from
            unconstrained space.
        gradient: whether `fn` is a function of NumPy arrays that returns the log density and its
            gradient with respect to `values`, in their structure. Second derivatives are
            differences of the gradient, in double precision. Where it raises an arithmetic error
            the log density is minus infinity.

    Returns:
        A model without observations; `predict` is not available, and the log evidence is
        `log integral exp(fn)`.

    Raises:
        ModelError: a shape is invalid, or a constraint has an unknown name; in `fit`, `fn` does
            not return a scalar.
    """
    if gradient:
        fn = functools.partial(_outside, fn)
    if type(shapes) is int:
        shapes = (shapes,)
    if isinstance(shapes, tuple):
        shapes, fn = {_ARRAY: shapes}, functools.partial(_of_array, fn)
        by_name = constraints is None or isinstance(constraints, Mapping)
        constraints = constraints if by_name else {_ARRAY: constraints}
    if not isinstance(shapes, Mapping):
        expected = "shapes by name, {'a': (), 'b': (3,)}, or the shape of one array, (3,)"
        raise ModelError(mismatch("shapes", expected, repr(shapes)))
    constraints = dict(constraints or {})
    for name in constraints.keys() - shapes.keys():
        raise ModelError(mismatch(f"constraints[{name!r}]", f"one of {list(shapes)}", repr(name)))
    for name, shape in shapes.items():
        if type(shape) is not tuple or any(type(size) is not int for size in shape):
            raise ModelError(
                mismatch(f"shapes[{name!r}]", "a tuple of integers, such as () or (3,)", shape)
            )
    sites = tuple(
        (name, shape, constraints.get(name, supports.real)) for name, shape in shapes.items()
    )
    return functools.partial(log_density_model, fn, _Sites(sites))


def _outside(fn: Callable[..., Any], values: Any, *args: Any, **kwargs: Any) -> Array:
    return outside_log_density(fn, values, args, kwargs)


def _of_array(fn: Callable[..., Array], values: dict[str, Array], *args: Any, **kwargs: Any) -> Any:
    return fn(values[_ARRAY], *args, **kwargs)


class _Sites(tuple[tuple[str, Shape, Any], ...]):
    """Names, shapes and constraints as one static argument, not a pytree."""

    __slots__ = ()


def log_density_model(fn: Callable[..., Array], sites: _Sites, *args: Any, **kwargs: Any) -> None:
    """The model of `from_log_density`."""
    values = {
        name: numpyro.sample(name, dist.ImproperUniform(support, (), shape))
        for name, shape, support in sites
    }
    log_density = fn(values, *args, **kwargs)
    if jnp.shape(log_density) != ():
        raise ModelError(
            mismatch("log density", "a scalar", f"shape {jnp.shape(log_density)}", "Sum it.")
        )
    numpyro.factor("log_density", log_density)
