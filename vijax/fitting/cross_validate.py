"""Cross-validation: the same model fitted without some of its rows, and its density of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch
from vijax.diagnostics.diagnosis import TRUSTED
from vijax.fitting.fit import DEFAULTS
from vijax.fitting.fit_many import fit_many
from vijax.fitting.folds import Folds, make_folds
from vijax.guides import Conjugate
from vijax.model.data_dependence import abstract_position
from vijax.model.included_rows import INCLUDED, IncludedRows, plate_of_rows
from vijax.posterior.cross_validation import CrossValidation
from vijax.posterior.many.compact import complete, with_data
from vijax.posterior.many.draws import is_fast
from vijax.posterior.many.fits import Fits
from vijax.posterior.posterior import Posterior
from vijax.posterior.requirements import require_data, require_log_density
from vijax.posterior.result import FitResult
from vijax.posterior.row_scores import (
    Rows,
    Scores,
    blocks,
    different_draws,
    log_means,
    scores,
    weighted_scores,
)
from vijax.runtime.blockwise import Arrays
from vijax.runtime.checks import check_count
from vijax.runtime.errors import GuideError, ModelError, VijaxError, mismatch, warn
from vijax.runtime.keys import RngKey, as_key, fold_in, host_rng
from vijax.runtime.memory import explain_out_of_memory

_GOOD_KHAT = 0.7
_CHECKED = 16  # draws at which masks are checked
_OPTIONS = DEFAULTS.keys() - {"rng_key", "model_kwargs", "coords", "checkpoint", "callbacks"}


@explain_out_of_memory("cross_validate", "Use fewer draws (num_draws=).")
def cross_validate(
    posterior: Posterior,
    folds: Any = None,
    *,
    groups: Any = None,
    stratify: Any = None,
    joint: bool = False,
    exact: bool = True,
    plate: str | None = None,
    num_draws: int = 2000,
    rng_key: RngKey = 0,
    **options: Any,
) -> CrossValidation:
    """K-fold or leave-group-out cross-validation of a fit, by fits without the rows of each fold.

    Rows are masked, not cut out: the model runs on all of them, the observed sites of rows that are
    left out do not count, and all latents stay, those of such rows with their prior given the rest.
    So all folds are data sets of one shape, which `vijax.fit_many` fits by one program, from the
    given posterior as a start. Sources: A survey of Bayesian predictive methods for model
    assessment, selection and comparison, Vehtari and Ojanen, 2012; Practical Bayesian model
    evaluation using leave-one-out cross-validation and WAIC, Vehtari, Gelman and Gabry, 2017.

    >>> import numpy as np, numpyro, numpyro.distributions as dist, vijax
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("rows", len(y)):
    ...         numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> posterior = vijax.fit(model, np.linspace(-1.0, 2.0, 20), progress_bar=False)
    >>> found = vijax.cross_validate(posterior, 5, progress_bar=False)
    >>> found.reliable
    True

    Args:
        posterior: a fit with its data.
        folds: their number (at random), or a label for each row, `(num_rows,)`. By default 10, with
            `groups` one for each group. As many as rows is leave-one-out. Random folds are wrong
            for time series and chains, where a row is predicted from those after it.
        groups: a label for each row: rows of a group are left out together.
        stratify: a label for each row: random folds have about equal shares of each.
        joint: whether a group is scored as a whole, `log p(y_group | the others)`, rather than row
            by row, the sum of `log p(y_i | the others)`.
        exact: whether all folds are fitted. Otherwise importance weights of the posterior take the
            place of a fit where their Pareto k-hat is reliable, as in PSIS leave-one-out, and only
            the other folds are fitted.
        plate: the plate whose rows are left out; by default the only one of the observed sites.
        num_draws: posterior draws of each fold.
        rng_key: an int, a JAX key or a legacy key; the random folds depend on nothing else.
        **options: of `fit`, for the folds (`guide=`, `max_seconds=`, `progress_bar=`, ...); by
            default the guide of the posterior, if it was not automatic.

    Returns:
        A `CrossValidation`: `elpd`, `se`, `p`, `pointwise`, `summary()`, `report()`. Two or more of
        them with the same folds are compared by `vijax.compare`.

    Raises:
        VijaxError: folds, groups or classes are not one label a row, or there are too few.
        ModelError: there are no observed rows, the plate is ambiguous, or data are missing.
        GuideError: an amortized guide infers latents of a row from the row itself.
        TypeError: an option is unknown, or arguments exclude each other.
    """
    key, result = as_key(rng_key), _checked(posterior, options)
    if joint and groups is None:
        raise TypeError(mismatch("joint", "groups= beside it, which are scored as a whole", True))
    check_count("num_draws", num_draws)
    plate, axes, num_rows = _rows(result, plate)
    made = make_folds(num_rows, folds, groups, stratify, host_rng(fold_in(key, 0)))
    units = made.groups if joint and made.groups is not None else np.arange(num_rows)
    run = _Run(result, Rows(axes, units), made, num_draws, key)
    density, weighted = run.given_all(exact)
    fits = run.fits(posterior, plate, options, weighted)
    found = run.result(density, weighted, fits, joint)
    if not found.reliable:
        lines = [line for line in found.report().split("\n") if line.startswith("- ")]
        warn("cross_validate: elpd is not reliable.\n" + "\n".join(lines))
    return found


class _Weighted(NamedTuple):
    """A fold by importance weights: its scores, `None` where k-hat of the weights is too large."""

    scores: Scores | None
    khat: float


class _Run:
    """One cross-validation.

    Args:
        result: of the fit.
        rows: its rows.
        folds: which of them are left out together.
        num_draws: of each posterior.
        key: the root key.
    """

    def __init__(
        self, result: FitResult, rows: Rows, folds: Folds, num_draws: int, key: Array
    ) -> None:
        self.result_of_all, self.rows, self.folds = result, rows, folds
        self.num_draws, self.key = num_draws, key
        self.numbers = range(len(folds.labels))
        self.unit_folds = np.empty(rows.num_units, int)
        self.unit_folds[rows.units] = folds.of_rows

    def given_all(self, exact: bool) -> tuple[np.ndarray, list[_Weighted]]:
        """Log densities of the units given all data, and the folds by importance weights."""
        result = self.result_of_all
        z = different_draws(result, fold_in(self.key, 1), self.num_draws)
        data = result.batch._replace(index={})
        every = np.arange(len(self.rows.units))
        parts = blocks(result, data, z, self.rows, every)
        if exact or result.status not in TRUSTED:
            return log_means(parts), [_Weighted(None, math.nan) for _ in self.numbers]
        values, weighted = np.concatenate([*parts]), []
        good = min(1 - 1 / math.log10(len(values)), _GOOD_KHAT) if len(values) > 1 else -math.inf
        for i in self.numbers:
            found, khat = weighted_scores(values[:, self.unit_folds == i])
            weighted.append(_Weighted(found if khat <= good else None, khat))
        return log_means(iter([values])), weighted

    def fits(
        self,
        posterior: Posterior,
        plate: str | None,
        options: Mapping[str, Any],
        weighted: Sequence[_Weighted],
    ) -> Fits:
        """The fits of the folds that are not weighted."""
        result, key = self.result_of_all, fold_in(self.key, 2)
        todo = [i for i in self.numbers if weighted[i].scores is None]
        if not todo:
            return Fits([], [], [], {}, key, 0.0)
        data = {name: np.asarray(value) for name, value in result.batch.data.items()}  # shared
        args, kwargs = result.arguments.join(data)
        sets = {self.folds.labels[i]: (self.folds.of_rows != i, *args) for i in todo}
        automatic = result.history or isinstance(result.guide, Conjugate)
        given = {"guide": "auto" if automatic else result.guide, "init": posterior, **options}
        if result.arguments.coords:
            given["coords"] = result.arguments.coords
        model = IncludedRows(result.model, plate)
        fits = fit_many(model, sets, rng_key=key, model_kwargs=kwargs, **given)
        if len(fits.errors) == len(todo):
            error = next(iter(fits.errors.values()))
            raise VijaxError(f"cross_validate: no fold could be fitted: {error}") from error
        return fits

    def result(
        self, density: np.ndarray, weighted: Sequence[_Weighted], fits: Fits, joint: bool
    ) -> CrossValidation:
        """The result, by draws of every fold's posterior."""
        num, labels = self.rows.num_units, self.folds.labels
        log_density, errors, khat = np.full((3, num), np.nan)
        status = np.full(len(labels), self.result_of_all.status, "U16")
        places = {label: place for place, label in enumerate(fits.labels)}
        of_fits, shared, variance = fits.status, np.zeros(1), 0.0
        for i in self.numbers:
            found = weighted[i].scores
            if found is not None:  # by the same draws in all folds
                shared = shared + found.influence
            else:
                place = places[labels[i]]
                status[i] = of_fits[place]
                found = self._of_fit(fits, place, i)
            if found is None:
                continue
            units = self.unit_folds == i
            log_density[units], errors[units], khat[units] = found[0], found.errors, found.khat
            if weighted[i].scores is None:
                variance += float(np.mean(found.influence**2)) / len(found.influence)
        variance += float(np.mean(shared**2)) / len(shared)
        names = self.folds.group_labels if joint else np.arange(num)
        assert names is not None
        return CrossValidation(
            log_density,
            density - log_density,
            errors,
            khat,
            math.sqrt(variance),
            names,
            self.unit_folds,
            joint,
            self.folds.of_rows,
            labels,
            status,
            fits,
            np.array([one.khat for one in weighted]),
            self.num_draws,
        )

    def _of_fit(self, fits: Fits, place: int, fold: int) -> Scores | None:
        """The scores of a fold by its fit, `None` without one."""
        found = fits._results[place]
        if found is None:
            return None
        _check_not_amortized(found)
        call = fits._calls[place]
        key = fold_in(fits._key, place)
        found = with_data(found, call) if is_fast(found) else complete(found, call, key)
        z = different_draws(found, fold_in(self.key, 3 + fold), self.num_draws)
        left_out = self.folds.of_rows == fold
        data = _with_rows(found, np.ones_like(left_out))
        if place == 0:
            self._check_masks(found, z, fold)
        return scores(
            np.concatenate([*blocks(found, data, z, self.rows, np.flatnonzero(left_out))])
        )

    def _check_masks(self, found: FitResult, z: Arrays, fold: int) -> None:
        """Checks that the rows of the fold do not count in its fit, and that all others do."""
        every = np.arange(len(self.rows.units))
        z = {name: value[:_CHECKED] for name, value in z.items()}
        parts = (
            np.concatenate([*blocks(found, _with_rows(found, included), z, self.rows, every)])
            for included in (every >= 0, self.folds.of_rows != fold)
        )
        full, masked = parts
        wanted = np.where(self.unit_folds == fold, 0.0, full)
        if not np.allclose(masked, wanted, rtol=1e-3, atol=1e-3, equal_nan=True):
            expected = "observed sites that can be left out row by row"
            got = "sites that a mask around the model does not reach"
            raise ModelError(mismatch("cross_validate", expected, got))


def _with_rows(result: FitResult, included: np.ndarray) -> Batch:
    """The data of a fold's fit with other rows in the likelihood."""
    data = {**result.batch.data, INCLUDED: jnp.asarray(included)}
    return result.batch._replace(data=data, index={})


def _checked(posterior: Posterior, options: Mapping[str, Any]) -> FitResult:
    if not isinstance(posterior, Posterior):
        raise TypeError(mismatch("posterior", "a Posterior", type(posterior).__name__))
    for name in options.keys() - _OPTIONS:
        raise TypeError(f"cross_validate: unexpected keyword {name!r}; options are those of fit.")
    result = posterior._result
    require_data(result, "cross_validate")
    require_log_density(result, "cross_validate")
    if "guide" not in options:
        _check_not_amortized(result)
    return result


def _check_not_amortized(result: FitResult) -> None:
    if result.guide.amortized:
        expected = "a guide that does not see the rows that are left out"
        remedy = "Pass guide='auto' or 'plates'."
        raise GuideError(mismatch("cross_validate", expected, "an amortized one", remedy))


def _rows(result: FitResult, plate: str | None) -> tuple[str | None, dict[str, int], int]:
    """The plate whose rows are left out, its axis by observed site, and their number."""
    target, structure = result.target, result.target.structure
    found = jax.eval_shape(
        target.site_log_probs,
        abstract_position(target.space),
        Batch(result.batch.data),
        result.variables.model,
        result.mutable,
    )
    shapes = {name: found[name].shape for name in structure.observed}
    dims = {name: structure.dims[name][: len(shape)] for name, shape in shapes.items()}
    factors = {name: structure.dims[name][:-1] for name in structure.factors}  # of empty events
    plate, axes = plate_of_rows(dims, factors, plate)
    sizes = {name: shapes[name][axis] for name, axis in axes.items()}
    if len(set(sizes.values())) > 1:
        expected = "observed sites of one length, or in a plate of rows"
        raise ModelError(mismatch("plate", expected, sizes))
    return plate, axes, next(iter(sizes.values()))
