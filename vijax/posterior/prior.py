"""The prior of a model: draws, predictive draws, summaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vijax.contracts import Batch, Variables
from vijax.model import bound_arguments, build_prior, split_and_build, unwrap
from vijax.model.log_density import log_density_model
from vijax.posterior.datatree import prior_datatree
from vijax.posterior.labels import checked_coords
from vijax.posterior.model_state import ModelState, UnfittedModel
from vijax.posterior.prior_draws import draw_prior
from vijax.posterior.requirements import require_data
from vijax.posterior.result import FitResult
from vijax.posterior.summary import prior_summary
from vijax.runtime.checks import check_count
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import RngKey, as_key
from vijax.runtime.keywords import argument_names, explain_keywords_of_methods, merged

if TYPE_CHECKING:
    from xarray import DataTree  # imported by ArviZ, which takes long

    from vijax.posterior.tables import Summary


@explain_keywords_of_methods
class Prior:
    """The prior of a model, returned by `vijax.prior`: the methods of a posterior before a fit.

    Draws are ancestral: each site is drawn from its distribution given the earlier ones, discrete
    sites included, exactly and in one compiled program.
    """

    def __init__(self, state: ModelState) -> None:
        self.state = state

    def __repr__(self) -> str:
        model = getattr(self.state.model, "__name__", type(self.state.model).__name__)
        latent = [name for name in self.state.target.structure.dims if name not in self.observed]
        data = f"; data: {', '.join(self.observed)}" if self.observed else ""
        return f"Prior of {model}({', '.join(latent)}{data})"

    @property
    def observed(self) -> tuple[str, ...]:
        """The sites with data."""
        return self.state.target.structure.observed

    def sample(self, num_draws: int = 1000, *, rng_key: RngKey = 0) -> dict[str, np.ndarray]:
        """Prior draws of every latent site and deterministic.

        Deterministics that depend on observed sites are those of the predictive draws.

        Args:
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.

        Returns:
            By site, `(num_draws, *shape)`. A site without data (`y=None`) is a latent.

        Raises:
            ModelError: a prior is improper, or the model a log density.
        """
        draws = self.predict(num_draws=num_draws, rng_key=rng_key)
        return {name: x for name, x in draws.items() if name not in self.observed}

    def predict(
        self,
        *args: Any,
        num_draws: int = 1000,
        rng_key: RngKey = 0,
        do: Mapping[str, Any] | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        """Prior predictive draws: joint draws of latents, deterministics and observed sites.

        Args:
            *args: the model's arguments at other inputs; those of `vijax.prior` by default.
                Observed sites are drawn even if their data are passed.
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.
            do: values of sites, as in `Posterior.predict`.
            model_kwargs: keyword arguments of the model whose names are also options.
            **kwargs: the model's keyword arguments.

        Returns:
            By site, `(num_draws, *shape)`. With the key of `sample` the latents are the same.

        Raises:
            ModelError: a prior is improper, or the model a log density.
        """
        key, kwargs = as_key(rng_key), merged(kwargs, model_kwargs)
        check_count("num_draws", num_draws)
        if not args and not kwargs:
            call = self.state.arguments.join(self.state.batch.data)
        else:
            call = self.state.arguments.complete(args, kwargs)
        return draw_prior(self.state, key, *call, num_draws, do or {})

    def summary(
        self,
        sites: str | Iterable[str] | None = None,
        *,
        ci_prob: float = 0.89,
        round_to: int | None = None,
        num_draws: int = 4000,
        rng_key: RngKey = 0,
    ) -> Summary:
        """Moments and interval of every scalar of latent sites and deterministics.

        Args:
            sites: names of sites, or of scalars such as `"theta[3]"`; all by default.
            ci_prob: probability of the equal-tailed interval.
            round_to: number of decimals.
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.

        Returns:
            A pandas data frame, as of `Posterior.summary`, without columns of a guide.
        """
        draws = self.sample(num_draws, rng_key=rng_key)
        return prior_summary(self.state, draws, sites, ci_prob, round_to)

    def to_datatree(
        self, num_draws: int = 1000, *, rng_key: RngKey = 0, **options: Any
    ) -> DataTree:
        """Exports an ArviZ `DataTree` of groups prior, prior_predictive and observed_data.

        Args:
            num_draws: number of draws.
            rng_key: an int, a JAX key or a legacy key.
            **options: passed to `arviz_base.from_dict`.
        """
        return prior_datatree(self.state, as_key(rng_key), num_draws, **options)

    def _model_arguments(self) -> tuple[str, ...] | None:
        return argument_names(self.state.model)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        args, kwargs = self.state.arguments.join(self.state.batch.data)
        parts = (self.state.model, args, kwargs, self.state.arguments.coords)
        return _unpickle, (*parts, self.state.arguments.bound)


def _unpickle(model: Callable[..., Any], args: Any, kwargs: Any, coords: Any, bound: Any) -> Prior:
    found = prior(model, *args, model_kwargs=kwargs, coords=coords)
    state: Any = found.state
    return Prior(state._replace(arguments=dataclasses.replace(state.arguments, bound=bound)))


def prior(
    model: Callable[..., Any],
    *args: Any,
    model_kwargs: Mapping[str, Any] | None = None,
    coords: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Prior:
    """The prior of a model, to look at before a fit.

    >>> import numpy as np, numpyro, numpyro.distributions as dist, vijax
    >>> def model(x, y=None):
    ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("rows", len(x)):
    ...         numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
    >>> prior = vijax.prior(model, np.array([0.0, 2.0]))
    >>> print(prior.predict()["y"].std(0).round())  # 1 and the root of 5
    [1. 2.]

    Args:
        model: a NumPyro model function.
        *args: its arguments, as for `vijax.fit`. Data are used for their shapes only; with `y=None`
            for the data, a model must take its sizes from other arguments.
        model_kwargs: keyword arguments of the model whose names are also options.
        coords: labels of the elements of sites, as for `vijax.fit`.
        **kwargs: the model's keyword arguments.

    Returns:
        A `Prior`. `param` sites have their initial values.

    Raises:
        ModelError: the model fails to run, or is a log density.
        TypeError: an argument is unknown.
    """
    bound = bound_arguments(model)
    model, args, kwargs = unwrap(model, args, merged(kwargs, model_kwargs))
    names = argument_names(model)
    for name in kwargs:
        if names is not None and name not in names:
            expected = f"arguments of the model ({', '.join(names)}), coords or model_kwargs"
            remedy = "Draws and keys are options of its methods: vijax.prior(model, x).sample(100)."
            raise TypeError(mismatch("prior", expected, repr(name), remedy))
    if model is log_density_model:
        expected = "a model with priors to draw from"
        raise ModelError(mismatch("prior", expected, "a log density", "Write it as a model."))
    arguments, data, target = split_and_build(model, args, kwargs, None, build=build_prior)
    batch = Batch(data)
    arguments = dataclasses.replace(
        arguments, coords=checked_coords(coords, target, arguments, batch), bound=bound
    )
    parameters, mutable = target.initialize(as_key(0), batch)
    return Prior(
        UnfittedModel(model, arguments, target, Variables(None, parameters), mutable, batch)
    )


def prior_of(result: FitResult) -> Prior:
    """The prior of a fitted model, at the inputs of the fit, with its fitted `param` sites."""
    require_data(result, "prior")
    return Prior(result)
