"""Methods of a posterior about the latents of rows, for amortized guides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vijax.posterior import row_evidence
from vijax.posterior.latents import NUM_ROWS, Latents, latents
from vijax.posterior.predictive_methods import PredictiveMethods, memory_of_draws
from vijax.posterior.row_evidence import RowEvidence
from vijax.runtime.keys import RngKey, as_key
from vijax.runtime.keywords import explain_keywords_of_methods


@explain_keywords_of_methods
class LatentMethods(PredictiveMethods):
    """Methods of a `Posterior` with an amortized guide, at the rows of the fit or at others."""

    @memory_of_draws("log_evidence_rows")
    def log_evidence_rows(
        self,
        *args: Any,
        num_draws: int = 1000,
        refine_steps: int | None = None,
        rng_key: RngKey = 0,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> RowEvidence:
        """Importance-weighted estimate of the log evidence of each row, its test log likelihood.

        `log 1/K sum_k p(x_i, z_ik) / q(z_ik | x_i)` with `K = num_draws` draws from the encoder's
        distribution of each row, in blocks of rows and draws, so that memory does not grow with
        their number. Latents that rows share are drawn from the guide, one draw for each `k`: the
        estimate is then of `log E_q[p(x_i | shared latents)]`, the posterior predictive density.
        Sources: Importance Weighted Autoencoders, Burda, Grosse, Salakhutdinov, 2016; on the
        refinement, Iterative Amortized Inference, Marino, Yue, Mandt, 2018; Semi-Amortized
        Variational Autoencoders, Kim, Wiseman, Miller, Sontag, Rush, 2018.

        Args:
            *args: the model's arguments at the rows, observations included; by default the fit's.
            num_draws: number of draws of each row; 5,000 in publications.
            refine_steps: number of natural-gradient steps of each row's own ELBO, from the
                encoder's output, before the draws: `bounds` without the amortization gap, and
                a larger `ess`. The model stays as it is. 20 to 100; for `guides.Amortized`.
            rng_key: an int, a JAX key or a legacy key.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            Estimates of the rows and their mean, with standard errors and the bias of the mean.

        Raises:
            GuideError: some latents of rows have no amortized guide, or, to refine, another one
                than `guides.Amortized`.
            ModelError: the fit's rows are not in memory, or rows are not independent given the
                latents that they share.
        """
        key, (args, kwargs) = as_key(rng_key), self._call(args, kwargs, model_kwargs)
        return row_evidence.log_evidence_rows(
            self._result, key, args, kwargs, num_draws, refine_steps
        )

    @memory_of_draws("latents")
    def latents(
        self,
        *args: Any,
        num_rows: int = NUM_ROWS,
        rng_key: RngKey = 0,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Latents:
        """How much the latents of rows are used: active units, information, divergence.

        For continuous latents with an amortized guide. `report()` has these figures of the rows of
        the fit, and remedies if the posterior has collapsed to the prior.

        Args:
            *args: the model's arguments at the rows, observations included; by default the fit's.
            num_rows: number of rows that are used, chosen at random.
            rng_key: an int, a JAX key or a legacy key.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Raises:
            GuideError: the latents of rows are discrete, or have no amortized guide.
            ModelError: the fit's rows are not in memory.
        """
        key, (args, kwargs) = as_key(rng_key), self._call(args, kwargs, model_kwargs)
        return latents(self._result, key, args, kwargs, num_rows)
