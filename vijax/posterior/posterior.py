"""The answer of a fit: draws, predictions, the evidence, and how far all of it can be trusted."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from vijax.diagnostics.importance import Importance
from vijax.diagnostics.stein import Kernel
from vijax.diagnostics.stein_discrepancy import Discrepancy
from vijax.guides.numpyro import as_numpyro
from vijax.posterior import condition, files, prediction, sampling
from vijax.posterior.covariance import covariance
from vijax.posterior.datatree import to_datatree
from vijax.posterior.evidence import Bracket, Evidence, log_evidence
from vijax.posterior.facts import Facts
from vijax.posterior.nuts import nuts
from vijax.posterior.report import report
from vijax.posterior.requirements import require_guide_data
from vijax.posterior.resume import resume
from vijax.posterior.stein import stein_discrepancy
from vijax.posterior.summary import Summary, summary
from vijax.runtime.checks import check_count
from vijax.runtime.keys import as_key
from vijax.runtime.memory import explain_out_of_memory

_memory_of_draws = functools.partial(
    explain_out_of_memory,
    remedy="Ask for fewer draws at a time (num_draws=), with other keys for the next, or for fewer "
    "rows.",
)


class Posterior(Facts):
    """An approximate posterior; made by `vijax.fit` and `vijax.load`, never by hand."""

    # ---- what it says

    def summary(self, rng_key: Any = 0, num_draws: int = 4000, ci_prob: float = 0.89) -> Summary:
        """A table with a row for every scalar: moments, interval, error, the guide's own moments.

        Args:
            rng_key: for the draws.
            num_draws: how many draws stand behind it.
            ci_prob: probability of the equal-tailed interval.

        Returns:
            A `Summary`; it prints as a table and `.rows` holds the numbers.
        """
        return summary(self._result, as_key(rng_key), num_draws, ci_prob)

    def report(self) -> str:
        """The diagnostics behind `status`, coordinates worst first, and what to try next."""
        return report(self._result)

    # ---- draws

    @_memory_of_draws("sample")
    def sample(
        self, rng_key: Any = 0, num_draws: int = 1000, corrected: bool | None = None
    ) -> dict[str, np.ndarray]:
        """Posterior draws of every latent site and deterministic, in the model's own space.

        Discrete sites, marginalized in the fit, are drawn given the others, exactly.

        Args:
            rng_key: an int, a JAX key or a legacy key.
            num_draws: how many.
            corrected: whether to correct the guide's draws, by default exactly when the status is
                `"corrected"`: by the final states of short chains where the fit has kept some
                (each is taken once before any is taken twice), else by resampling with
                Pareto-smoothed importance weights.

        Returns:
            By site, `(num_draws, *shape)`.

        Raises:
            GuideError: correction was asked of a guide without a density.
        """
        return sampling.sample(self._result, as_key(rng_key), num_draws, corrected)

    def median(self) -> dict[str, np.ndarray]:
        """The coordinatewise median of every latent site, in the model's space."""
        return sampling.median(self._result)

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
        return prediction.predict(self._result, rng_key, args, kwargs, num_draws, redraw)

    def at(self, *args: Any, **kwargs: Any) -> Posterior:
        """The posterior of other rows, where the guide infers a row's latents from its data.

        Its `sample` and `predict` are those of these rows; figures like `elbo` remain the fit's.

        Args:
            *args: the model's arguments at the other rows, observations included.
            **kwargs: its keyword arguments.

        Raises:
            GuideError: the guide is not `Amortized`, in no part.
            ModelError: observations are missing, so that the model has other latents there.
        """
        return Posterior(condition.at(self._result, args, kwargs))

    # ---- densities

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
        return sampling.log_prob(self._result, values)

    @_memory_of_draws("log_likelihood")
    def log_likelihood(self, rng_key: Any = 0, num_draws: int = 1000) -> dict[str, np.ndarray]:
        """Pointwise log likelihood of the data under posterior draws, as LOO and WAIC take it.

        Discrete sites that belong to one row of data each, as in a mixture, are marginalized;
        given are draws of all others, such as the states of a Markov chain.

        Returns:
            By observed site, `(num_draws, *batch shape)` in nats.
        """
        return prediction.log_likelihood(self._result, as_key(rng_key), num_draws)

    @_memory_of_draws("log_predictive_density")
    def log_predictive_density(
        self, rng_key: Any = 0, *args: Any, num_draws: int = 1000, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Log density of data under the posterior predictive, `log E[p(y_i | z)]` row by row.

        The score of rows that the fit has not seen, and a measure of how good a fit on minibatches
        is. Draws are averaged as they come: memory is that of the rows.

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
        key = as_key(rng_key)
        return prediction.log_predictive_density(self._result, key, args, kwargs, num_draws)

    # ---- accuracy

    def importance(self, rng_key: Any = 0, num_draws: int = 4000) -> Importance:
        """Pareto-smoothed importance sampling with the guide as proposal.

        RowSchedule that are not in memory are read once, from end to end, for all draws.

        Returns:
            Normalized log weights, k-hat, effective sample size, the log evidence and its standard
            error in nats.

        Raises:
            GuideError: the guide has no density.
        """
        num_draws = check_count("num_draws", num_draws)
        return sampling.proposals(self._result, as_key(rng_key), num_draws, fresh=True)[1]

    def log_evidence(
        self,
        method: str = "importance",
        rng_key: Any = 0,
        num_draws: int = 4000,
        num_particles: int = 50,
    ) -> Evidence | Bracket:
        """The log evidence (marginal likelihood) in nats, or bounds on it, with standard errors.

        Args:
            method: `"importance"`, an estimate; `"elbo"` and the tighter `"iwae"`, lower bounds;
                `"cubo"`, an upper bound (its estimate is too small where a few draws have most of
                the weight: see the standard error, and `khat`); `"bracket"`, the last two.
            rng_key: for the draws.
            num_draws: how many.
            num_particles: draws in each importance-weighted bound.

        Raises:
            GuideError: the guide has no density, or the fit saw minibatches.
        """
        return log_evidence(self._result, method, as_key(rng_key), num_draws, num_particles)

    def covariance(
        self,
        method: str = "guide",
        rng_key: Any = 0,
        num_draws: int = 4000,
        sites: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Posterior covariance `(dim, dim)` in unconstrained space, in the order of `space`.

        Args:
            method: `"guide"`, the guide's own (exact for a Gaussian, by draws otherwise);
                `"importance"`, with Pareto-smoothed weights; or `"linear_response"`, for
                mean-field fits, whose own has no correlations and too small variances.
            rng_key: for draws.
            num_draws: for draws; linear response takes as many as it needs.
            sites: only those, in the order of `space`; all by default.

        Raises:
            GuideError: the method does not suit the guide, or the fit saw minibatches.
            VijaxError: a site is unknown, or the fit is not at a maximum of the ELBO.
        """
        return covariance(self._result, method, as_key(rng_key), num_draws, sites)

    def stein_discrepancy(
        self, rng_key: Any = 0, num_draws: int = 1000, kernel: Kernel | None = None
    ) -> Discrepancy:
        """Kernelized Stein discrepancy of posterior draws: how far they are from the posterior.

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
        return stein_discrepancy(self._result, as_key(rng_key), num_draws, kernel)

    def nuts(self, rng_key: Any = 0, **options: Any) -> Any:
        """NumPyro's NUTS started from this posterior; returns the finished `numpyro.infer.MCMC`.

        Draws are the starting points, the guide's covariance is the first inverse mass matrix.

        Args:
            rng_key: an int, a JAX key or a legacy key.
            **options: `num_warmup`, `num_samples`, `num_chains` and other options of
                `numpyro.infer.MCMC` and `numpyro.infer.NUTS`.
        """
        return nuts(self._result, as_key(rng_key), **options)

    # ---- other libraries, files, more steps

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
        return to_datatree(self._result, as_key(rng_key), num_draws, **options)

    def as_numpyro(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """A NumPyro guide and its params, as `numpyro.infer.Predictive` and handlers take them."""
        fit = self._result
        require_guide_data(fit, "as_numpyro")
        return as_numpyro(fit.guide, fit.variables, fit.target, fit.batch, fit.mutable)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes everything but the model and its data to one file; `vijax.load` reads it.

        An existing file is replaced once the new one is complete.
        """
        files.save(self._result, path)

    def resume(
        self,
        num_steps: int,
        *,
        max_seconds: float | None = None,
        callbacks: Sequence[Callable[..., Any]] = (),
        progress_bar: bool = True,
    ) -> Posterior:
        """Takes `num_steps` more steps; 100 and then 200 steps equal 300 bit for bit.

        Raises:
            VijaxError: the fit was made by a direct solver and has no steps to continue.
        """
        return Posterior(resume(self._result, num_steps, max_seconds, callbacks, progress_bar))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickle, files.pickled(self._result)


def _unpickle(*parts: Any) -> Posterior:
    return Posterior(files.unpickled(*parts))
