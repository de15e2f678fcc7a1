"""What a method needs of a fit: a density, all data, data of every row; or an error that says so."""

from __future__ import annotations

from vijax.contracts import Blocks, Data, DensityGuide
from vijax.posterior.result import FitResult
from vijax.runtime.errors import GuideError, ModelError


def require_density(result: FitResult, what: str) -> DensityGuide:
    """The guide.

    Raises:
        GuideError: it has no density.
    """
    if not isinstance(result.guide, DensityGuide):
        raise GuideError(
            f"{what}: expected a guide with a density, got {result.guide!r}. Refit with "
            "guide='meanfield' or 'fullrank'."
        )
    return result.guide


def require_data(result: FitResult, what: str) -> None:
    """Requires the data of the fit in memory.

    Raises:
        ModelError: some of them are not.
    """
    if set(result.missing) & result.arguments.sources.keys():
        raise ModelError(
            f"{what}: expected all data in memory, but {', '.join(map(repr, result.missing))} is "
            "read batch by batch. Pass some of its rows: predict(key, x[:1000]), or, where the "
            "guide infers latents from data, at(x[:1000])."
        )
    if result.missing:
        raise ModelError(
            f"{what}: expected the data, but this posterior was loaded without "
            f"{', '.join(map(repr, result.missing))}. Load it as vijax.load(path, model, *data)."
        )


def require_guide_data(result: FitResult, what: str) -> None:
    """Requires the data from which an amortized guide infers its latents.

    Raises:
        ModelError: some of them are not in memory.
    """
    if result.guide_lacks:
        require_data(result, what)


def all_data(result: FitResult, what: str) -> Data:
    """All rows, in memory or to be read.

    Raises:
        ModelError: they are not available.
    """
    if result.data is None:
        require_data(result, what)
    assert result.data is not None
    return result.data


def every_row(result: FitResult, what: str) -> Data:
    """The same with every row of subsampled plates in use, for what is computed row by row.

    Raises:
        ModelError: they are not available.
    """
    if result.target.marginalized.sizes:  # draws of discrete sites take all rows at once
        require_data(result, what)
    data = all_data(result, what)
    return data if isinstance(data, Blocks) else data._replace(index={})
