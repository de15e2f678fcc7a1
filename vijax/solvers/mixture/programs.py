"""The compiled programs of a mixture: data and priors are arguments, numbers are float64.

Each is compiled once for a kind of components and for shapes of arrays, by JAX's own cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vijax.runtime import program
from vijax.runtime.compilation import fast_compilation
from vijax.solvers.mixture import sweep
from vijax.solvers.mixture.mixture import Mixture
from vijax.solvers.mixture.rows import Rows

_QUICK = 1 << 20  # responsibilities of a pass up to which fast compilation saves time


class Program:
    """A function of rows, of an array `(..., p)` of features, and more, compiled in float64.

    For little data the compiler is asked to be fast: a sweep of the default program takes 0.1 ms on
    1,000 rows instead of 0.14 ms, and two seconds more to compile.

    Args:
        function: a pure function of arrays.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._by_options: dict[bool, Any] = {}

    def __call__(self, rows: Rows, features: Any, *args: Any) -> Any:
        """Runs it, whatever the caller's precision.

        Returns:
            NumPy arrays.
        """
        num_blocks, _, length = rows.blocks.shape
        quick = num_blocks * length * np.size(features) / np.shape(features)[-1] <= _QUICK
        with jax.enable_x64(True):
            if quick not in self._by_options:
                options = fast_compilation() if quick else None
                self._by_options[quick] = program.Program(self.function, compiler_options=options)
            return jax.device_get(self._by_options[quick](rows, features, *args))


def _refine(rows: Rows, candidates: Array, prior: Mixture, num_sweeps: Array) -> Any:
    def one(statistics: Array) -> tuple[Array, Array]:
        def step(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
            posterior = prior.updated(state[0])
            return sweep.evaluate(rows, prior, posterior, posterior.coefficients)

        return lax.fori_loop(0, num_sweeps, step, (statistics, jnp.zeros(())))

    return jax.vmap(one)(jnp.asarray(candidates))


def _responsibilities(rows: Rows, coefficients: Array) -> Any:
    return lax.map(
        lambda block: sweep.soft(coefficients @ sweep.features(block, rows)),
        jnp.asarray(rows.blocks),
    )


# See `vijax.solvers.mixture.sweep.ascend`.
ascend = Program(sweep.ascend)

# A few sweeps of several mixtures with one prior: from rows, statistics `(R, K, p)`, the prior and
# the number of sweeps to statistics after them, `(R, K, p)`, and the bounds, `(R,)`.
refine = Program(_refine)

# From rows and coefficients `(K, p)` to responsibilities, `(num_blocks, K, rows of a block)`, and
# their log normalizers, `(num_blocks, rows of a block)`.
responsibilities = Program(_responsibilities)
