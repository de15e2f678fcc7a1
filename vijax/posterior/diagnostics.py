"""The diagnostics of a fit as fields: what its report says, for programs."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vijax.algorithms import Gradient
from vijax.diagnostics.chain_check import ChainCheck
from vijax.diagnostics.diagnosis import Status
from vijax.diagnostics.earlier_data import EarlierData
from vijax.diagnostics.predictions import Predictions
from vijax.objectives.describe import describe_gradients
from vijax.posterior.label_switching import advice, remarks
from vijax.posterior.labels import coordinate_labels
from vijax.posterior.latents import Latents, latents_of_fit
from vijax.posterior.result import FitResult
from vijax.runtime.stopwatch import Timing

if TYPE_CHECKING:
    from vijax.posterior.tables import Table


class Corrections(NamedTuple):
    """Effect of the corrections by unconstrained coordinate, the largest first.

    Attributes:
        labels: of the coordinates.
        columns: by name, `(dim,)`; see `FitDiagnostics.corrections`.
    """

    labels: list[str]
    columns: dict[str, np.ndarray]


class ChainDiagnostics(NamedTuple):
    """Short HMC chains that start at draws from the guide.

    Attributes:
        num_chains: number of chains.
        num_gradient_evaluations: of each chain.
        converged: whether they are independent of their starts, no longer drift, and none is stuck.
        drift: largest change of a moment that is still expected, in standard deviations; infinite
            if the chains were too short to assess it.
        acceptance_rate: mean acceptance probability.
        stuck_share: share of the chains that hardly move.
        max_mean_shift: largest difference of a posterior mean from the guide's, in sds.
        max_log_sd_shift: largest difference of a log standard deviation.
        max_se: largest standard error of these differences.
    """

    num_chains: int
    num_gradient_evaluations: int
    converged: bool
    drift: float
    acceptance_rate: float
    stuck_share: float
    max_mean_shift: float
    max_log_sd_shift: float
    max_se: float


@dataclasses.dataclass(frozen=True, eq=False)
class FitDiagnostics:
    """The diagnostics behind a status; `posterior.report()` is their text.

    What does not apply to a fit is `nan`, `None` or empty.

    Attributes:
        status: `"certified"`, `"corrected"`, `"approximate"` or `"failed"`; see `Posterior.status`.
        remarks: on the model and its data, in words: label switching, nothing observed, ...
        reasons: the diagnostics in words, one sentence each.
        advice: what to try next, empty where nothing is needed.
        guide: the variational family, as text.
        plan: of a conjugate guide its blocks, their families and updates, of expectation
            propagation its sites, in words.
        dim: number of unconstrained coordinates.
        stop_reason: why the optimization stopped.
        converged: whether it converged.
        seconds: wall-clock time of the fit, compilation included.
        timing: how they were spent, see `Posterior.timing`.
        num_gradient_evaluations: points at which a direct solver evaluated the log density and its
            gradient; `None` for gradient steps, automatic fits and fits from a file.
        elbo: evidence lower bound in nats, from fresh draws.
        elbo_se: its standard error.
        log_evidence: log marginal likelihood in nats.
        log_evidence_se: its standard error, infinite where weights are too unreliable for an
            estimate.
        log_evidence_method: `"importance"`, `"bridge"` or `"enumeration"`.
        ep_log_evidence: that of expectation propagation: an approximation, not a bound.
        khat: Pareto k-hat of the importance weights, 0 if they are equal.
        ess: effective sample size of the weighted draws.
        num_draws: draws behind `elbo`, `khat` and `ess`.
        chains: the check by short HMC chains; `None` if there was none.
        num_modes: separate modes found, the one that the guide covers included.
        more_modes: whether the search for modes reached its limit while still finding new ones.
        predictions: of rows that were held out (`fit(..., holdout=)`); `None` if there were none.
        earlier: the posteriors that took the place of earlier data, see `Posterior.update`; `None`
            without them.
        latents: how much the latents that an amortized guide infers are used, of rows in memory.
        data_warnings: what the precision of the device loses of the data, in words.
        marginalized: number of values of each discrete site that is marginalized exactly.
        discrete: number of values of each discrete site in the guide, 0 if countably many.
        discrete_gradients: their gradient estimator, as text.
        changes: the columns of `corrections`, as arrays.
    """

    status: Status
    remarks: tuple[str, ...]
    reasons: tuple[str, ...]
    advice: str
    guide: str
    plan: tuple[str, ...]
    dim: int
    stop_reason: str
    converged: bool
    seconds: float
    timing: Timing | None
    num_gradient_evaluations: int | None
    elbo: float
    elbo_se: float
    log_evidence: float
    log_evidence_se: float
    log_evidence_method: str | None
    ep_log_evidence: float
    khat: float
    ess: float
    num_draws: int
    chains: ChainDiagnostics | None
    num_modes: int
    more_modes: bool
    predictions: Predictions | None
    earlier: EarlierData | None
    latents: Latents | None
    data_warnings: tuple[str, ...]
    marginalized: dict[str, int]
    discrete: dict[str, int]
    discrete_gradients: str
    changes: Corrections = dataclasses.field(repr=False)

    @property
    def corrections(self) -> Table:
        """Effect of the corrections by unconstrained coordinate, the largest first, as a DataFrame.

        Columns: `psis_shift`, the change of the mean by importance weights in standard deviations,
        and `psis_sd_ratio`, the factor by which the standard deviation changes (`exact_...` where
        all discrete values were enumerated); where there are chains `mcmc_shift` and
        `mcmc_sd_ratio` by these, each with its standard error (`..._se`).
        """
        from vijax.posterior.tables import Table  # imports pandas, which is slow

        table = Table(self.changes.columns, index=self.changes.labels)
        table.attrs["decimals"] = 3
        return table


def fit_diagnostics(result: FitResult) -> FitDiagnostics:
    """See `Posterior.diagnostics`."""
    assessment, target = result.assessment, result.target
    diagnosis, found = assessment.diagnosis, assessment.diagnostics
    importance, sites = found.importance, result.sites
    return FitDiagnostics(
        status=diagnosis.status,
        remarks=remarks(result),
        reasons=diagnosis.reasons,
        advice=advice(result),
        guide=repr(result.guide),
        plan=(*result.guide.plan_lines(), *(() if sites is None else sites.plan)),
        dim=target.space.dim,
        stop_reason=result.stop_reason,
        converged=bool(result.converged),
        seconds=result.seconds,
        timing=result.timing,
        num_gradient_evaluations=result.num_evaluations,
        elbo=float(assessment.elbo),
        elbo_se=float(assessment.elbo_se),
        log_evidence=math.nan if importance is None else importance.log_evidence,
        log_evidence_se=math.nan if importance is None else importance.log_evidence_se,
        log_evidence_method=None if importance is None else importance.method,
        ep_log_evidence=math.nan if sites is None else sites.log_evidence,
        khat=result.khat,
        ess=math.nan if importance is None else importance.ess,
        num_draws=found.num_draws,
        chains=None if assessment.check is None else _chains(assessment.check),
        num_modes=found.num_modes,
        more_modes=bool(found.more_modes),
        predictions=found.predictions,
        earlier=found.earlier,
        latents=latents_of_fit(result),
        data_warnings=found.data_warnings,
        marginalized=dict(target.marginalized.sizes),
        discrete={site.name: site.cardinality or 0 for site in target.space.discrete.sites},
        discrete_gradients=_discrete_gradients(result),
        changes=_changes(result),
    )


def _chains(check: ChainCheck) -> ChainDiagnostics:
    return ChainDiagnostics(
        num_chains=check.num_chains,
        num_gradient_evaluations=check.num_gradients,
        converged=check.converged,
        drift=max(float(check.drift.max(initial=0.0)), check.log_density_drift),
        acceptance_rate=check.accept_rate,
        stuck_share=check.stuck_share,
        max_mean_shift=float(np.abs(check.mean).max(initial=0.0)),
        max_log_sd_shift=float(np.abs(check.log_sd).max(initial=0.0)),
        max_se=check.error,
    )


def _changes(result: FitResult) -> Corrections:
    """Changes by importance correction or enumeration, and by chains."""
    assessment = result.assessment
    exact, check = assessment.diagnostics.enumeration, assessment.check
    shift = assessment.shift if exact is None else exact
    if shift is None:
        return Corrections([], {})
    method = "psis" if exact is None else "exact"
    columns = {f"{method}_shift": shift.mean, f"{method}_sd_ratio": np.exp(shift.log_sd)}
    size = np.maximum(np.abs(shift.mean), np.abs(shift.log_sd))
    if check is not None:
        ratio = np.exp(check.log_sd)
        columns |= {"mcmc_shift": check.mean, "mcmc_shift_se": check.mean_se}
        columns |= {"mcmc_sd_ratio": ratio, "mcmc_sd_ratio_se": ratio * check.log_sd_se}
        size = np.maximum(size, np.maximum(np.abs(check.mean), np.abs(check.log_sd)))
    labels, order = coordinate_labels(result), np.argsort(-size)
    columns = {name: column[order] for name, column in columns.items()}
    return Corrections([labels[i] for i in order], columns)


def _discrete_gradients(result: FitResult) -> str:
    """Gradient estimators of the discrete sites' parameters; empty if there were no gradients."""
    algorithm = None if result.engine is None else result.engine.algorithm
    objective = algorithm.objective if isinstance(algorithm, Gradient) else None
    return describe_gradients(objective, result.target, result.batch)
