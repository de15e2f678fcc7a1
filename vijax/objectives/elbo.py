"""The evidence lower bound, as a loss."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import (
    ControlVariateObjective,
    DensityGuide,
    DiscreteGuide,
    Draw,
    EntropyGuide,
    Guide,
    NormalNoiseGuide,
    Part,
    Position,
    PyTree,
    LossContext,
    MixtureGuide,
    Terms,
    Variables,
)
from vijax.objectives.estimators.discrete import Estimator as DiscreteEstimator
from vijax.objectives.estimators.discrete import EstimatorContext, check, chosen, elbo_integrand
from vijax.objectives.estimators.particles import check_num, merge, model_batch
from vijax.objectives.estimators.quasi_monte_carlo import Draws, quasi_normals
from vijax.objectives.estimators.rao_blackwell import row_size
from vijax.objectives.estimators.stratified import stratified
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import Normals

Estimator = Literal["auto", "entropy", "stl", "plain"]


@dataclasses.dataclass(frozen=True)
class ELBO(ControlVariateObjective):
    """Negative evidence lower bound, `-E_q[log p(x, z) - log q(z)]`, by reparameterized draws.

    All estimators have the same expectation and differ in the variance of their gradients:

    - `"entropy"`: `-E_q[log p]` by draws, the entropy in closed form (needs an `EntropyGuide`).
    - `"stl"`: sticking the landing; the guide's parameters are held fixed inside `log q`, which
      removes the score term. The gradient has no variance where the guide equals the posterior,
      but far from it large steps can run away. Needs a `DensityGuide`. Source: Sticking the
      Landing, Roeder, Wu, Duvenaud, 2017.
    - `"plain"`: the draws' own `log q`; any guide.
    - `"auto"`: `"entropy"` where there is one, else `"plain"`, in phase 0; from the first
      reduction of the step size on `"stl"`, unless the guide is factorized or has no density. Of
      an amortized guide `"stl"` throughout; of a mixture every component is drawn from, so that
      its weights get an exact gradient.

    Args:
        num_particles: draws averaged per step.
        estimator: one of the above.
        discrete: gradients in the probabilities of discrete sites that are not summed out: a name
            or an estimator from `vijax.objectives.estimators.discrete`, by default the unbiased one of least
            variance that can be afforded.
        draws: `"independent"`, or quasi-Monte Carlo draws, which are spread evenly: a
            `"latin_hypercube"`, of the least variance for up to some sixty of them, or `"sobol"`
            for more, of which there has to be a power of two. For guides that are made of
            standard normals (a `NormalNoiseGuide`: Gaussian ones, flows, amortized ones). Source:
            Quasi-Monte Carlo variational inference, Buchholz, Wenzel, Mandt, 2018.

    Raises:
        GuideError: on use, if the guide lacks what the estimator or the draws require.
    """

    num_particles: int = 1
    estimator: Estimator = "auto"
    discrete: str | DiscreteEstimator = "auto"
    draws: Draws = "independent"

    def __post_init__(self) -> None:
        check_num(self.num_particles)
        if self.draws not in get_args(Draws):
            raise ValueError(f"draws: expected one of {list(get_args(Draws))}, got {self.draws!r}.")
        if self.draws != "independent" and self.num_particles == 1:
            raise ValueError(f"draws={self.draws!r}: expected num_particles of at least 2, got 1.")
        if self.draws == "sobol" and self.num_particles & (self.num_particles - 1):
            raise ValueError(
                f"draws='sobol': expected a power of two as num_particles, got "
                f"{self.num_particles}. Use draws='latin_hypercube' for other numbers."
            )
        if self.estimator not in get_args(Estimator):
            raise ValueError(
                f"estimator: expected one of {list(get_args(Estimator))}, got {self.estimator!r}."
            )
        check(self.discrete)

    def init_control_params(self, setting: LossContext) -> PyTree:
        space = setting.target.space.discrete
        if not space.sites:
            return ()
        layout = setting.target.term_info(setting.batch)
        widths = {
            s.name: row_size(s, layout) * max((s.cardinality or 1) - 1, 0) for s in space.sites
        }
        return select_estimator(self.discrete, space, layout).init(setting.key, widths)

    def __call__(self, variables: Variables, setting: LossContext) -> tuple[Array, dict[str, PyTree]]:
        key, guide = setting.key, setting.guide

        def particle(key: Array, own: Any) -> tuple[Array, dict[str, PyTree]]:
            if isinstance(guide, MixtureGuide) and self.estimator == "auto":
                return stratified(variables, guide, setting._replace(key=key))
            if isinstance(guide, DiscreteGuide):
                return self._discretely(key, guide, variables, setting)
            part = Part(guide, variables.guide, setting.target.space)
            draw, subtracted = self._drawn(own, part, setting)
            log_p, after = setting.target.evaluate(
                draw.z, model_batch(key, setting.batch), variables.model, setting.mutable
            )
            return subtracted - log_p, after

        if self.num_particles == 1:
            return particle(key, key)
        keys, spread = jax.random.split(key, self.num_particles), setting.target.devices
        own = spread.particles(self._own(keys, key, variables, setting))
        losses, states = jax.vmap(particle)(spread.particles(keys), own)
        return jnp.mean(losses), jax.tree.map(merge, states)

    def _own(
        self, keys: Array, key: Array, variables: Variables, setting: LossContext
    ) -> Array | Normals:
        """What each particle's draw is made of."""
        if self.draws == "independent":
            return keys
        guide, space = setting.guide, setting.target.space
        if not isinstance(guide, NormalNoiseGuide):
            raise GuideError(
                f"draws={self.draws!r}: expected a guide that is made of standard normals, such as "
                f"'meanfield', 'fullrank', 'plates' or 'flow', for all sites, got {guide!r}."
            )
        num = guide.num_normals(variables.guide, space)
        own = jax.random.fold_in(key, 3)
        return Normals(quasi_normals(self.draws, own, self.num_particles, num))

    def _drawn(self, key: Any, part: Part, setting: LossContext) -> tuple[Draw, Array]:
        """A draw, and an estimate of `E[log q]`."""
        guide, params, space = part
        batch, phase = setting.batch, setting.phase
        draw = guide.draw(params, space, key, batch)

        def log_q(estimator: str) -> Array:
            if estimator == "entropy":
                assert isinstance(guide, EntropyGuide)
                return -guide.entropy(params, space)
            if estimator == "stl":
                assert isinstance(guide, DensityGuide)
                return guide.path_log_q(params, space, key, draw, batch)
            return draw.log_q

        early, late = self._resolve(guide)
        if late == early:
            return draw, log_q(early)
        # a branch, since a triangular solve costs as much as a small model
        return draw, lax.cond(phase > 0, lambda: log_q(late), lambda: log_q(early))

    def _discretely(
        self, key: Array, guide: DiscreteGuide, variables: Variables, setting: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        """One particle where some sites are discrete: those by the estimator for them."""
        target, space = setting.target, setting.target.space
        evaluate, part = target.terms, guide.continuous(variables.guide, space)
        draw, subtracted = Draw({}, jnp.zeros(())), jnp.zeros(())
        if part is not None:
            draw, subtracted = self._drawn(key, part, setting)
        batch = model_batch(key, setting.batch)

        def terms(states: Position) -> Terms:
            return evaluate({**draw.z, **states}, batch, variables.model, setting.mutable)

        families = guide.families(variables.guide, space, setting.batch)
        layout = target.term_info(setting.batch)
        integrand = elbo_integrand(terms, families, space.discrete, layout)
        estimator = select_estimator(self.discrete, space.discrete, layout)
        state_key = jax.random.fold_in(key, 2)
        stage = EstimatorContext(setting.phase, setting.control_params)
        loss, after = estimator.estimate(state_key, families, integrand, stage)
        return subtracted + loss, after

    def _resolve(self, guide: Guide) -> tuple[str, str]:
        """The estimators of phase 0 and of later phases."""
        if self.estimator == "auto":
            if guide.amortized and guide.factorized:
                return "stl", "stl"
            early = "entropy" if isinstance(guide, EntropyGuide) else "plain"
            late = "stl" if isinstance(guide, DensityGuide) and not guide.factorized else early
            return early, late
        needed = {"entropy": EntropyGuide, "stl": DensityGuide}.get(self.estimator, Guide)
        if not isinstance(guide, needed):
            raise GuideError(
                f"estimator {self.estimator!r}: expected a {needed.__name__}, got {guide!r}. "
                "Use estimator='plain' or another guide."
            )
        return self.estimator, self.estimator
