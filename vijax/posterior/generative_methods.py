"""Methods of a posterior whose model has a diffusion model in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vijax.posterior import generative, row_bounds
from vijax.posterior.predictive_methods import PredictiveMethods, memory_of_draws
from vijax.posterior.row_bounds import Question
from vijax.runtime.checks import check_count
from vijax.runtime.keys import RngKey, as_key
from vijax.runtime.keywords import explain_keywords_of_methods

if TYPE_CHECKING:
    from pandas import DataFrame

    from vijax.posterior.tables import Scores


@explain_keywords_of_methods
class GenerativeMethods(PredictiveMethods):
    """Methods of a `Posterior` for sites of `vijax.nn.diffusion` and `masked_diffusion`."""

    @memory_of_draws("bound")
    def bound(
        self,
        *args: Any,
        num_draws: int = 16,
        num_steps: int | None = None,
        ode_steps: int | None = None,
        by_row: bool = False,
        site: str | None = None,
        rng_key: RngKey = 0,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Scores | DataFrame:
        """The bound on the log density of rows, in nats a row, with its parts.

        `bound` is at most the mean log density; `bits per dimension` the same as a code length.
        `prior`, `reconstruction` and `diffusion` add up to minus the bound. Of a fit with `weight=`
        it is the bound, without weights. Latents that rows share, such as weights with priors, are
        averaged over: the bound is then on the posterior predictive density. Those of each row, by
        an amortized guide, add their divergence from the prior, `latents`. Rows are evaluated in
        blocks, so that memory does not grow with their number.

        Args:
            *args: the model's arguments at the rows; those of the fit by default.
            num_draws: times and draws of noise for each row, over which it is averaged.
            num_steps: of the process; by default those of the model. The bound with many steps
                approaches that in continuous time.
            ode_steps: adds the log density by the ordinary differential equation that has the same
                marginal distributions, by so many steps: another number, exact for the ODE where
                steps are small, and no bound.
            by_row: whether to return the values of each row, not their means.
            site: if there are several.
            rng_key: an int, a JAX key or a legacy key.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            A data frame with columns `value` and `se`, that of a mean over rows; or, `by_row`, one
            with a column for each of these and a row for each row.

        Raises:
            ModelError: the model has no such site.
            GuideError: some latents of rows have no amortized guide.
        """
        from pandas import DataFrame  # slow

        from vijax.posterior.tables import Scores

        call = self._call(args, kwargs, model_kwargs)
        check_count("num_steps", num_steps, optional=True)
        check_count("ode_steps", ode_steps, optional=True)
        name = generative.named_site(self._result, "bound", site)
        asked = Question(name, check_count("num_draws", num_draws), num_steps, ode_steps)
        found = row_bounds.bound(self._result, as_key(rng_key), call, asked)
        if by_row:
            return DataFrame(found.columns)
        scores = found.scores
        return Scores([one._asdict() for one in scores.values()], index=list(scores))

    @memory_of_draws("generate")
    def generate(
        self,
        *args: Any,
        num_rows: int | None = None,
        num_steps: int | None = None,
        method: str = "ancestral",
        keep: Any = None,
        site: str | None = None,
        rng_key: RngKey = 0,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Rows drawn from a diffusion model.

        All with the same draw of the latents that rows share, such as weights with priors: for
        draws from the posterior predictive distribution call it with several `rng_key`. Latents of
        each row are drawn from their prior.

        Args:
            *args: the model's arguments; those of the fit by default. Of the rows only the shape
                is used, and the elements in `keep`; other arguments are conditions.
            num_rows: how many, by default as many as in the arguments. With conditions for each row
                leave it out.
            num_steps: of the process: by default those of the model, 250 in continuous time; for
                masked data the number of calls of the network, by default one for each element.
            method: `"ancestral"`, or `"ode"`, the ordinary differential equation with the same
                marginal distributions, which needs fewer steps.
            keep: of discrete data, which elements of the rows are known, truth values of the shape
                of a row or of all: the others are drawn given these.
            site: if there are several.
            rng_key: an int, a JAX key or a legacy key.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            `(num_rows, ...)`.

        Raises:
            ModelError: the model has no such site, or `keep` does not fit.
        """
        call = self._call(args, kwargs, model_kwargs)
        for name, value in (("num_rows", num_rows), ("num_steps", num_steps)):
            check_count(name, value, optional=True)
        options = (num_rows, num_steps, method, site, keep)
        return generative.generate(self._result, as_key(rng_key), call, *options)
