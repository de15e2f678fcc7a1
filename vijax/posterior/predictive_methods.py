"""Methods of a posterior that run the model: predictions, likelihoods, other rows."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vijax.model import Statistic
from vijax.posterior import condition, prediction, scoring, serving
from vijax.posterior.discrete_probs import discrete_probs
from vijax.posterior.properties import FitProperties
from vijax.posterior.serving import Predictor
from vijax.posterior.uncertainty import Uncertainty, uncertainty
from vijax.runtime.keys import RngKey, as_key
from vijax.runtime.keywords import argument_names, explain_keywords_of_methods, merged
from vijax.runtime.memory import explain_out_of_memory

if TYPE_CHECKING:
    from vijax.posterior.tables import Scores

memory_of_draws = functools.partial(
    explain_out_of_memory,
    remedy="Use fewer draws at a time (num_draws=), with a different key for each call, or fewer "
    "rows.",
)


@explain_keywords_of_methods
class PredictiveMethods(FitProperties):
    """Methods of a `Posterior` that run the model, at the inputs of the fit or at others."""

    @memory_of_draws("predict")
    def predict(
        self,
        *args: Any,
        num_draws: int = 1000,
        rng_key: RngKey = 0,
        new_groups: Collection[str] | str | bool = (),
        from_prior: Collection[str] = (),
        do: Mapping[str, Any] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        """Posterior predictive draws at new inputs, deterministics included.

        A `scan` or a `GaussianRandomWalk` with more steps than in the fit is forecast: its states
        go on from the last fitted ones.

        Args:
            *args: the model's arguments at the new inputs; those of the fit by default. Observed
                sites are drawn even if their data are passed. Labels of a data frame that the fit
                did not have are new members of the plate of their column.
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.
            new_groups: a plate, plates, or `True` for all, that may have more members than in the
                fit. Those of the fit come first and keep their posterior; the others are new, and
                their latents are drawn from the hierarchy, given the other latents of a draw.
            from_prior: latent sites to draw from their prior given the other latents, ignoring
                what the fit learned of them: not a forecast.
            do: values of sites, in every draw (interventions, counterfactuals): by sample site or
                deterministic, a number or an array that broadcasts to its shape. What depends on
                them is computed and drawn anew; all else keeps its posterior.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            By observed site, deterministic, and site in `from_prior` or `do` or that depends on
            `do`, `(num_draws, *shape)`.

        Raises:
            ModelError: the shape of a latent at these inputs differs from that in the fit, a name
                is unknown, or a value in `do` has the wrong shape.
        """
        changes = prediction.checked_changes(self._result, new_groups, from_prior, do)
        key, (args, kwargs) = as_key(rng_key), self._call(args, kwargs, model_kwargs)
        return prediction.predict(self._result, key, args, kwargs, num_draws, changes)

    @memory_of_draws("predictor")
    def predictor(
        self,
        *args: Any,
        returns: Statistic = "draws",
        num_draws: int = 1000,
        rng_key: RngKey = 0,
        from_prior: Collection[str] = (),
        ci_prob: float = 0.89,
        max_rows: int = 1024,
        batch_axes: Mapping[str, int | None] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Predictor:
        """A compiled function that predicts any number of rows, for services.

        The model is run on each row by itself, at posterior draws that are drawn once; it is
        checked on the example that rows do not affect each other.

        Args:
            *args: an example of the model's arguments, with two or more different rows; by default
                those of the fit. Rows are what the plate around the observed sites has as many of.
            returns: `"draws"`; `"mean"`; `"summary"`, mean, sd and the ends of the equal-tailed
                interval; `"probs"`, of every value of discrete sites; or a JAX function of one
                row's draws, by site `(num_draws, ...)`.
            num_draws: number of posterior draws.
            rng_key: an int, a JAX key or a legacy key, of the posterior draws.
            from_prior: see `predict`; latents of the rows themselves must be among them.
            ci_prob: probability of the interval.
            max_rows: most rows that are computed at once.
            batch_axes: by array, the axis of its rows, or `None` for an array without one; the
                others are inferred by length.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            A `vijax.Predictor`. It returns, by observed site and deterministic with a value for
            each row, `(num_draws, rows, ...)` draws, `(rows, ...)` means, ...; from a function what
            it returns, with a leading axis of rows.

        Raises:
            ModelError: rows affect each other, or have latents of their own.
            ArgumentError: the axis of rows is ambiguous, or the example has no different rows.
        """
        return serving.make_predictor(
            self._result,
            as_key(rng_key),
            self._call(args, kwargs, model_kwargs),
            serving.Options(returns, ci_prob, num_draws, max_rows),
            prediction.checked_changes(self._result, (), from_prior, None).from_prior,
            batch_axes or {},
        )

    def at(self, *args: Any, **kwargs: Any) -> Self:
        """The amortized posterior at other rows of data.

        `sample` and `predict` of the result are for these rows; `elbo`, `status` and the like
        remain those of the fit.

        Args:
            *args: the model's arguments at the other rows, observations included.
            **kwargs: its keyword arguments.

        Raises:
            GuideError: no part of the guide is `Amortized`.
            ModelError: the model has other latents there, because observations are missing.
        """
        return type(self)(condition.at(self._result, *self._call(args, kwargs)))

    @memory_of_draws("log_likelihood")
    def log_likelihood(
        self, num_draws: int = 1000, *, rng_key: RngKey = 0
    ) -> dict[str, np.ndarray]:
        """Pointwise log likelihood of the data under posterior draws, the input of LOO and WAIC.

        Discrete sites that belong to a single row each, as in a mixture, are marginalized; draws
        of all other latents, such as states of a Markov chain, are given.

        Args:
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.

        Returns:
            By observed site, `(num_draws, *batch shape)` in nats.
        """
        return prediction.log_likelihood(self._result, as_key(rng_key), num_draws)

    @memory_of_draws("log_predictive_density")
    def log_predictive_density(
        self,
        *args: Any,
        num_draws: int = 1000,
        rng_key: RngKey = 0,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        """Log posterior predictive density of each observation, `log E[p(y_i | z)]`.

        A measure of predictive accuracy at held-out rows, also of minibatch fits. Draws are
        averaged in blocks: memory is proportional to the number of rows.

        Args:
            *args: the model's arguments at the rows, with observations; by default the fit's.
            num_draws: number of posterior draws to average over.
            rng_key: an int, a JAX key or a legacy key.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            By observed site, `(*batch shape,)` in nats.

        Raises:
            ModelError: the shape of a latent at these rows differs from that in the fit.
        """
        key, (args, kwargs) = as_key(rng_key), self._call(args, kwargs, model_kwargs)
        return prediction.log_predictive_density(self._result, key, args, kwargs, num_draws)

    @memory_of_draws("uncertainty")
    def uncertainty(
        self,
        *args: Any,
        num_draws: int = 1000,
        site: str | None = None,
        rng_key: RngKey = 0,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Uncertainty:
        """Predictive uncertainty of each row: of its outcome, and of what the model knows.

        For classes with probabilities `p_s` under draws of the latents, `total` is the entropy of
        the mean `p`, `aleatoric` the mean entropy of the `p_s`, and `epistemic` the difference, the
        mutual information of outcome and latents. For numbers with means `m_s` and variances `v_s`,
        `mean(v_s)` is aleatoric and `var(m_s)` epistemic. The division is one of the model: what a
        richer model would explain counts as aleatoric.

        Args:
            *args: the model's arguments at the rows; those of the fit by default.
            num_draws: number of draws.
            site: the observed site, if there are several.
            rng_key: an int, a JAX key or a legacy key.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Raises:
            ModelError: the outcomes have no variance, or there are several observed sites.
        """
        key, (args, kwargs) = as_key(rng_key), self._call(args, kwargs, model_kwargs)
        return uncertainty(self._result, key, args, kwargs, num_draws, site)

    @memory_of_draws("score")
    def score(
        self,
        *args: Any,
        num_draws: int = 1000,
        site: str | None = None,
        rng_key: RngKey = 0,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Scores:
        """How well the posterior predicts the outcomes of some rows, with standard errors.

        Of numbers the log score, the continuous ranked probability score (CRPS), the error of the
        mean, and how often central intervals contain the outcome. Of classes the log score, the
        Brier score `sum_k (p_k - [y = k])^2`, the accuracy and the calibration error. With
        networks also by how much the log score is larger than that of the means of their weights:
        if it is negative by more than its error, the uncertainty of the weights does harm. Score
        rows that the fit has not seen.

        Args:
            *args: the model's arguments at the rows, with outcomes; those of the fit by default.
            num_draws: of the posterior.
            site: the observed site, if there are several.
            rng_key: an int, a JAX key or a legacy key.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            A data frame with columns `value` and `se`; larger log scores and accuracies are better,
            smaller errors, CRPS and Brier scores.

        Raises:
            ModelError: outcomes are missing, or there are several observed sites.
        """
        from vijax.posterior.tables import Scores  # imports pandas, which is slow

        key, (args, kwargs) = as_key(rng_key), self._call(args, kwargs, model_kwargs)
        state = (self._result, key, args, kwargs, num_draws, site, "score")
        found = scoring.score(scoring.outcomes(*state), key)
        return Scores([one._asdict() for one in found.values()], index=list(found))

    @memory_of_draws("discrete_probs")
    def discrete_probs(
        self,
        *args: Any,
        num_draws: int = 1000,
        rng_key: RngKey = 0,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        """Posterior probabilities of the values of discrete latent sites, such as labels of rows.

        Exact given each draw of the other latents (smoothing probabilities of the states of a
        Markov chain), and averaged over the draws. Of discrete sites in the guide they are the
        guide's, or, with status `"corrected"`, frequencies in the corrected draws.

        Args:
            *args: the model's arguments at new rows, observations included; by default the
                fit's.
            num_draws: number of posterior draws to average over.
            rng_key: an int, a JAX key or a legacy key.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            By discrete site, `(*shape, num_values)`, the values in the order of its support.
            Counts without a largest value are left out.

        Raises:
            ModelError: there is no such site, or the shape of another latent at these rows
                differs from that in the fit.
        """
        key, (args, kwargs) = as_key(rng_key), self._call(args, kwargs, model_kwargs)
        return discrete_probs(self._result, key, args, kwargs, num_draws)

    def _call(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the model, with those that `functools.partial` set."""
        return self._result.arguments.complete(args, merged(kwargs, model_kwargs))

    def _model_arguments(self) -> tuple[str, ...] | None:
        return argument_names(self._result.model)
