"""Simulation-based calibration: fits to data sets drawn from the model, against the truth."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vijax.fitting.fit import DEFAULTS
from vijax.fitting.fit_many import fit_many
from vijax.model import Call, unwrap
from vijax.model.outcome_arguments import outcome_arguments
from vijax.posterior.calibration import LEAST_SETS, Calibration, shares_below
from vijax.posterior.datatree import observed_data
from vijax.posterior.many.fits import Fits
from vijax.posterior.posterior import Posterior
from vijax.posterior.prediction import joint_draws
from vijax.posterior.prior import prior
from vijax.posterior.requirements import require_data
from vijax.runtime.checks import check_count
from vijax.runtime.errors import ModelError, VijaxError, mismatch
from vijax.runtime.keys import RngKey, as_key, fold_in, host_rng
from vijax.runtime.keywords import merged

_OF_MANY = DEFAULTS.keys() - {"rng_key", "model_kwargs", "coords", "checkpoint", "callbacks"}

Draws = Mapping[str, np.ndarray]


def calibrate(
    model: Callable[..., Any],
    *args: Any,
    num: int = 200,
    num_draws: int = 500,
    around: Posterior | None = None,
    quantities: Mapping[str, Callable[[Draws], Any]] | None = None,
    rng_key: RngKey = 0,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Calibration:
    """Simulation-based calibration: is inference right on data sets drawn from the model?

    Parameters are drawn from the prior, a data set from the model at each, and every data set is
    fitted as `fit` would. If inference is exact, the rank of the true parameter among posterior
    draws is uniform, whatever the model. Sources: Validating Bayesian Inference Algorithms with
    Simulation-Based Calibration, Talts, Betancourt, Simpson, Vehtari and Gelman, 2018; of
    `around`, Posterior SBC, Säilynoja, Schmitt, Bürkner and Vehtari, 2025.

    >>> import numpy as np, numpyro, numpyro.distributions as dist, vijax
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("rows", len(y)):
    ...         numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> vijax.calibrate(model, np.zeros(10), num=100).calibrated
    True

    Args:
        model: a NumPyro model function.
        *args: its arguments, as for `fit`. The data of observed sites are used for their shapes
            only, and must be arguments as they are passed to `obs=`.
        num: number of data sets.
        num_draws: posterior draws of each, among which the truth is ranked.
        around: a posterior of this model, whose data are used: leave out `*args`. Parameters are
            drawn from it in place of the prior, and each data set is that of the posterior with
            the drawn one below it, row by row: inference where it matters, and under priors that
            are too wide to simulate from. All arrays as long as the observed ones are repeated.
            Sites whose shape grows with the rows are left out.
        quantities: by name, functions of a dictionary of draws, `(..., *shape)` by site, to numbers
            `(...)`, whose ranks are of interest: differences, products, predictions.
        rng_key: an int, a JAX key or a legacy key.
        model_kwargs: keyword arguments of the model whose names are also options.
        **kwargs: options of `fit` (`guide=`, `algorithm=`, ...), and the model's keyword arguments.

    Returns:
        A `Calibration`: `calibrated`, `summary()`, `by_status()` and `report()`.

    Raises:
        TypeError: both `around` and arguments of the model are given.
        ValueError: `num` is below 20.
        VijaxError: fewer than 20 data sets have a posterior.
        ModelError: no data can be drawn: a prior is improper, there is a factor, data of a site are
            no argument, or a distribution depends on them.
    """
    if check_count("num", num) < LEAST_SETS:
        raise ValueError(mismatch("num", f"at least {LEAST_SETS} data sets", num))
    check_count("num_draws", num_draws)
    options = {name: kwargs.pop(name) for name in _OF_MANY & kwargs.keys()}
    kwargs, key = merged(kwargs, model_kwargs), as_key(rng_key)
    if around is not None:
        args, kwargs = _call_of(around, args, kwargs)
    simulator = prior(model, *args, model_kwargs=kwargs)
    state = simulator.state
    outcomes = outcome_arguments(model, args, kwargs, observed_data(state, state.batch))
    if around is None:
        drawn = simulator.predict(num_draws=num, rng_key=fold_in(key, 1))
        truth = {name: x for name, x in drawn.items() if name not in outcomes}
    else:
        truth, drawn = joint_draws(around._result, fold_in(key, 1), num)
    data = state.batch.data
    sets = []
    for i in range(num):
        new = {outcomes[site]: np.asarray(drawn[site][i]) for site in outcomes}
        if around is not None:
            new = _appended(data, new, {*outcomes.values()})
        new = {name: np.asarray(x, np.asarray(data[name]).dtype) for name, x in new.items()}
        sets.append(_keywords(model, state.arguments.join({**data, **new})))
    fits = fit_many(model, sets, rng_key=fold_in(key, 2), **options)
    _check_enough(fits)
    posterior = fits.sample(num_draws, rng_key=fold_in(key, 3))
    truth = _comparable(truth, posterior)
    for name, function in (quantities or {}).items():
        truth[name] = np.asarray(function(truth))
        posterior[name] = np.asarray(function(posterior))
        if truth[name].shape[:1] != (num,) or posterior[name].shape[:2] != (num, num_draws):
            expected = "a function of draws (..., *shape) to (...)"
            raise ModelError(mismatch(f"quantities[{name!r}]", expected, posterior[name].shape))
    rng = host_rng(fold_in(key, 4))
    ranks = {name: shares_below(x, posterior[name], rng) for name, x in truth.items()}
    return Calibration(ranks, np.asarray(fits.status), num_draws)


def _check_enough(fits: Fits) -> None:
    count = int(np.isin(fits.status, ("error", "unfinished"), invert=True).sum())
    if count < LEAST_SETS:
        error = next(iter(fits.errors.values()), None)
        expected = f"posteriors of at least {LEAST_SETS} data sets"
        reason = str(error or "the time was up")
        raise VijaxError(mismatch("calibrate", expected, count, reason)) from error


def _call_of(around: Posterior, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The arguments of a fit."""
    if args or kwargs:
        expected = "no arguments of the model beside it: those of its fit are used"
        raise TypeError(mismatch("around", expected, f"{len(args) + len(kwargs)} arguments"))
    require_data(around._result, "calibrate")
    return around._result.arguments.join(around._result.batch.data)


def _appended(
    data: Mapping[str, Any], new: Mapping[str, np.ndarray], outcomes: set[str]
) -> dict[str, np.ndarray]:
    """All arrays as long as the outcomes, with the rows of the new data set below them."""
    lengths = {len(new[name]) for name in outcomes if np.ndim(new[name])}
    if len(lengths) != 1:
        expected = "observed sites of one length, the number of rows"
        raise ModelError(mismatch("around", expected, sorted(lengths)))
    (length,) = lengths
    return {
        name: np.concatenate([np.asarray(x), new.get(name, np.asarray(x))])
        for name, x in data.items()
        if np.ndim(x) and len(x) == length
    }


def _keywords(model: Callable[..., Any], call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """The arguments of a model by name."""
    function, args, kwargs = unwrap(model, *call)
    signature = inspect.signature(function)
    names = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(names):
        expected = "arguments of the model that have names"
        raise ModelError(mismatch("calibrate", expected, f"{len(args)} positional arguments"))
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _comparable(truth: Draws, posterior: Draws) -> dict[str, np.ndarray]:
    """The parameters that the fits have in the same shape."""
    return {
        name: np.asarray(x)
        for name, x in truth.items()
        if name in posterior and posterior[name].shape[2:] == np.shape(x)[1:]
    }
