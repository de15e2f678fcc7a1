"""Requirements of methods: a guide density, the data of the fit; errors where they are missing."""

from __future__ import annotations

from typing import NoReturn

from vijax.contracts import Blocks, Data, DensityGuide
from vijax.posterior.result import FitResult
from vijax.runtime.errors import GuideError, ModelError


def require_density(result: FitResult, what: str) -> DensityGuide:
    """The guide, if it has a density.

    Raises:
        GuideError: it has none.
    """
    if not isinstance(result.guide, DensityGuide):
        raise GuideError(
            f"{what}: expected a guide with a density, got {result.guide!r}. Refit with "
            "guide='meanfield' or 'fullrank'."
        )
    return result.guide


def require_latents(result: FitResult) -> None:
    """Checks that there is something to draw.

    Raises:
        ModelError: the model has parameters only.
    """
    if not result.target.space.sites:
        no_draws()


def no_draws() -> NoReturn:
    """Raises, as there is nothing to draw."""
    raise ModelError(
        "draws: expected latent sites, got a model with parameters only. They are "
        "posterior.model_params; posterior.generate() draws rows."
    )


def require_log_density(result: FitResult, what: str) -> None:
    """Checks that the model has a log density that can be evaluated.

    Raises:
        ModelError: it is a stochastic bound, whose exponential has no meaning.
    """
    for name in result.target.structure.bounds:
        raise ModelError(
            f"{what}: expected a log density that can be evaluated, got site {name!r}, which is a "
            "stochastic bound. posterior.elbo and posterior.bound are averages of it."
        )


def _require_rows(result: FitResult, what: str) -> None:
    """Checks that the model runs on all rows at once.

    Raises:
        ModelError: it runs on those of a minibatch only.
    """
    if not result.target.subsampling.whole:
        ((plate, used),) = result.target.subsampled.items()
        raise ModelError(
            f"{what}: expected a model that runs on all "
            f"{result.target.subsampling.plates[plate].size} rows of plate {plate!r} at once, got "
            f"one with arrays of {used} rows. Index them by the rows of the plate instead; draws, "
            "summaries and the ELBO are available as it is."
        )


def require_data(result: FitResult, what: str) -> None:
    """Checks that all data of the fit are in memory, and that the model runs on them.

    Raises:
        ModelError: some are not, or it does not.
    """
    _require_rows(result, what)
    if set(result.missing) & result.arguments.sources.keys():
        raise ModelError(
            f"{what}: expected all data in memory, but {', '.join(map(repr, result.missing))} is "
            "read batch by batch. Pass some rows: predict(x[:1000]), or, with an amortized "
            "guide, at(x[:1000])."
        )
    if result.missing:
        raise ModelError(
            f"{what}: expected the data, but this posterior was loaded without "
            f"{', '.join(map(repr, result.missing))}. Load it as vijax.load(path, model, *data)."
        )


def require_guide_data(result: FitResult, what: str) -> None:
    """Checks that the data from which an amortized guide infers latents are in memory.

    Raises:
        ModelError: some are not.
    """
    if result.missing_for_guide:
        require_data(result, what)


def require_all_rows(result: FitResult, what: str) -> None:
    """Checks that model and guide can be evaluated on all rows.

    Raises:
        ModelError: the model runs on those of a minibatch only, or data of the guide are missing.
    """
    _require_rows(result, what)
    require_guide_data(result, what)


def all_data(result: FitResult, what: str) -> Data:
    """All rows of data, in memory or in blocks.

    Raises:
        ModelError: they are not available.
    """
    if result.data is None:
        require_data(result, what)
    assert result.data is not None
    return result.data


def unsubsampled_data(result: FitResult, what: str) -> Data:
    """All rows of data with no plate subsampled, for quantities computed row by row.

    Raises:
        ModelError: they are not available.
    """
    if result.target.marginalized.sizes:  # draws of discrete sites need all rows at once
        require_data(result, what)
    data = all_data(result, what)
    return data if isinstance(data, Blocks) else data._replace(index={})
