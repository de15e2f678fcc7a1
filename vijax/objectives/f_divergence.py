"""f-divergences between posterior and guide."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import LossContext, NonElboObjective, PyTree, Variables
from vijax.objectives.estimators.particles import check_num, draw_particles, with_gradient_of
from vijax.runtime.keywords import did_you_mean


class Divergence(NamedTuple):
    """A convex `f` with `f(1) = 0`, as functions of `log w`.

    Attributes:
        f: `f(w)`.
        score_weight: `f(w) - w f'(w)` up to a constant, the factor of `dlog q` in the gradient.
    """

    f: Callable[[Array], Array]
    score_weight: Callable[[Array], Array]


def _log_mean_with_one(log_w: Array) -> Array:
    return jnp.logaddexp(log_w, 0.0) - jnp.log(2.0)


DIVERGENCES = {
    "kl": Divergence(lambda v: -v, lambda v: -v),
    "forward_kl": Divergence(lambda v: jnp.exp(v) * v, lambda v: -jnp.exp(v)),
    "chi2": Divergence(lambda v: jnp.expm1(v) ** 2, lambda v: -jnp.exp(2 * v)),
    "hellinger": Divergence(lambda v: jnp.expm1(v / 2) ** 2, lambda v: -jnp.exp(v / 2)),
    "jensen_shannon": Divergence(
        lambda v: (jnp.exp(v) * v - (1 + jnp.exp(v)) * _log_mean_with_one(v)) / 2,
        lambda v: -_log_mean_with_one(v) / 2,
    ),
    "total_variation": Divergence(lambda v: jnp.abs(jnp.expm1(v)) / 2, lambda v: -jnp.sign(v) / 2),
}


@dataclasses.dataclass(frozen=True)
class FDivergence(NonElboObjective):
    """An f-divergence, `D_f = E_q[f(w)]` with `w = p(z | x) / q(z)`, by draws from the guide.

    | name | `f(w)` |
    |---|---|
    | `"kl"` | `-log w`: `KL(q || p)`, as in the ELBO |
    | `"forward_kl"` | `w log w`: `KL(p || q)` |
    | `"chi2"` | `(w - 1)^2` |
    | `"hellinger"` | `(sqrt(w) - 1)^2` |
    | `"jensen_shannon"` | `(w log w - (1 + w) log((1 + w) / 2)) / 2` |
    | `"total_variation"` | `abs(w - 1) / 2` |

    The gradient is `E_q[(f(w) - w f'(w)) dlog q]`, with the mean of the other particles as
    baseline. The evidence in `w` is estimated from the same particles, which biases loss and
    gradient; the bias decreases with their number. Hellinger, Jensen-Shannon and total variation
    are bounded, so that their gradients vanish where the guide is far from the posterior: start
    from a good fit (`init=`). Needs a guide with a density, but no gradient of the model in its
    latent sites. Source: f-divergence variational inference, Wan, Li, Hovakimyan, 2020.

    Args:
        name: of the divergence.
        num_particles: draws per step, at least 2; importance weights are normalized over them.

    Raises:
        GuideError: on use, if the guide has no density.
    """

    name: str = "hellinger"
    num_particles: int = 64

    def __post_init__(self) -> None:
        check_num(self.num_particles, 2)
        if self.name not in DIVERGENCES:
            hint = did_you_mean(self.name, DIVERGENCES)
            raise ValueError(f"name: expected one of {list(DIVERGENCES)}, got {self.name!r}.{hint}")

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        num, divergence = self.num_particles, DIVERGENCES[self.name]
        drawn = draw_particles("score", num, variables, context)
        log_weights = stop_gradient(drawn.log_weights)
        log_w = log_weights - jax.nn.logsumexp(log_weights) + jnp.log(num)
        factor = divergence.score_weight(log_w)
        advantage = (factor - jnp.mean(factor)) / (num - 1)
        surrogate = jnp.sum(advantage * drawn.log_q)
        if variables.model:  # these ascend the log evidence
            surrogate -= jnp.sum(jax.nn.softmax(log_weights) * drawn.log_p)
        return with_gradient_of(jnp.mean(divergence.f(log_w)), surrogate), drawn.mutable
