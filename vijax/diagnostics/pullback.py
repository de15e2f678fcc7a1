"""A target pulled back through a transport guide, as a density of the guide's base normals.

Where the guide is accurate the pullback is close to a standard normal, however curved the
posterior is; elsewhere chains correct the remaining error. Source: NeuTra-lizing Bad Geometry in
Hamiltonian Monte Carlo Using Neural Transport, Hoffman et al., 2019.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Data, PyTree, Target, TransportGuide, Variables
from vijax.contracts.kernel import Floats, Kernel

_BLOCK = 128  # points at once: a flow runs long enough for dispatch to cost little


class PullbackKernel(Kernel):
    """Log density and gradient of the pullback, `log p(T(e)) + log |dT/de|`, at base normals `e`.

    The Jacobian follows from the guide's density: `log |dT/de| = log N(e) - log q(T(e))`. The
    constant `dim/2 log 2 pi` of the normal density is left out: chains do not need it.

    Args:
        target: the target.
        guide: the guide, with `T` its `transport`.
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
        self._arguments = (variables, mutable)

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """Log density `(num,)` and its gradient `(num, dim)` at base normals `(num, dim)`."""
        program = self.target.program(pullback_kernel, self._guide)
        result = self._sum(lambda block, batch: program(block, *self._arguments, batch), points)
        return np.where(result[:, 0] < np.inf, result[:, 0], -np.inf), result[:, 1:]

    def transport(self, points: Floats) -> Floats:
        """Unconstrained positions `T(e)` of base normals, both `(num, dim)`."""
        params = self._arguments[0].guide
        return self._guide.host_transport(params, self.target.space, points).points


def pullback_kernel(
    target: Target,
    guide: TransportGuide,
    points: Array,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
) -> Array:
    """Log density of the pullback and its gradient, `(block, 1 + dim)`, at `(block, dim)`."""

    def log_density(noise: Array) -> Array:
        z, log_q = guide.transport(variables.guide, target.space, noise)
        log_p = target.log_density(target.space.unravel(z), batch, variables.model, mutable)
        return log_p - log_q - 0.5 * jnp.sum(noise**2)

    value, gradient = jax.vmap(jax.value_and_grad(log_density))(points)
    return jnp.concatenate([value[:, None], gradient], axis=1)
