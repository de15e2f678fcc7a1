"""`fit_many`: one model fitted to many data sets."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

from vijax.fitting import options as _options
from vijax.fitting.fit import DEFAULTS
from vijax.fitting.many import ManyFits
from vijax.model import unwrap
from vijax.posterior.many.datasets import calls_of
from vijax.posterior.many.fits import Fits
from vijax.runtime.interrupt import best_answer
from vijax.runtime.keys import RngKey, as_key
from vijax.runtime.memory import explain_out_of_memory
from vijax.runtime.progress import show_progress

_OF_ONE = ("checkpoint", "callbacks")  # options of a single fit


@explain_out_of_memory("fit_many", "Fit the data sets in several calls.")
def fit_many(
    model: Callable[..., Any],
    datasets: Any,
    *,
    rng_key: RngKey = 0,
    guide: Any = "auto",
    algorithm: Any = "auto",
    init: Any = None,
    max_seconds: float | None = None,
    progress_bar: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Fits:
    """Fits the same model to many data sets: stores, patients, simulations, folds.

    With the default guide, data sets of equal shapes are fitted together: their points share calls
    of one compiled program, and the solvers work on arrays with an axis of sets. Each has the
    stages, diagnostics and thresholds of `vijax.fit`; where these do not end in a status that can
    be relied on, or find other modes, that set is fitted by `vijax.fit` alone. So are all sets with
    other guides, algorithms or options, one after another with one program.

    Args:
        model: a NumPyro model function.
        datasets: the data sets: a sequence or an iterable of them, each a tuple of positional
            arguments, a mapping of keyword arguments, or one array or data frame; with labels, a
            mapping `{label: data set}`, pairs of a string and a data set, or a pandas `groupby`.
            Sets with arrays of different shapes are different programs: group sizes, or pad the
            rows and mask them in the model.
        rng_key: an int, a JAX key or a legacy key; that of data set `i` is `fold_in(key, i)`.
        guide: see `vijax.fit`.
        algorithm: see `vijax.fit`.
        init: see `vijax.fit`: a start of all fits, which have the others as well. It may be a
            `Posterior`.
        max_seconds: wall-clock limit for all fits.
        progress_bar: whether to show progress on a terminal.
        model_kwargs: keyword arguments of the model whose names are also options.
        **kwargs: other options of `vijax.fit`, and keyword arguments that all data sets share. A
            `mesh` with the axis `"sets"` alone has different data sets on each device; one with
            other axes shards each fit, and they are made one after another.

    Returns:
        `Fits`. A data set that cannot be fitted has the status `"error"` and leaves others alone.
        Ctrl-C and `max_seconds` return those that are finished.

    Raises:
        ArgumentError: there are no data sets, or they are of another kind.
        TypeError, ValueError: an option is unknown or has the wrong type or value.
        KeyboardInterrupt: Ctrl-C was pressed twice, or before any fit was finished.
    """
    start_time = time.perf_counter()
    names = {*inspect.signature(unwrap(model, (), {})[0]).parameters}
    options = {
        name: kwargs.pop(name) for name in [*kwargs] if name in DEFAULTS and name not in names
    }
    for name in _OF_ONE:
        if options.get(name):
            raise ValueError(f"{name}: it belongs to a single fit; leave it out of fit_many.")
    given = {"rng_key": rng_key, "guide": guide, "algorithm": algorithm, "init": init}
    shared = {**kwargs, **(model_kwargs or {})}
    calls, labels = calls_of(datasets, shared)
    own = model_kwargs or {}
    first = calls[0][0], {name: value for name, value in calls[0][1].items() if name not in own}
    checked = _options.checked(model, first, {**DEFAULTS, **options, **given}, DEFAULTS, own)
    run = ManyFits(model, calls, labels, checked, as_key(rng_key), start_time)
    with show_progress(progress_bar):
        return best_answer(run.run, max_seconds, start_time, "fit_many")
