"""A target seen from the normals that a guide makes its draws of.

Where the guide is good, what chains see from there is close to a standard normal, however curved
the posterior is; where it is not, they see what is left to mend. Source: NeuTra-lizing Bad
Geometry in Hamiltonian Monte Carlo Using Neural Transport, Hoffman et al., 2019.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Data, PyTree, Target, TransportGuide, Variables
from vijax.contracts.kernel import Floats, Kernel

_BLOCK = 128  # normals at once: a flow is long enough for dispatch to matter little


class TransportedKernel(Kernel):
    """Log density and gradient of a target at normals `e`, pulled back through a guide.

    `log p(T(e)) + log |dT/de|`, the latter from the draw's own density: `log N(e) - log q(T(e))`.

    Args:
        target: the target.
        guide: whose `transport` is `T`.
        variables: its parameters and the model's.
        mutable: the model's mutable state.
        batch: the data, all rows, in memory or in blocks.
    """

    def __init__(
        self,
        target: Target,
        guide: TransportGuide,
        variables: Variables,
        mutable: dict[str, PyTree],
        batch: Data,
    ) -> None:
        super().__init__(target, batch, variables.model, mutable, block=_BLOCK)
        self._guide = guide
        self._through = (variables, mutable)

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """Log density `(num,)` and its gradient `(num, dim)` at normals `(num, dim)`."""
        program = self.target.program(transported_kernel, self._guide)
        result = self._sum(lambda block, batch: program(block, *self._through, batch), points)
        return np.where(result[:, 0] < np.inf, result[:, 0], -np.inf), result[:, 1:]

    def place(self, points: Floats) -> Floats:
        """Where the guide takes normals `(num, dim)`."""
        params = self._through[0].guide
        return self._guide.host_transport(params, self.target.space, points).points


def transported_kernel(
    target: Target,
    guide: TransportGuide,
    points: Array,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
) -> Array:
    """`(block, dim)` normals to `(block, 1 + dim)`: log density, then its gradient."""

    def log_density(noise: Array) -> Array:
        z, log_q = guide.transport(variables.guide, target.space, noise)
        log_p = target.log_density(target.space.unravel(z), batch, variables.model, mutable)
        return log_p - log_q - 0.5 * jnp.sum(noise**2)

    value, gradient = jax.vmap(jax.value_and_grad(log_density))(points)
    return jnp.concatenate([value[:, None], gradient], axis=1)
