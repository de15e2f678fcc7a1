"""What the diagnosis of a fit says, and the quantities that it is based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from vijax.diagnostics.chain_check import ChainCheck
from vijax.diagnostics.earlier_data import EarlierData
from vijax.diagnostics.enumeration import Comparison
from vijax.diagnostics.importance import Importance
from vijax.diagnostics.predictions import Predictions
from vijax.diagnostics.shift import Shift
from vijax.diagnostics.stationarity import Stationarity
from vijax.diagnostics.stein_discrepancy import Discrepancy

Status = Literal["certified", "corrected", "approximate", "failed"]
TRUSTED: tuple[Status, ...] = ("certified", "corrected")


class Diagnosis(NamedTuple):
    """Reliability of a fit.

    Attributes:
        status: `"certified"`, the guide's draws are accurate; `"corrected"`, draws corrected by
            importance resampling, chains or enumeration are; `"approximate"`, accuracy is not
            verified, see the reasons; `"failed"`, do not use.
        reasons: the diagnostics in words.
        advice: what to try next, empty when nothing is needed.
    """

    status: Status
    reasons: tuple[str, ...]
    advice: str


class Diagnostics(NamedTuple):
    """The quantities that a diagnosis is based on.

    Attributes:
        importance: importance sampling from the guide, `None` where it does not apply (a point
            estimate, minibatches).
        shift: change of the moments by importance correction, `None` likewise.
        check: comparison with short chains, `None` where they were not run.
        stationarity: distance of a Gaussian guide from its optimum, `None` for other guides.
        use_chains: whether states of the chains are available to replace the guide's draws.
        converged: whether the optimization converged.
        nonfinite_steps: descriptions of the non-finite steps.
        num_draws: draws behind `importance`.
        finite_share: share of them with a finite density under the model.
        least_share: what this must be for a fit not to have failed; less where a solver allows for
            likelihoods that are zero.
        num_modes: separate modes found, the one that the guide covers included.
        more_modes: whether the search for modes reached its limit while finding new ones.
        rounding: rounding error of the log density that all draws share, in nats.
        improper: direction in which the log density does not fall, empty if none was found.
        unsearched: why modes may be missing, in words; empty if they were searched for.
        discrepancy: Stein discrepancy of `num_draws` particles, the only diagnostic for them.
        data_warnings: what the precision of the device loses of the data, in words.
        out_of_time: whether chains were not run because the time limit of the fit had passed.
        discrete: whether there are sites without a gradient, for which no chains are run.
        enumeration: comparison with the exact posterior of discrete sites, `None` where these have
            too many joint values.
        remarks: on the model and its data, in words; they do not bear on the accuracy.
        failure_advice: what to try if the fit fails, empty for the usual.
        cut_short: why the fit ended before all checks were made, in words; empty if they were.
        started: whether there is any result, other than initial values.
        wrong_gradient: sites with a gradient that is not the log density's; `None` if not checked.
        network: whether there are weights of networks, which only predictions check.
        predictions: of held-out rows, `None` if there are none.
        bounds: sites that are stochastic bounds, and whether they are bounds on a density.
        parameters_only: whether there are no latent sites.
        earlier: the posterior of earlier data in place of priors, `None` if there is none.
    """

    importance: Importance | None
    shift: Shift | None
    check: ChainCheck | None = None
    use_chains: bool = False
    converged: bool = True
    nonfinite_steps: Sequence[object] = ()
    num_draws: int = 4000
    finite_share: float = 1.0
    least_share: float = 0.5
    num_modes: int = 1
    stationarity: Stationarity | None = None
    discrepancy: Discrepancy | None = None
    more_modes: bool = False
    improper: str = ""
    unsearched: str = ""
    rounding: float = 0.0
    data_warnings: tuple[str, ...] = ()
    out_of_time: bool = False
    discrete: bool = False
    enumeration: Comparison | None = None
    cut_short: str = ""
    started: bool = True
    wrong_gradient: tuple[str, ...] | None = None
    remarks: tuple[str, ...] = ()
    failure_advice: str = ""
    network: bool = False
    predictions: Predictions | None = None
    bounds: Mapping[str, bool] = {}
    parameters_only: bool = False
    earlier: EarlierData | None = None
