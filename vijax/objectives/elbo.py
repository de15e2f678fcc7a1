"""The evidence lower bound (ELBO), by reparameterized draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import (
    AmortizedGuide,
    ControlVariateObjective,
    DensityGuide,
    DiscreteGuide,
    Draw,
    EnsembleGuide,
    EntropyGuide,
    Guide,
    LossContext,
    MixtureGuide,
    NormalNoiseGuide,
    Part,
    Position,
    PyTree,
    ScheduledObjective,
    Terms,
    Variables,
)
from vijax.objectives.divergence_weight import (
    Schedule,
    checked_weight,
    weight_at,
    weighted_target,
)
from vijax.objectives.estimators.discrete import Estimator as DiscreteEstimator
from vijax.objectives.estimators.discrete import (
    EstimatorContext,
    check_discrete,
    elbo_integrand,
    select_estimator,
)
from vijax.objectives.estimators.particles import (
    check_num,
    merge_mutable,
    model_batch,
    with_gradient_of,
)
from vijax.objectives.estimators.quasi_monte_carlo import Draws, quasi_normals
from vijax.objectives.estimators.rao_blackwell import coupled_size
from vijax.objectives.estimators.stratified import stratified_elbo
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import Normals

Estimator = Literal["auto", "entropy", "stl", "plain"]


@dataclasses.dataclass(frozen=True)
class ELBO(ControlVariateObjective, ScheduledObjective):
    """Negative evidence lower bound, `-E_q[log p(x, z) - log q(z)]`, by reparameterized draws.

    All estimators have the same expectation and differ in the variance of their gradients:

    - `"entropy"`: `-E_q[log p]` by draws, the entropy in closed form (needs an `EntropyGuide`).
    - `"stl"`: sticking the landing; `log q(z; stop_gradient(params))`, which removes the score
      term. The gradient has zero variance where the guide equals the posterior; far from it large
      steps can diverge. Needs a `DensityGuide`. Source: Sticking the Landing, Roeder, Wu,
      Duvenaud, 2017.
    - `"plain"`: `log q` of the draws, fully differentiated; any guide.
    - `"auto"`: in phase 0 `"entropy"` if the guide has one, else `"plain"`; from the first
      step-size reduction on `"stl"`, unless the guide is factorized or has no density. For an
      amortized guide that is factorized, or infers all latents, `"stl"` throughout. For a mixture
      stratified sampling, with a draw from every component and an exact gradient in the weights.

    Args:
        num_particles: draws averaged per step.
        estimator: one of the above.
        discrete: gradient estimator for discrete sites in the guide: a name or an estimator from
            `vijax.objectives.estimators.discrete`; by default the unbiased one of lowest variance
            at an affordable cost.
        draws: `"independent"`, or quasi-Monte Carlo draws: `"latin_hypercube"`, of lowest variance
            for up to about 60 draws, or `"sobol"` for more, a power of two. For guides
            reparameterized by standard normals (`NormalNoiseGuide`: Gaussian, flow and amortized
            guides). Source: Quasi-Monte Carlo variational inference, Buchholz, Wenzel, Mandt,
            2018.
        beta: weight of the divergence from the prior, `-E_q[log p(x | z)] + beta KL(q || p(z))`: a
            number, or a function of the step such as an optax schedule, which needs `num_steps=`
            and should end at 1 (against posterior collapse: annealing, or cycles by
            `optax.join_schedules`). `losses` of the fit have that weight; the ELBO of its posterior
            never has, and with a schedule the iterates of the largest ELBO are returned. Sources:
            Generating Sentences from a Continuous Space, Bowman et al., 2016; Cyclical Annealing
            Schedule, Fu et al., 2019; beta-VAE, Higgins et al., 2017.

    Raises:
        GuideError: on use, if the guide lacks what the estimator or the draws require.
    """

    num_particles: int = 1
    estimator: Estimator = "auto"
    discrete: str | DiscreteEstimator = "auto"
    draws: Draws = "independent"
    beta: float | Schedule | Callable[[Any], Any] = 1.0

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
        check_discrete(self.discrete)
        object.__setattr__(self, "beta", checked_weight(self.beta))

    @property
    def scheduled(self) -> bool:
        return isinstance(self.beta, Schedule)

    @property
    def has_elbo_optimum(self) -> bool:
        return self.scheduled or self.beta == 1.0

    def init_control_params(self, context: LossContext) -> PyTree:
        space = context.target.space.discrete
        if not space.sites:
            return ()
        term_info = context.target.term_info(context.batch)
        widths = {
            s.name: coupled_size(s, term_info) * max((s.cardinality or 1) - 1, 0)
            for s in space.sites
        }
        return select_estimator(self.discrete, space, term_info).init(context.key, widths)

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        key, guide = context.key, context.guide
        if isinstance(guide, EnsembleGuide):
            return self._of_members(guide, variables, context)
        weight: Any = None
        if self.beta != 1.0:
            weight, context = self._weighted(context)

        def particle(key: Array, noise: Any) -> tuple[Array, dict[str, PyTree]]:
            if isinstance(guide, MixtureGuide) and self.estimator == "auto":
                return stratified_elbo(variables, guide, context._replace(key=key))
            if isinstance(guide, DiscreteGuide):
                return self._discrete_particle(key, guide, variables, context)
            part = Part(guide, variables.guide, context.target.space)
            draw, log_q = self._draw(noise, part, context)
            batch = model_batch(key, context.batch)
            if self._resolve(guide) == ("entropy", "entropy"):
                # log p is not that of the draw alone, and cancels no part of its log q
                batch = batch._replace(noise=guide.weight_noise(*part[1:]))
            log_p, after = context.target.evaluate(draw.z, batch, variables.model, context.mutable)
            return (log_q if weight is None else weight * log_q) - log_p, after

        if self.num_particles == 1:
            return particle(key, key)
        keys, devices = jax.random.split(key, self.num_particles), context.target.devices
        noise = devices.shard_particles(self._noise(keys, key, variables, context))
        losses, states = jax.vmap(particle)(devices.shard_particles(keys), noise)
        return jnp.mean(losses), jax.tree.map(merge_mutable, states)

    def _weighted(self, context: LossContext) -> tuple[Any, LossContext]:
        """The weight of the divergence in this step, and the context with that of the priors."""
        if isinstance(context.guide, MixtureGuide) and self.estimator == "auto":
            raise GuideError(
                f"beta: expected a guide that is no mixture, got {context.guide!r}. Use Tempered."
            )
        assert not callable(self.beta)
        weight = weight_at(self.beta, context.batch)
        return weight, context._replace(target=weighted_target(context.target, weight))

    def _of_members(
        self, guide: EnsembleGuide, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        """The mean over the members of an ensemble; each has the gradient of its own loss."""
        keys = jax.random.split(context.key, guide.num_members)

        def one(params: PyTree, key: Array) -> tuple[Array, dict[str, PyTree]]:
            own = variables._replace(guide=params)
            return self(own, context._replace(key=key, guide=guide.member))

        losses, states = jax.vmap(one)(variables.guide, keys)
        loss = with_gradient_of(jnp.mean(losses), jnp.sum(losses))
        return loss, jax.tree.map(merge_mutable, states)

    def _noise(
        self, keys: Array, key: Array, variables: Variables, context: LossContext
    ) -> Array | Normals:
        """The key or the standard normals of each particle's draw."""
        if self.draws == "independent":
            return keys
        guide, space = context.guide, context.target.space
        if not isinstance(guide, NormalNoiseGuide):
            raise GuideError(
                f"draws={self.draws!r}: expected a guide reparameterized by standard normals, such "
                f"as 'meanfield', 'fullrank', 'plates' or 'flow', for all sites, got {guide!r}."
            )
        num = guide.num_normals(variables.guide, space)
        noise_key = jax.random.fold_in(key, 3)
        return Normals(quasi_normals(self.draws, noise_key, self.num_particles, num))

    def _draw(self, key: Any, part: Part, context: LossContext) -> tuple[Draw, Array]:
        """A draw, and an estimate of `E_q[log q]`."""
        guide, params, space = part
        batch, phase = context.batch, context.phase
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
        # not a select: a triangular solve costs as much as a small model
        return draw, lax.cond(phase > 0, lambda: log_q(late), lambda: log_q(early))

    def _discrete_particle(
        self, key: Array, guide: DiscreteGuide, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        """One particle of a guide with discrete sites, by their gradient estimator."""
        target, space = context.target, context.target.space
        evaluate, part = target.terms, guide.continuous(variables.guide, space)
        draw, log_q = Draw({}, jnp.zeros(())), jnp.zeros(())
        if part is not None:
            draw, log_q = self._draw(key, part, context)
        batch = model_batch(key, context.batch)

        def terms(states: Position) -> Terms:
            return evaluate({**draw.z, **states}, batch, variables.model, context.mutable)

        families = guide.families(variables.guide, space, context.batch)
        term_info = target.term_info(context.batch)
        integrand = elbo_integrand(terms, families, space.discrete, term_info)
        estimator = select_estimator(self.discrete, space.discrete, term_info)
        discrete_key = jax.random.fold_in(key, 2)
        progress = EstimatorContext(context.phase, context.control_params)
        loss, after = estimator.estimate(discrete_key, families, integrand, progress)
        return log_q + loss, after

    def _resolve(self, guide: Guide) -> tuple[str, str]:
        """The estimators of phase 0 and of later phases."""
        if self.estimator == "auto":
            if isinstance(guide, AmortizedGuide) or (guide.amortized and guide.factorized):
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
