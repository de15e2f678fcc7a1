"""The posterior of a fit: draws, predictions, evidence, diagnostics."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from vijax.diagnostics.importance import Importance
from vijax.diagnostics.stein import Kernel
from vijax.diagnostics.stein_discrepancy import Discrepancy
from vijax.guides.numpyro import as_numpyro
from vijax.model.nuts import MCMC
from vijax.posterior import files, sampling
from vijax.posterior.covariance import covariance
from vijax.posterior.datatree import to_datatree
from vijax.posterior.evidence import Bracket, Evidence, EvidenceMethod, log_evidence
from vijax.posterior.generative_methods import GenerativeMethods
from vijax.posterior.label_switching import relabel
from vijax.posterior.latent_methods import LatentMethods
from vijax.posterior.nuts import nuts
from vijax.posterior.predictive_methods import memory_of_draws
from vijax.posterior.prior import Prior, prior_of
from vijax.posterior.report import Report
from vijax.posterior.requirements import require_all_rows
from vijax.posterior.resume import resume
from vijax.posterior.stein import stein_discrepancy
from vijax.posterior.summary import summary
from vijax.posterior.update_methods import UpdateMethods
from vijax.runtime.checks import check_count
from vijax.runtime.keys import RngKey, as_key
from vijax.runtime.keywords import explain_keywords_of_methods

if TYPE_CHECKING:
    from xarray import DataTree  # imported by ArviZ, which takes long

    from vijax.posterior.tables import Summary  # imports pandas, which takes long


@explain_keywords_of_methods
class Posterior(LatentMethods, GenerativeMethods, UpdateMethods):
    """An approximate posterior, returned by `vijax.fit` and `vijax.load`."""

    def summary(
        self,
        sites: str | Iterable[str] | None = None,
        *,
        ci_prob: float = 0.89,
        round_to: int | None = None,
        num_draws: int = 4000,
        rng_key: RngKey = 0,
    ) -> Summary:
        """Moments, interval and Monte Carlo error of every scalar, and moments of the guide.

        Args:
            sites: one or several sites (all of their scalars), scalars (`"theta[3]"`) or patterns
                (`"theta*"`), in the order of the rows; everything by default.
            ci_prob: probability of the equal-tailed interval.
            round_to: number of decimals; all of them by default.
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.

        Returns:
            A pandas `DataFrame` that prints as a table, with large sites abridged; see `Summary`.

        Raises:
            VijaxError: a name selects nothing.
        """
        return summary(self._result, sites, ci_prob, round_to, num_draws, as_key(rng_key))

    def report(self) -> Report:
        """Text of `diagnostics`: reasons of `status`, effect of the corrections, what to try next.

        A `str`, which a notebook renders in sections.
        """
        return Report(self.diagnostics)

    @memory_of_draws("sample")
    def sample(
        self, num_draws: int = 1000, *, rng_key: RngKey = 0, corrected: bool | None = None
    ) -> dict[str, np.ndarray]:
        """Posterior draws of every latent site and deterministic, in the model's space.

        Discrete sites that were marginalized are drawn exactly from their full conditional.

        Args:
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.
            corrected: whether to correct the guide's draws, by default if and only if the status
                is `"corrected"`: by final states of short chains where the fit has them (none
                repeats before all have been used), else by resampling with Pareto-smoothed
                importance weights. Weights are those of the data of the fit: by default draws at
                other rows (`at`) are the guide's.

        Returns:
            By site, `(num_draws, *shape)`.

        Raises:
            GuideError: `corrected=True` and the guide has no density.
        """
        return sampling.sample(self._result, as_key(rng_key), num_draws, corrected)

    def median(self) -> dict[str, np.ndarray]:
        """The coordinatewise median of every latent site, in the model's space."""
        return sampling.median(self._result)

    def log_prob(self, values: dict[str, Any]) -> np.ndarray:
        """Log density of the approximation at values of the latent sites, in the model's space.

        Args:
            values: by site, `shape` or `(num_draws, *shape)`.

        Returns:
            `log q(x) = log q(z) - log |dx/dz|` in nats, a scalar or `(num_draws,)`.

        Raises:
            GuideError: a site is missing or unknown or has the wrong shape, or the guide has no
                density, or components are relabeled.
        """
        return sampling.log_prob(self._result, values)

    def importance(self, num_draws: int = 4000, *, rng_key: RngKey = 0) -> Importance:
        """Pareto-smoothed importance sampling with the guide as proposal.

        Rows that are not in memory are read once, in order, for all draws.

        Args:
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.

        Returns:
            Normalized log weights, k-hat, effective sample size, the log evidence and its standard
            error in nats.

        Raises:
            GuideError: the guide has no density.
        """
        num_draws = check_count("num_draws", num_draws)
        return sampling.proposals(self._result, as_key(rng_key), num_draws, fresh=True)[1]

    @overload
    def log_evidence(
        self,
        method: Literal["bracket"],
        *,
        num_draws: int = 4000,
        num_particles: int = 50,
        rng_key: RngKey = 0,
    ) -> Bracket: ...

    @overload
    def log_evidence(
        self,
        method: EvidenceMethod | None = None,
        *,
        num_draws: int = 4000,
        num_particles: int = 50,
        rng_key: RngKey = 0,
    ) -> Evidence: ...

    def log_evidence(
        self,
        method: EvidenceMethod | Literal["bracket"] | None = None,
        *,
        num_draws: int = 4000,
        num_particles: int = 50,
        rng_key: RngKey = 0,
    ) -> Evidence | Bracket:
        """The log evidence (marginal likelihood) in nats, or bounds on it, with standard errors.

        Args:
            method: `"importance"`, an estimate from draws of the guide; `"bridge"`, from these and
                chains that correct them, `"enumeration"` of discrete values (defaults where they
                apply); lower bounds `"elbo"`, `"iwae"`; `"cubo"`, upper bound; `"bracket"`, both;
                `"expectation_propagation"`, that of such a fit, which is no bound.
            num_draws: number of draws; of `"bridge"` those of the fit.
            num_particles: draws in each importance-weighted bound.
            rng_key: an int, a JAX key or a legacy key.

        Raises:
            GuideError: no density, a fit on minibatches, or a method that does not apply.
        """
        return log_evidence(self._result, method, as_key(rng_key), num_draws, num_particles)

    def covariance(
        self,
        method: str = "guide",
        *,
        sites: str | Iterable[str] | None = None,
        num_draws: int = 4000,
        rng_key: RngKey = 0,
    ) -> np.ndarray:
        """Posterior covariance `(dim, dim)` in unconstrained space, in the order of `space`.

        Args:
            method: `"guide"`, that of the guide (exact for a Gaussian, by draws otherwise);
                `"importance"`, with Pareto-smoothed weights; or `"linear_response"`, for
                mean-field fits, whose guide has no correlations and underestimates variances.
            sites: as in `summary`, but in the order of `space`; all by default.
            num_draws: number of draws; linear response chooses its own.
            rng_key: an int, a JAX key or a legacy key.

        Raises:
            GuideError: the method does not apply to the guide, or the fit used minibatches.
            VijaxError: a site is unknown, or the fit is not at a maximum of the ELBO.
        """
        return covariance(self._result, method, as_key(rng_key), num_draws, sites)

    def stein_discrepancy(
        self, num_draws: int = 1000, *, kernel: Kernel | None = None, rng_key: RngKey = 0
    ) -> Discrepancy:
        """Kernelized Stein discrepancy of posterior draws from the posterior.

        Requires only gradients of the log density at the draws, and so also applies to particles
        and guides without a density. It does not detect modes far from all draws. Source: A
        kernelized Stein discrepancy for goodness-of-fit tests, Liu, Lee, Jordan, 2016.

        Args:
            num_draws: number of draws; ignored for particles, each of which is used once.
            kernel: `vijax.algorithms.IMQ()` by default, or `RBF()`.
            rng_key: an int, a JAX key or a legacy key.

        Returns:
            The discrepancy, and that expected of as many exact draws.

        Raises:
            ModelError: there are discrete sites, or no gradients.
        """
        return stein_discrepancy(self._result, as_key(rng_key), num_draws, kernel)

    def nuts(self, *, rng_key: RngKey = 0, **options: Any) -> MCMC:
        """NumPyro's NUTS started from this posterior; returns the finished `numpyro.infer.MCMC`.

        Chains start at draws; the initial inverse mass matrix is the guide's covariance.

        Args:
            rng_key: an int, a JAX key or a legacy key.
            **options: `num_warmup`, `num_samples`, `num_chains` and other options of
                `numpyro.infer.MCMC` and `numpyro.infer.NUTS`.
        """
        return nuts(self._result, as_key(rng_key), **options)

    def relabel(self, *, rng_key: RngKey = 0) -> Posterior:
        """The posterior with the components of a mixture labeled alike in all draws.

        Where their order does not change the density (label switching, see `report()`), each draw's
        components are put in the order that agrees best with the draw of the largest density:
        `sample`, `summary`, `predict`, discrete sites and `to_datatree` of the result have them
        so. `elbo`, `status`, `log_prob` and `importance` remain those of the fit.

        Args:
            rng_key: an int, a JAX key or a legacy key.

        Raises:
            GuideError: no components are exchangeable.
        """
        return Posterior(relabel(self._result, as_key(rng_key)))

    def to_datatree(
        self,
        num_draws: int = 1000,
        *,
        rng_key: RngKey = 0,
        prior: bool | Prior = False,
        **options: Any,
    ) -> DataTree:
        """Exports an ArviZ `DataTree`, dims `(chain=1, draw, ...)`, dimensions named after plates.

        Groups: posterior, posterior_predictive, log_likelihood, observed_data, constant_data and
        sample_stats with `log_p`, `log_q` and `log_weight`, the smoothed log weight of a draw in
        averages. Draws are the guide's, corrected (and of equal weight) if the status is
        `"corrected"`. Without the data there is only posterior.

        Args:
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.
            prior: whether to add the groups prior and prior_predictive; a `Prior` for other inputs.
            **options: passed to `arviz_base.from_dict`.
        """
        with_prior = prior_of(self._result) if prior is True else prior or None
        state = None if with_prior is None else with_prior.state
        return to_datatree(self._result, as_key(rng_key), num_draws, state, **options)

    def as_numpyro(self) -> tuple[Callable[..., Any], dict[str, Any]]:
        """A NumPyro guide and its params, for `numpyro.infer.Predictive` and handlers."""
        fit = self._result
        require_all_rows(fit, "as_numpyro")
        return as_numpyro(fit.guide, fit.variables, fit.target, fit.batch, fit.mutable)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves everything except the model and its data to one file; see `vijax.load`.

        An existing file is replaced once the new one is complete.

        Args:
            path: the file.
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
        """Runs `num_steps` more gradient steps; 100 and then 200 equal 300 bit for bit.

        Args:
            num_steps: number of further steps.
            max_seconds: limit on the time they take.
            callbacks: called as in `vijax.fit`.
            progress_bar: whether to show progress.

        Raises:
            VijaxError: the fit used a direct solver, which has no gradient steps.
        """
        return Posterior(resume(self._result, num_steps, max_seconds, callbacks, progress_bar))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickle, files.pickled(self._result)


def _unpickle(*parts: Any) -> Posterior:
    return Posterior(files.unpickled(*parts))
