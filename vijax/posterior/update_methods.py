"""Updates of a posterior by new data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from vijax.posterior.predictive_methods import PredictiveMethods
from vijax.posterior.update import update
from vijax.runtime.keys import RngKey, as_key
from vijax.runtime.keywords import explain_keywords_of_methods


@explain_keywords_of_methods
class UpdateMethods(PredictiveMethods):
    """Methods of a `Posterior` for data that come in batches."""

    def update(
        self,
        *args: Any,
        forgetting: float = 1.0,
        new_groups: Collection[str] | str = (),
        rng_key: RngKey = 0,
        options: Mapping[str, Any] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """The posterior of earlier and new data, from this posterior and the new data alone.

        This posterior takes the place of the priors: the families of a conjugate guide where that
        is exact, else a normal distribution with its mean and covariance in unconstrained space.
        As long as the posterior is not normal, up to 64 small batches of equal shapes are kept
        instead. The expected error against a fit of all data is tracked over updates; above 0.1 sd
        of a mean the status is `"approximate"`, and after a posterior that was itself, has several
        modes or is far from normal. The report says it, and whether the new data moved
        a parameter by more than chance (drift). Its evidence is that of the new data given the
        earlier ones: the sum over updates is that of all. Source: Streaming Variational Bayes,
        Broderick, Boyd, Wibisono, Wilson and Jordan, 2013.

        Args:
            *args: the model's arguments with the new data. Latents have the shapes they had, so
                that groups are the same ones.
            forgetting: power of the earlier posterior, `p(z | earlier)^forgetting`; below 1 earlier
                data count less with every update, for parameters that drift.
            new_groups: plates whose members are new: their latents have the model's prior, given
                the other latents.
            rng_key: an int, a JAX key or a legacy key.
            options: of `fit`, such as `{"guide": "fullrank"}`.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            A `Posterior`, which can be updated again. Programs are compiled once for data of equal
            shape.

        Raises:
            ModelError: a latent has another shape, or its support depends on other sites.
            ArgumentError: a column has other labels than in this fit.
            ValueError: `forgetting` is not above 0 and up to 1.
        """
        args, kwargs = self._call(args, kwargs, model_kwargs)
        groups = (new_groups,) if isinstance(new_groups, str) else tuple(new_groups)
        key, options = as_key(rng_key), {"progress_bar": False, **(options or {})}
        found = update(self._result, args, kwargs, forgetting, groups, key, options)
        return type(self)(found)
