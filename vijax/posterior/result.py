"""The result of a fit: the state of a `Posterior`, on which its methods operate."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

from vijax.auto.history import Attempt
from vijax.contracts import Batch, Data, Guide, PyTree, SiteSummary, Target, Variables
from vijax.diagnostics.assessment import Assessment
from vijax.engine import all_rows
from vijax.engine.engine import Engine
from vijax.engine.run import Run
from vijax.model import Arguments, Call
from vijax.model.data_dependence import required_arrays
from vijax.posterior.components import Relabeling
from vijax.runtime.stopwatch import Timing


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """The result of a fit.

    Attributes:
        model: the model function.
        arguments: the static part of its arguments.
        target: its log density.
        guide: the variational family.
        variables: the guide's parameters and the model's `param` sites (unconstrained).
        mutable: the model's mutable state.
        batch: the data.
        assessment: the diagnostics behind the status.
        stop_reason: why the fit stopped.
        converged: whether the optimization converged.
        seconds: wall-clock time of the fit, compilation included.
        timing: how they were spent; `None` in files of earlier versions.
        engine: of the gradient steps, to resume them; `None` after a direct solver.
        run: the state of the gradient steps; `None` likewise.
        solver_losses: negative ELBO estimates of a direct solver.
        solver_steps: number of gradient steps before a direct solver, or of a flow's.
        history: the stages of an automatic fit, in order; empty for a named guide.
        missing: names of arrays that were not passed to `load`, or that are not in memory.
        unknown: deterministics that cannot be computed without them.
        sites: the approximate terms of expectation propagation.
        held_out: the model's arguments at the rows that check predictions; not saved.
        relabeling: what gives the components of draws the same labels; empty for the guide's own.
        unsaved: options that `resume` needs and that were not passed to `load`.
        other_rows: whether the data are other rows than those of the fit, see `Posterior.at`.
        num_evaluations: points at which a direct solver evaluated the log density; `None` if not
            known.
    """

    model: Callable[..., Any]
    arguments: Arguments
    target: Target
    guide: Guide
    variables: Variables
    mutable: dict[str, PyTree]
    batch: Batch
    assessment: Assessment
    stop_reason: str
    converged: bool
    seconds: float
    timing: Timing | None = None
    engine: Engine | None = None
    run: Run | None = None
    solver_losses: tuple[float, ...] = ()
    solver_steps: int = 0
    history: tuple[Attempt, ...] = ()
    missing: tuple[str, ...] = ()
    unknown: frozenset[str] = frozenset()
    unsaved: tuple[str, ...] = ()
    other_rows: bool = False
    num_evaluations: int | None = None
    relabeling: tuple[Relabeling, ...] = ()
    sites: SiteSummary | None = None
    held_out: Call | None = None

    @property
    def status(self) -> str:
        """See `Posterior.status`."""
        return self.assessment.diagnosis.status

    @property
    def corrects(self) -> bool:
        """Whether draws are corrected by default: they are weighted by the data of the fit."""
        return self.status == "corrected" and not self.other_rows

    @property
    def params(self) -> PyTree:
        """The guide's parameters."""
        return self.variables.guide

    @property
    def khat(self) -> float:
        """See `Posterior.khat`."""
        importance = self.assessment.importance
        return math.nan if importance is None else importance.khat

    @functools.cached_property
    def data(self) -> Data | None:
        """All rows of data, in memory or in blocks; `None` where they are not available."""
        if not self.missing:
            return all_rows.all_rows(self.target, self.batch, {})
        if self.guide.amortized or not set(self.missing) <= self.arguments.sources.keys():
            return None
        return all_rows.all_rows(self.target, self.batch, self.arguments.sources)

    @functools.cached_property
    def missing_for_guide(self) -> frozenset[str]:
        """The missing arrays from which an amortized guide infers latents."""
        if not (self.missing and self.guide.amortized):
            return frozenset()
        state = (self.target, self.guide, self.variables, self.mutable, self.batch)
        return required_arrays(*state) & {*self.missing}
