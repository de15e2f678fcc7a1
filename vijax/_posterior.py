"""The answer of a fit: draws, predictions, evidence, and how far all of it can be trusted."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax import (
    _centring,
    _checkpoint,
    _covariance,
    _draws,
    _evidence,
    _export,
    _least,
    _outcome,
    _pointwise,
)
from vijax._blocks import all_rows
from vijax._contracts import (
    Batch,
    Blocks,
    ConditionalGuide,
    Data,
    DensityGuide,
    GaussianGuide,
    Guide,
    ParticleGuide,
    PyTree,
    Target,
    Variables,
)
from vijax._dependence import needed_arrays
from vijax._engine import Budget, Engine, Run
from vijax._errors import GuideError, ModelError, VijaxError, mismatch
from vijax._history import Attempt
from vijax._kernel import Kernel as LogDensity
from vijax._keys import as_key, fold_in
from vijax._memory import check_room, named_memory
from vijax._options import check_count
from vijax._progress import Progress
from vijax._scores import shares_all
from vijax._stein import Kernel
from vijax._summary import Summary, Weighted, report, summarise
from vijax.algorithms import Gradient
from vijax.diagnostics import weights
from vijax.diagnostics.assess import Assessment
from vijax.diagnostics.discrepancy import Discrepancy, discrepancy
from vijax.diagnostics.weights import Draws, Importance
from vijax.guides.numpyro import as_numpyro
from vijax.model import Arguments, build, predictor, run_nuts, split
from vijax.model.nuts import DENSE_DIM
from vijax.objectives.told import told

_memory_of_draws = functools.partial(
    named_memory,
    remedy="Ask for fewer draws at a time (num_draws=), with other keys for the next, or for fewer "
    "rows.",
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """An approximate posterior; made by `vijax.fit` and `vijax.load`, never by hand.

    Attributes:
        model: the model function.
        arguments: the static part of its arguments.
        target: its log density.
        guide: the variational family.
        variables: the guide's parameters and the model's `param` sites (unconstrained).
        mutable: the model's mutable state.
        batch: the data.
        assessment: the evidence behind `status`.
        stop_reason: which rule ended the fit.
        converged: whether it ended because there was nothing left to gain.
        seconds: wall-clock time of the fit, compilation included.
        engine: goes on in `resume`; `None` after a direct solver.
        run: where it goes on; `None` likewise.
        solver_losses: negative ELBO estimates of a direct solver.
        history: what the automatic fit tried, in order; empty for a guide that was named.
        missing: names of arrays that `load` was not given, or that are not in memory.
        unknown: deterministics that cannot be computed without them.
        unsaved: options that `load` was not given, and that `resume` needs.
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
    engine: Engine | None = None
    run: Run | None = None
    solver_losses: tuple[float, ...] = ()
    history: tuple[Attempt, ...] = ()
    missing: tuple[str, ...] = ()
    unknown: frozenset[str] = frozenset()
    unsaved: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """How far the answer can be trusted.

        `"certified"`: use the guide's draws; `"corrected"`: draws are corrected by default, by
        importance resampling or by short chains; `"approximate"`: no guarantee; `"failed"`: do
        not use. `report()` says why.
        """
        return self.assessment.verdict.status

    @property
    def params(self) -> PyTree:
        """The guide's parameters, a pytree."""
        return self.variables.guide

    @property
    def model_params(self) -> dict[str, PyTree]:
        """The model's fitted `param` sites in their constraints, by name."""
        if not self.variables.model:
            return {}
        program = self.target.program(_model_params)
        return jax.device_get(program(self.variables.model, self.batch, self.mutable))

    @property
    def elbo(self) -> float:
        """Evidence lower bound in nats, from fresh draws; `elbo_se` is its standard error."""
        return self.assessment.elbo

    @property
    def elbo_se(self) -> float:
        """Standard error of `elbo` in nats."""
        return self.assessment.elbo_se

    @property
    def khat(self) -> float:
        """Pareto k-hat of the importance weights; `nan` where they make no sense."""
        importance = self.assessment.importance
        return math.nan if importance is None else importance.khat

    @property
    def losses(self) -> np.ndarray:
        """Negative ELBO estimates, in nats.

        `(num_steps,)`, or `(num_steps, num_restarts)` for several restarts; of a direct solver one
        for every round of its iteration, empty where it makes none.
        """
        if self.run is None:
            return np.asarray(self.solver_losses, float)
        return self.run.losses[:, 0] if self.run.losses.shape[1] == 1 else self.run.losses

    @property
    def num_steps(self) -> int:
        """Gradient steps taken; 0 for direct solvers."""
        return 0 if self.run is None else self.run.step

    def __repr__(self) -> str:
        space = self.target.space
        return (
            f"Posterior({self.status}: {type(self.guide).__name__} over {len(space.sites)} sites, "
            f"dim {space.dim}, elbo {self.elbo:.2f} +- {self.elbo_se:.2g}, k-hat {self.khat:.2f}, "
            f"{self.num_steps} steps in {self.seconds:.1f} s; {self.stop_reason})"
        )

    @_memory_of_draws("sample")
    def sample(
        self, rng_key: Any = 0, num_draws: int = 1000, corrected: bool | None = None
    ) -> dict[str, np.ndarray]:
        """Posterior draws of every latent site and deterministic, in the model's own space.

        Discrete sites, summed out in the fit, are drawn given the others, exactly.

        Args:
            rng_key: an int, a JAX key or a legacy key.
            num_draws: how many.
            corrected: whether to correct the guide's draws, by default exactly when the status is
                `"corrected"`: by the states of short chains where the fit has kept some (each is
                taken once before any is taken twice), else by resampling with Pareto-smoothed
                importance weights.

        Returns:
            By site, `(num_draws, *shape)`.

        Raises:
            GuideError: correction was asked of a guide without a density.
        """
        key = as_key(rng_key)
        return self._constrain(self._draw(key, num_draws, corrected), fold_in(key, 2))

    def log_prob(self, values: dict[str, Any]) -> np.ndarray:
        """Log density of the approximation at values of the latent sites, in the model's space.

        Args:
            values: by site, `shape` or `(num_draws, *shape)`.

        Returns:
            `log q(x)` in nats, a scalar or `(num_draws,)`: the guide's density in unconstrained
            space less `log |dx/dz|`.

        Raises:
            GuideError: a site is missing or unknown or has the wrong shape, or the guide has no
                density.
        """
        guide = self._density_guide("log_prob")
        self._need_rows("log_prob")
        arrays, stacked = _draws.stack_values(self.target, values)
        out = _draws.log_prob(self.target, guide, self.variables, self.mutable, self.batch, arrays)
        return out if stacked else out[0]

    def importance(self, rng_key: Any = 0, num_draws: int = 4000) -> Importance:
        """Pareto-smoothed importance sampling with the guide as proposal.

        Rows that are not in memory are read once, from end to end, for all draws.

        Returns:
            Normalised log weights, k-hat, effective draws, the log evidence and its standard
            error in nats.

        Raises:
            GuideError: the guide has no density.
        """
        num_draws = check_count("num_draws", num_draws)
        return self.proposals(as_key(rng_key), num_draws, fresh=True)[1]

    def log_evidence(
        self,
        method: str = "importance",
        rng_key: Any = 0,
        num_draws: int = 4000,
        num_particles: int = 50,
    ) -> _evidence.Evidence | _evidence.Bracket:
        """The log evidence (marginal likelihood) in nats, or bounds on it, with standard errors.

        Args:
            method: `"importance"`, an estimate; `"elbo"` and the tighter `"iwae"`, lower bounds;
                `"cubo"`, an upper bound (by draws it comes out too small where a few of them have
                most of the weight: see the standard error, and `khat`); `"bracket"`, the last two.
            rng_key: for the draws.
            num_draws: how many.
            num_particles: draws in each importance-weighted bound.

        Raises:
            GuideError: the guide has no density, or the fit saw minibatches.
        """
        if method not in _evidence.METHODS:
            raise ValueError(f"method: expected one of {_evidence.METHODS}, got {method!r}.")
        check_count("num_particles", num_particles)
        key = as_key(rng_key)
        draws, _ = self.proposals(key, check_count("num_draws", num_draws), fresh=True)
        return _evidence.evidence(draws.log_weights, method, num_particles)

    def stein_discrepancy(
        self, rng_key: Any = 0, num_draws: int = 1000, kernel: Kernel | None = None
    ) -> Discrepancy:
        """Kernelised Stein discrepancy of posterior draws: how far they are from the posterior.

        Needs nothing but the gradients of the log density at the draws, so that it also judges
        particles and guides without a density. It sees no mode that no draw is near. Source: A
        kernelized Stein discrepancy for goodness-of-fit tests, Liu, Lee, Jordan, 2016.

        Args:
            rng_key: for the draws.
            num_draws: how many; of particles it is always each of them once.
            kernel: `vijax.algorithms.IMQ()` by default, or `RBF()`.

        Returns:
            The discrepancy, and that of as many exact draws.

        Raises:
            ModelError: there are discrete sites, or no gradients.
        """
        rows = self._all_rows("stein_discrepancy")
        if not self.target.explorable:
            raise ModelError(
                "stein_discrepancy: expected a log density with gradients in all sites, got "
                "discrete ones in the guide, or a likelihood without."
            )
        if isinstance(self.guide, ParticleGuide):
            points = np.asarray(self.guide.points(self.params, self.target.space), np.float64)
        else:
            z = self._draw(as_key(rng_key), num_draws, corrected=None)
            points = weights.flatten(self.target.space, z)
        scores = LogDensity(self.target, rows, self.variables.model, self.mutable)(points)
        return discrepancy(points, scores[1], kernel)

    def covariance(
        self,
        method: str = "guide",
        rng_key: Any = 0,
        num_draws: int = 4000,
        sites: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Posterior covariance `(dim, dim)` in unconstrained space, in the order of `target.space`.

        Args:
            method: `"guide"`, the guide's own (exact for a Gaussian, by draws otherwise);
                `"importance"`, with Pareto-smoothed weights; or `"linear_response"`, for
                mean-field fits, whose own has no correlations and too small variances.
            rng_key: for draws.
            num_draws: for draws; linear response takes as many as it needs.
            sites: only those, in the order of `target.space`; all by default.

        Raises:
            GuideError: the method does not suit the guide, or the fit saw minibatches.
            VijaxError: a site is unknown, or the fit is not at a maximum of the ELBO.
        """
        if method not in _covariance.METHODS:
            raise ValueError(f"method: expected one of {_covariance.METHODS}, got {method!r}.")
        key, rows = as_key(rng_key), _covariance.rows(self.target.space, sites)
        if method == "linear_response":
            self._need("covariance('linear_response')")
            state = (self.target, self.guide, self.variables, self.mutable, self.batch)
            return _covariance.by_linear_response(*state, key, rows)
        if method == "guide" and isinstance(self.guide, GaussianGuide):
            full = np.asarray(self.guide.covariance(self.params, self.target.space))
            return full[np.ix_(rows, rows)]
        if method == "guide":
            flat = weights.flatten(self.target.space, self._draw(key, num_draws, corrected=False))
            return _covariance.of_draws(flat[:, rows])
        draws, found = self.proposals(key, num_draws, fresh=True)
        flat = weights.flatten(self.target.space, draws.z)
        return _covariance.of_draws(flat[:, rows], np.exp(found.log_weights))

    @_memory_of_draws("predict")
    def predict(
        self,
        rng_key: Any = 0,
        *args: Any,
        num_draws: int = 1000,
        redraw: Collection[str] = (),
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        """Posterior predictive draws at new inputs, deterministics included.

        Args:
            rng_key: an int, a JAX key or a legacy key.
            *args: the model's arguments at the new inputs; none at all repeats the fit's own.
                Observed sites are drawn anew whether or not their data is given.
            num_draws: how many.
            redraw: latent sites that are drawn from their prior given all others, not taken from
                the posterior: those of new groups, in any number, or of further members of the
                same population.
            **kwargs: the model's keyword arguments.

        Returns:
            By observed site, deterministic and site drawn anew, `(num_draws, *shape)`.

        Raises:
            ModelError: a latent has another shape at these inputs than it had in the fit, or
                `redraw` is not some of the latents.
        """
        try:
            key = as_key(rng_key)
        except TypeError as error:
            raise TypeError(f"{error} The key comes first: predict(key, *new_inputs).") from None
        latent = [*self.target.space.names, *self.target.discrete]
        if isinstance(redraw, str) or not set(redraw) < set(latent):
            expected = f"a collection of some of the sites {latent}"
            raise ModelError(mismatch("redraw", expected, repr(redraw)))
        if not args and not kwargs:
            self._need("predict at the fit's own inputs")
            args, kwargs = self.arguments.join(self.batch.data)
        elif self.guide.conditional:
            there = self.at(*args, **kwargs)
            return there.predict(rng_key, num_draws=num_draws, redraw=redraw)
        z = self._draw(fold_in(key, 0), num_draws, corrected=None)
        return self.predictive(fold_in(key, 1), z, args, kwargs, redraw)

    def at(self, *args: Any, **kwargs: Any) -> Posterior:
        """The posterior of other rows, where the guide infers a row's latents from its data.

        Its `sample` and `predict` are those of these rows; figures like `elbo` remain the fit's.

        Args:
            *args: the model's arguments at the other rows, observations included.
            **kwargs: its keyword arguments.

        Raises:
            GuideError: the guide is not `Amortised`, in no part.
            ModelError: observations are missing, so that the model has other latents there.
        """
        if not self.guide.conditional:
            raise GuideError(
                f"at: expected a guide that infers latents from data, got {self.guide!r}. Fit "
                "with guides.Amortised, or fit these rows; latents of rows without data are drawn "
                "by predict(..., redraw=)."
            )
        return self._beside("at", args, kwargs)

    @_memory_of_draws("log_likelihood")
    def log_likelihood(self, rng_key: Any = 0, num_draws: int = 1000) -> dict[str, np.ndarray]:
        """Pointwise log likelihood of the data under posterior draws, as LOO and WAIC take it.

        Discrete sites that belong to one row of data each, as in a mixture, are summed out; given
        are draws of all others, such as the states of a chain.

        Returns:
            By observed site, `(num_draws, *batch shape)` in nats.
        """
        rows, key = self._every_row("log_likelihood"), as_key(rng_key)
        z = self.with_discrete(self._draw(key, num_draws, corrected=None), fold_in(key, 2))
        return _pointwise.log_likelihood(self.target, self.variables, self.mutable, rows, z)

    @_memory_of_draws("log_predictive_density")
    def log_predictive_density(
        self, rng_key: Any = 0, *args: Any, num_draws: int = 1000, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Log density of data under the posterior predictive, `log E[p(y_i | z)]` row by row.

        The score of rows that the fit has not seen, and what tells how good a fit on batches is.
        Draws are averaged as they come: memory is that of the rows.

        Args:
            rng_key: an int, a JAX key or a legacy key.
            *args: the model's arguments at the rows, observations included; none at all for those
                of the fit.
            num_draws: how many posterior draws are averaged.
            **kwargs: the model's keyword arguments.

        Returns:
            By observed site, `(*batch shape,)` in nats.

        Raises:
            ModelError: a latent has another shape at these rows than it had in the fit.
        """
        key, there = as_key(rng_key), self
        if args or kwargs:
            there = self._beside("log_predictive_density", args, kwargs)
        rows = there._every_row("log_predictive_density")
        z = there._draw(key, check_count("num_draws", num_draws), corrected=None)
        state = (there.target, self.variables, self.mutable)
        if isinstance(rows, Batch) and there.target.discrete:
            z = _draws.with_discrete(*state, rows, z, fold_in(key, 2))
        return _pointwise.log_predictive(*state, rows, z)

    def _beside(self, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Posterior:
        """The same posterior beside other data: of the same latents, or of those inferred there."""
        arguments, data = split(self.model, args, kwargs)
        target = build(self.model, arguments, drawn=frozenset(self.target.space.drawn.names))
        ours, theirs = (
            list(one.space.names)
            if self.guide.conditional
            else {site.name: site.shape for site in one.space.sites}
            for one in (self.target, target)
        )
        if ours != theirs:
            raise ModelError(
                f"{what}: expected the latent sites {ours} at these arguments, got {theirs}. "
                "Pass the observations, too; rows with latents of their own have to be fitted, or "
                "inferred by guides.Amortised."
            )
        return dataclasses.replace(
            self,
            arguments=arguments,
            target=target,
            batch=self._coordinates(target, Batch(data)),
            engine=None,
            run=None,
            missing=(),
            unknown=frozenset(),
        )

    def _coordinates(self, target: Target, batch: Batch) -> Batch:
        """Other data in the coordinates of the fit; inferred counts from their least values."""
        parts = self.guide.product(self.params, target.space)
        inferred = [part.space for part in parts if isinstance(part.guide, ConditionalGuide)]
        counts = [site for space in inferred for site in space.sites if site.states == 0]
        names = {site.name for site in counts}
        kept = {name: one for name, one in self.batch.centring.items() if name not in names}
        batch = batch._replace(centring=_centring.of_rows(target, kept))
        found = _least.least(target, batch, counts, self.variables.model, self.mutable)
        return batch._replace(centring=batch.centring | jax.device_put(found))

    def summary(self, rng_key: Any = 0, num_draws: int = 4000, ci_prob: float = 0.89) -> Summary:
        """A table with a row for every scalar: moments, interval, error, the guide's own moments.

        Args:
            rng_key: for the draws.
            num_draws: how many draws stand behind it.
            ci_prob: probability of the equal-tailed interval.

        Returns:
            A `Summary`; it prints as a table and `.rows` holds the numbers.
        """
        if not 0 < ci_prob < 1:
            raise ValueError(f"ci_prob: expected a number between 0 and 1, got {ci_prob}.")
        key, states = as_key(rng_key), self.assessment.states
        check_count("num_draws", num_draws)
        corrected = self.status == "corrected"
        weighed = self.assessment.importance is not None and states is None
        if weighed and (corrected or self.missing):  # without the data draws are those of the fit
            draws, found = self.proposals(key, num_draws)
            own = self._constrain(draws.z, fold_in(key, 2))
            answer = Weighted(own, np.exp(found.log_weights) if corrected else None)
            return summarise(answer, own, ci_prob, self.status)
        own = self._constrain(self._draw(key, num_draws, corrected=False), fold_in(key, 2))
        answer = Weighted(own)
        if corrected and self.assessment.check is not None:
            mended = self._draw(key, num_draws, corrected=True)
            values = self._constrain(mended, fold_in(key, 3))
            answer = Weighted(values, error=self.assessment.check.error)
        return summarise(answer, own, ci_prob, self.status)

    def report(self) -> str:
        """The evidence behind `status`, coordinates worst first, and what to try next."""
        algorithm = None if self.engine is None else self.engine.algorithm
        objective = algorithm.objective if isinstance(algorithm, Gradient) else None
        gradients = told(objective, self.target, self.batch)
        return report(self.assessment, self.target, self.stop_reason, repr(self.guide), gradients)

    def center(self) -> dict[str, np.ndarray]:
        """A central value of every latent site, in the model's space: coordinatewise medians."""
        z = self._draw(as_key(0), 500, corrected=False)
        middle = {  # of numbers of values a number again
            name: np.median(value, axis=0, keepdims=True).astype(value.dtype)
            for name, value in z.items()
        }
        return {
            name: value[0]
            for name, value in self._constrain(middle).items()
            if name in self.target.space.names
        }

    def to_datatree(self, rng_key: Any = 0, num_draws: int = 1000, **options: Any) -> Any:
        """An ArviZ `DataTree`, dims `(chain=1, draw, ...)`, dimensions named after plates.

        Groups: posterior, posterior_predictive, log_likelihood, observed_data, constant_data and
        sample_stats with `log_p`, `log_q` and `log_weight`, the smoothed log weight that a draw
        should have in averages. Draws are the guide's own, importance resampled (and of equal
        weight) when the status is `"corrected"`. Without the data there is only posterior.

        Args:
            rng_key: for the draws.
            num_draws: how many.
            **options: passed on to `arviz_base.from_dict`.
        """
        return _export.to_datatree(self, as_key(rng_key), num_draws, **options)

    def as_numpyro(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """A NumPyro guide and its params, as `numpyro.infer.Predictive` and handlers take them."""
        self._need_rows("as_numpyro")
        return as_numpyro(self.guide, self.variables, self.target, self.batch, self.mutable)

    def nuts(self, rng_key: Any = 0, **options: Any) -> Any:
        """NumPyro's NUTS started from this posterior; returns the finished `numpyro.infer.MCMC`.

        Draws are the starting points, the guide's covariance is the first inverse mass matrix.

        Args:
            rng_key: an int, a JAX key or a legacy key.
            **options: `num_warmup`, `num_samples`, `num_chains` and other options of
                `numpyro.infer.MCMC` and `numpyro.infer.NUTS`.
        """
        self._need("nuts")
        key = as_key(rng_key)
        chains = int(options.get("num_chains", 1))
        starts = self._draw(fold_in(key, 0), chains, corrected=None)
        return run_nuts(
            self.target,
            self.batch._replace(index={}),
            fold_in(key, 1),
            starts,
            self._spread(fold_in(key, 2)),
            self.variables.model,
            self.mutable,
            **options,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything but the model and its data to one file; `vijax.load` reads it.

        An existing file is replaced once the new one is complete.
        """
        _checkpoint.save(self, path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _checkpoint.reduce(self)

    def resume(
        self,
        num_steps: int,
        *,
        max_seconds: float | None = None,
        callbacks: Sequence[Callable[..., Any]] = (),
        progress_bar: bool = True,
    ) -> Posterior:
        """Goes on for `num_steps` more steps; 100 and then 200 steps equal 300 bit for bit.

        Raises:
            VijaxError: the fit was made by a direct solver and has no steps to continue.
        """
        if not set(self.missing) <= self.arguments.sources.keys():
            self._need("resume")
        began = time.perf_counter()
        if self.unsaved:
            raise VijaxError(
                f"resume: expected the fit's {' and '.join(self.unsaved)}, which no file can hold. "
                f"Load it as vijax.load(path, model, *data, {self.unsaved[0]}=...)."
            )
        if self.engine is None or self.run is None:
            raise VijaxError(
                "resume: expected a fit by gradient steps, got one by a direct solver. Start a "
                "new fit from it: fit(..., init=posterior, algorithm='gradient')."
            )
        budget = Budget(self.run.step + check_count("num_steps", num_steps), max_seconds)
        engine = self.engine.released()
        loop = jax.tree.map(lambda leaf: leaf.copy(), self.run.loop)  # steps write over it
        with Progress(progress_bar, budget.num_steps) as bar:
            run = engine.advance(self.run._replace(loop=loop), budget, callbacks, bar)
        began -= self.seconds  # the time of both legs
        return Posterior(**_outcome.of_run(self.model, self.arguments, engine, run, began))

    def predictive(
        self,
        key: Array,
        z: dict[str, np.ndarray],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        redraw: Collection[str] = (),
    ) -> dict[str, np.ndarray]:
        """What the model predicts at new arguments given unconstrained draws of the latents.

        Those in `redraw` are drawn from their prior given the others instead.
        """
        program, batch = predictor(self.model, args, kwargs, self.target)
        z = self.with_discrete(z, fold_in(key, 2))
        values = _draws.constrain(self.target, self.variables, self.mutable, self.batch, z)
        latent = {*self.target.space.names, *self.target.discrete} - {*redraw}
        values = {name: value for name, value in values.items() if name in latent}
        size = weights.block_size(batch, self.target.space.dim)

        def block(part: dict[str, np.ndarray], rows: np.ndarray) -> Any:
            keys = jax.random.split(fold_in(key, int(rows[0])), size)
            return program(keys, part, batch, self.variables.model, self.mutable)

        return _draws.blocks(block, values, size)

    def proposals(
        self, key: Array, num_draws: int, fresh: bool = False
    ) -> tuple[Draws, Importance]:
        """Draws from the guide with both log densities, and what their weights say.

        Without all data in memory these are the draws of the assessment, whatever their number,
        unless they are to be `fresh` and the data can be read.
        """
        stored = self.missing and not (fresh and self._known_rows is not None)
        if stored and self.assessment.importance is not None:
            return self.assessment.draws, self.assessment.importance
        rows = self._all_rows("importance weights")
        if self.assessment.importance is None and not (
            shares_all(self.target) and isinstance(self.guide, DensityGuide)
        ):
            self._density_guide("importance")
            raise GuideError(
                "importance: expected a full-batch fit, got one on minibatches. Refit without "
                "subsample_size to weigh its draws."
            )
        draws = weights.draw(
            self.target, self.guide, self.variables, self.mutable, key, rows, num_draws
        )
        return draws, weights.importance(draws.log_weights)

    def _draw(self, key: Array, num_draws: int, corrected: bool | None) -> dict[str, np.ndarray]:
        check_count("num_draws", num_draws)
        check_room(num_draws * (self.target.space.dim + 1) * 4.0)  # and the draw's number
        if corrected or (corrected is None and self.status == "corrected"):
            if self.assessment.states is not None:
                return _draws.choose(self.assessment.states, key, num_draws)
            draws, found = self.proposals(key, _draws.pool_size(num_draws))
            return _draws.resample(draws.z, found.log_weights, key, num_draws)
        self._need_rows("draws of every row")
        return _draws.from_guide(
            self.target, self.guide, self.variables, key, self.batch, num_draws
        )

    def with_discrete(self, z: dict[str, np.ndarray], key: Array) -> dict[str, np.ndarray]:
        """Unconstrained draws with the discrete sites beside them, if the data is there."""
        if self.missing or not self.target.discrete:
            return z
        state = (self.target, self.variables, self.mutable, self.batch)
        return _draws.with_discrete(*state, z, key)

    def _constrain(
        self, z: dict[str, np.ndarray], key: Array | None = None
    ) -> dict[str, np.ndarray]:
        """Values of draws; with a `key` discrete sites are drawn, too."""
        z = z if key is None else self.with_discrete(z, key)
        return _draws.constrain(
            self.target, self.variables, self.mutable, self.batch, z, self.unknown
        )

    def _spread(self, key: Array) -> np.ndarray:
        """Covariance, or in high dimensions the variances alone, in unconstrained space."""
        if self.target.space.dim <= DENSE_DIM:
            return self.covariance(rng_key=key)
        z = self._draw(key, 500, corrected=False)
        return weights.flatten(self.target.space, z).var(0)

    def _density_guide(self, what: str) -> DensityGuide:
        if not isinstance(self.guide, DensityGuide):
            raise GuideError(
                f"{what}: expected a guide with a density, got {self.guide!r}. Refit with "
                "guide='meanfield' or 'fullrank'."
            )
        return self.guide

    @functools.cached_property
    def _known_rows(self) -> Data | None:
        """All data, in memory or to be read; `None` where they are not at hand."""
        if not self.missing:
            return all_rows(self.target, self.batch, {})
        if self.guide.conditional or not set(self.missing) <= self.arguments.sources.keys():
            return None
        return all_rows(self.target, self.batch, self.arguments.sources)

    def _all_rows(self, what: str) -> Data:
        """The same, or an error."""
        if self._known_rows is None:
            self._need(what)
        assert self._known_rows is not None
        return self._known_rows

    def _every_row(self, what: str) -> Data:
        """The same for what is asked of every row by itself, those of subsampled plates, too."""
        if self.target.discrete:  # draws of discrete sites take all rows at once
            self._need(what)
        rows = self._all_rows(what)
        return rows if isinstance(rows, Blocks) else rows._replace(index={})

    @functools.cached_property
    def _unseen(self) -> frozenset[str]:
        """The missing arrays that a guide which infers latents from data would have to see."""
        if not (self.missing and self.guide.conditional):
            return frozenset()
        state = (self.target, self.guide, self.variables, self.mutable, self.batch)
        return needed_arrays(*state) & {*self.missing}

    def _need_rows(self, what: str) -> None:
        """Refuses to ask the guide for rows whose data are not there."""
        if self._unseen:
            self._need(what)

    def _need(self, what: str) -> None:
        if set(self.missing) & self.arguments.sources.keys():
            raise ModelError(
                f"{what}: expected all data in memory, but {', '.join(map(repr, self.missing))} is "
                "read batch by batch. Pass some of its rows: predict(key, x[:1000]), or, where the "
                "guide infers latents from data, at(x[:1000])."
            )
        if self.missing:
            raise ModelError(
                f"{what}: expected the data, but this posterior was loaded without "
                f"{', '.join(map(repr, self.missing))}. Load it as vijax.load(path, model, *data)."
            )


def _model_params(
    target: Target, model: dict[str, PyTree], batch: Batch, mutable: dict[str, PyTree]
) -> dict[str, PyTree]:
    return target.constrain_params(model, batch, mutable)
