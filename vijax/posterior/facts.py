"""The facts of a fit: its status, its guide, its figures."""

from __future__ import annotations

import jax
import numpy as np

from vijax.auto.history import Attempt
from vijax.contracts import Batch, Guide, PyTree, Space, Target
from vijax.posterior.result import FitResult


class Facts:
    """What a `Posterior` knows without drawing from it.

    Args:
        result: of a fit.
    """

    def __init__(self, result: FitResult) -> None:
        self._result = result

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.status}: {type(self.guide).__name__} over {len(self.space.sites)} "
            f"sites, dim {self.space.dim}, elbo {self.elbo:.2f} +- {self.elbo_se:.2g}, k-hat "
            f"{self.khat:.2f}, {self.num_steps} steps in {self.seconds:.1f} s; {self.stop_reason})"
        )

    @property
    def status(self) -> str:
        """How far the answer can be trusted.

        `"certified"`: use the guide's draws; `"corrected"`: draws are corrected by default, by
        importance resampling or by short chains; `"approximate"`: no guarantee; `"failed"`: do
        not use. `report()` says why.
        """
        return self._result.status

    @property
    def elbo(self) -> float:
        """Evidence lower bound in nats, from fresh draws; `elbo_se` is its standard error."""
        return self._result.assessment.elbo

    @property
    def elbo_se(self) -> float:
        """Standard error of `elbo` in nats."""
        return self._result.assessment.elbo_se

    @property
    def khat(self) -> float:
        """Pareto k-hat of the importance weights; `nan` where they do not apply."""
        return self._result.khat

    @property
    def losses(self) -> np.ndarray:
        """Negative ELBO estimates, in nats.

        `(num_steps,)`, or `(num_steps, num_restarts)` for several restarts; of a direct solver one
        for every round of its iteration, empty where it makes none.
        """
        run = self._result.run
        return np.asarray(self._result.solver_losses, float) if run is None else run.curves

    @property
    def num_steps(self) -> int:
        """Gradient steps taken; 0 for direct solvers."""
        return 0 if self._result.run is None else self._result.run.step

    @property
    def seconds(self) -> float:
        """Wall-clock time of the fit, compilation included."""
        return self._result.seconds

    @property
    def stop_reason(self) -> str:
        """Which rule ended the fit."""
        return self._result.stop_reason

    @property
    def converged(self) -> bool:
        """Whether the fit ended because there was nothing left to gain."""
        return self._result.converged

    @property
    def history(self) -> tuple[Attempt, ...]:
        """The stages of an automatic fit, in order; empty for a named guide."""
        return self._result.history

    @property
    def guide(self) -> Guide:
        """The variational family."""
        return self._result.guide

    @property
    def params(self) -> PyTree:
        """The guide's parameters, a pytree."""
        return self._result.params

    @property
    def model_params(self) -> dict[str, PyTree]:
        """The model's fitted `param` sites in their constraints, by name."""
        result = self._result
        if not result.variables.model:
            return {}
        program = result.target.program(_model_params)
        return jax.device_get(program(result.variables.model, result.batch, result.mutable))

    @property
    def space(self) -> Space:
        """The latent sites and their unconstrained coordinates.

        `space.coordinates()` labels the rows of `covariance()`.
        """
        return self._result.target.space

    @property
    def centering(self) -> dict[str, np.ndarray]:
        """Centering weights of hierarchical sites by coordinate, as `fit(centering=)` takes them."""
        return jax.device_get(dict(self._result.batch.centering))


def _model_params(
    target: Target, model: dict[str, PyTree], batch: Batch, mutable: dict[str, PyTree]
) -> dict[str, PyTree]:
    return target.constrain_params(model, batch, mutable)
