"""PyMC models; `pymc` is imported when the first one is converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vijax.model.tracing.labelled_call import LabelledCall
from vijax.runtime.errors import ModelError, mismatch


def from_pymc(model: Any) -> Callable[..., None]:
    """A PyMC model as a model for `fit`.

    Every variable becomes a site of the same name: with NumPyro's distribution where there is one
    of the same parameters, else with the log density, the transform and the random draws of PyMC
    itself, compiled by JAX. So priors, likelihood, potentials, deterministics and dims are those
    of the model, and `predict`, `log_likelihood`, `log_evidence` and `to_datatree` work as for any
    other model.

    Example::

        with pm.Model(coords={"school": names}) as schools:
            y, sigma = pm.Data("y", ...), pm.Data("sigma", ...)
            mu = pm.Normal("mu", 0.0, 5.0)
            tau = pm.HalfCauchy("tau", 5.0)
            theta = pm.Normal("theta", mu, tau, dims="school")
            pm.Normal("obs", theta, sigma, observed=y)

        posterior = vijax.fit(vijax.from_pymc(schools))

    `pm.Data`, observed arrays and arrays of constants are arguments: after `pm.set_data`, or for a
    model that is built anew, a fit to arrays of the same shapes compiles nothing. For predictions
    at other inputs pass them by name, and `None` for what was observed there:
    `posterior.predict(x=new_x, y=None)`, where `y` is the `pm.Data` that was observed, or else
    the observed variable.

    Args:
        model: a `pymc.Model`, with continuous free variables.

    Returns:
        A model without further arguments. Draws have the names of the variables, on their own
        scales; dims are plates, and `fit` knows their coords.

    Raises:
        ModelError: a free variable is discrete, the data are minibatches, or JAX cannot compute
            the log density.
        ImportError: `pymc` is not installed.
    """
    try:
        import pymc
    except ImportError as error:
        raise ImportError(
            "from_pymc: expected PyMC, which is not installed. Run pip install 'vijax-ppl[pymc]'."
        ) from error
    if not isinstance(model, pymc.Model):
        raise ModelError(mismatch("model", "a pymc.Model", type(model).__name__))
    from vijax.model.pymc.convert import convert  # imports PyMC's compiler

    converted = convert(model)
    return LabelledCall(converted.coords, converted.run, converted.program, **converted.data)
