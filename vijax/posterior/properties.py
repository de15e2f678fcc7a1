"""Properties of a fit: status, guide, ELBO, k-hat, history."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from vijax.auto.history import Attempt
from vijax.contracts import Batch, Guide, PyTree, Space, Target
from vijax.posterior.diagnostics import FitDiagnostics, fit_diagnostics
from vijax.posterior.labels import short_names
from vijax.posterior.report import overview
from vijax.posterior.result import FitResult
from vijax.posterior.table import with_error
from vijax.runtime.stopwatch import Timing

_MAX_GUIDE = 40  # characters of the guide in one line


class FitProperties:
    """Properties of a `Posterior` that need no draws.

    Args:
        result: the result of a fit.
    """

    def __init__(self, result: FitResult) -> None:
        self._result = result

    def __repr__(self) -> str:
        guide = repr(self.guide)
        guide = guide if len(guide) <= _MAX_GUIDE else f"{type(self.guide).__name__}(...)"
        elbo = "" if np.isnan(self.elbo) else f", ELBO {with_error(self.elbo, self.elbo_se)}"
        return f"{type(self).__name__}({self.status}, {guide}, dim {self.space.dim}{elbo})"

    def _repr_html_(self) -> str:
        return overview(self.diagnostics)

    @property
    def diagnostics(self) -> FitDiagnostics:
        """The diagnostics behind `status` as fields; `report()` is their text."""
        return fit_diagnostics(self._result)

    @property
    def status(self) -> str:
        """Reliability of the fit.

        `"certified"`: the guide's draws are accurate; `"corrected"`: draws are corrected by
        default, by importance resampling or by short chains; `"approximate"`: accuracy not
        verified; `"failed"`: do not use. `report()` gives the reasons.
        """
        return self._result.status

    @property
    def elbo(self) -> float:
        """Evidence lower bound in nats, estimated from fresh draws; see `elbo_se`."""
        return self._result.assessment.elbo

    @property
    def elbo_se(self) -> float:
        """Standard error of `elbo` in nats."""
        return self._result.assessment.elbo_se

    @property
    def khat(self) -> float:
        """Pareto k-hat of the importance weights; 0 if they are equal, `nan` if there are none."""
        return self._result.khat

    @property
    def losses(self) -> np.ndarray:
        """Negative ELBO estimates, in nats.

        `(num_steps,)`, or `(num_steps, num_restarts)` for several restarts; for a direct solver
        one per iteration, empty if it estimates none.
        """
        run = self._result.run
        return np.asarray(self._result.solver_losses, float) if run is None else run.curves

    @property
    def num_steps(self) -> int:
        """Number of gradient steps; 0 for direct solvers that take none."""
        run = self._result.run
        return self._result.solver_steps if run is None else run.step

    @property
    def seconds(self) -> float:
        """Wall-clock time of the fit, compilation included."""
        return self._result.seconds

    @property
    def timing(self) -> Timing | None:
        """How these seconds were spent, a `NamedTuple`: `trace`, `compile`, `solve`, `check`.

        Their sum is `seconds`. `trace` is for reading the model and tracing its programs,
        `compile` for compiling them or loading what an earlier process compiled, `check` for the
        checks and the correction of draws, `solve` all others. Then the number of programs
        compiled, `num_compiled`, and loaded, `num_loaded`. `None` for a file of an earlier version.
        """
        return self._result.timing

    @property
    def stop_reason(self) -> str:
        """Why the fit stopped."""
        return self._result.stop_reason

    @property
    def converged(self) -> bool:
        """Whether the optimization converged."""
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
    def guide_params(self) -> dict[str, PyTree]:
        """The fitted parameters of the guide, by name.

        Of a NumPyro guide its `param` sites in their constraints, of a conjugate guide the
        parameters of each block's family, of others none.
        """
        result = self._result
        program = result.target.program(_guide_params, result.guide)
        return jax.device_get(program(result.params, result.batch))

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

        `space.coordinates()` are the labels of the rows of `covariance()`.
        """
        return self._result.target.space

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Labels of the elements of sites by dimension, given or of categorical columns."""
        return dict(self._result.arguments.coords)

    @property
    def levels(self) -> dict[str, tuple[Any, ...]]:
        """Labels of the categorical columns of the data, in the order of their codes.

        A predicted code of a categorical outcome has the label `levels["outcome"][code]`.
        """
        levels = self._result.arguments.levels
        return {short: levels[name] for name, short in short_names(levels).items()}

    @property
    def centering(self) -> dict[str, np.ndarray]:
        """Centering weights of hierarchical sites by coordinate, a value for `fit(centering=)`."""
        return jax.device_get(dict(self._result.batch.centering))


def _model_params(
    target: Target, model: dict[str, PyTree], batch: Batch, mutable: dict[str, PyTree]
) -> dict[str, PyTree]:
    return target.constrain_params(model, batch, mutable)


def _guide_params(target: Target, guide: Guide, params: PyTree, batch: Batch) -> dict[str, PyTree]:
    return guide.named_params(params, target.space, batch)
