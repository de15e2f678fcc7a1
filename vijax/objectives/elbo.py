"""The evidence lower bound, as a loss."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax._contracts import (
    Batch,
    DensityGuide,
    Draw,
    EntropyGuide,
    Guide,
    PyTree,
    StratifiedGuide,
    Target,
    Variables,
)
from vijax._errors import GuideError
from vijax.objectives.particles import check_num, merge
from vijax.objectives.stratified import stratified

Estimator = Literal["auto", "entropy", "stl", "plain"]


@dataclasses.dataclass(frozen=True)
class ELBO:
    """Negative evidence lower bound, `-E_q[log p(x, z) - log q(z)]`, by reparameterised draws.

    All estimators have the same expectation and differ in the variance of their gradients:

    - `"entropy"`: `-E_q[log p]` by draws, the entropy in closed form (needs an `EntropyGuide`).
    - `"stl"`: sticking the landing; the guide's parameters are held fixed inside `log q`, which
      removes the score term. The gradient has no variance where the guide equals the posterior,
      but far from it large steps can run away. Needs a `DensityGuide`. Source: Sticking the
      Landing, Roeder, Wu, Duvenaud, 2017.
    - `"plain"`: the draws' own `log q`; any guide.
    - `"auto"`: `"entropy"` where there is one, else `"plain"`, in phase 0; from the first
      reduction of the step size on `"stl"`, unless the guide is factorised or has no density. Of
      a mixture every component is drawn from, so that its weights get an exact gradient.

    Args:
        num_particles: draws averaged per step.
        estimator: one of the above.

    Raises:
        GuideError: on use, if the guide lacks what the estimator requires.
    """

    num_particles: int = 1
    estimator: Estimator = "auto"

    def __post_init__(self) -> None:
        check_num(self.num_particles)
        if self.estimator not in get_args(Estimator):
            raise ValueError(
                f"estimator: expected one of {list(get_args(Estimator))}, got {self.estimator!r}."
            )

    def __call__(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
        phase: Array,
    ) -> tuple[Array, dict[str, PyTree]]:
        early, late = self._resolve(guide)

        def log_q(estimator: str, key: Array, draw: Draw) -> Array:
            if estimator == "entropy":
                assert isinstance(guide, EntropyGuide)
                return -guide.entropy(variables.guide, target.space)
            if estimator == "stl":
                assert isinstance(guide, DensityGuide)
                return guide.path_log_q(variables.guide, target.space, key, draw, batch)
            return draw.log_q

        def particle(key: Array) -> tuple[Array, dict[str, PyTree]]:
            if isinstance(guide, StratifiedGuide) and self.estimator == "auto":
                return stratified(variables, mutable, key, target, guide, batch, phase)
            # the step's key draws from the guide; one derived from it, never computed unless the
            # model draws too, is for the model
            model_key = jax.random.fold_in(key, 1)
            draw = guide.draw(variables.guide, target.space, key, batch)
            if late == early:
                subtracted = log_q(early, key, draw)
            else:  # a branch, since a triangular solve costs as much as a small model
                subtracted = lax.cond(
                    phase > 0, lambda: log_q(late, key, draw), lambda: log_q(early, key, draw)
                )
            log_p, after = target.evaluate(
                draw.z, batch._replace(key=model_key), variables.model, mutable
            )
            return subtracted - log_p, after

        if self.num_particles == 1:
            return particle(key)
        losses, states = jax.vmap(particle)(jax.random.split(key, self.num_particles))
        return jnp.mean(losses), jax.tree.map(merge, states)

    def _resolve(self, guide: Guide) -> tuple[str, str]:
        """The estimators of phase 0 and of later phases."""
        if self.estimator == "auto":
            early = "entropy" if isinstance(guide, EntropyGuide) else "plain"
            late = "stl" if isinstance(guide, DensityGuide) and not guide.factorised else early
            return early, late
        needed = {"entropy": EntropyGuide, "stl": DensityGuide}.get(self.estimator, Guide)
        if not isinstance(guide, needed):
            raise GuideError(
                f"estimator {self.estimator!r}: expected a {needed.__name__}, got {guide!r}. "
                "Use estimator='plain' or another guide."
            )
        return self.estimator, self.estimator
