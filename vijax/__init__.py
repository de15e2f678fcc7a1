"""Variational inference for NumPyro models: a posterior in one call, and how far to trust it.

>>> import numpyro, numpyro.distributions as dist, vijax
>>> def model(y):
...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
>>> import numpy as np
>>> posterior = vijax.fit(model, np.array([1.0, 2.0, 3.0]))
>>> posterior.status
'certified'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vijax import data, guides, objectives
from vijax._version import __version__
from vijax.engine import callbacks
from vijax.fitting.calibrate import calibrate
from vijax.fitting.cross_validate import cross_validate
from vijax.fitting.fit import fit
from vijax.fitting.fit_many import fit_many
from vijax.model import from_log_density, from_pymc, from_tfp
from vijax.posterior.calibration import Calibration
from vijax.posterior.compare import compare
from vijax.posterior.conformal import Conformal, conformal
from vijax.posterior.cross_validation import CrossValidation
from vijax.posterior.latents import Latents
from vijax.posterior.load import load
from vijax.posterior.many.fits import Fits
from vijax.posterior.posterior import Posterior
from vijax.posterior.prior import Prior, prior
from vijax.posterior.row_evidence import RowEvidence
from vijax.posterior.serving import Predictor, load_predictor
from vijax.posterior.stack import stack
from vijax.posterior.uncertainty import Uncertainty
from vijax.runtime.errors import GuideError, ModelError, OutOfMemoryError, VijaxError, VijaxWarning
from vijax.solvers import ExpectationPropagation
from vijax.storage.checkpoint import Checkpoint

if TYPE_CHECKING:
    import vijax.nn as nn
    from vijax.posterior.tables import Comparison, Scores, Summary

__all__ = [
    "Calibration",
    "Checkpoint",
    "Comparison",
    "Conformal",
    "CrossValidation",
    "ExpectationPropagation",
    "Fits",
    "GuideError",
    "Latents",
    "ModelError",
    "OutOfMemoryError",
    "Posterior",
    "Predictor",
    "Prior",
    "RowEvidence",
    "Scores",
    "Summary",
    "Uncertainty",
    "VijaxError",
    "VijaxWarning",
    "__version__",
    "calibrate",
    "callbacks",
    "compare",
    "conformal",
    "cross_validate",
    "data",
    "fit",
    "fit_many",
    "from_log_density",
    "from_pymc",
    "from_tfp",
    "guides",
    "load",
    "load_predictor",
    "nn",
    "objectives",
    "prior",
    "stack",
]


def __getattr__(name: str) -> Any:
    """The tables, which need pandas, and networks, which need flax: both take long to import."""
    if name == "nn":
        return import_module("vijax.nn")
    if name in ("Comparison", "Scores", "Summary"):
        return getattr(import_module("vijax.posterior.tables"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return sorted(__all__)
