"""Figures of a posterior: `import vijax.plot`, with `pip install '.[plots]'`.

Functions that draw one panel take and return `axes`; those that draw several return a `Figure`.

>>> import numpy as np, numpyro, numpyro.distributions as dist, vijax, vijax.plot
>>> def model(y):
...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
>>> posterior = vijax.fit(model, np.array([1.0, 2.0, 3.0]))
>>> vijax.plot.weights(posterior).get_xlabel()
'log weight less its mean (nats)'
"""

from importlib.util import find_spec

if find_spec("matplotlib") is None:
    raise ImportError(
        "vijax.plot: expected matplotlib, which is not installed. Install the extra `plots`: "
        "pip install '.[plots]' in the checkout."
    )

from vijax.plot.calibration import calibration
from vijax.plot.compare import compare
from vijax.plot.losses import losses
from vijax.plot.marginals import marginals
from vijax.plot.pair import pair
from vijax.plot.predictive import predictive
from vijax.plot.report import report
from vijax.plot.shifts import shifts
from vijax.plot.stages import stages
from vijax.plot.topics import topics
from vijax.plot.weights import weights

__all__ = [
    "calibration",
    "compare",
    "losses",
    "marginals",
    "pair",
    "predictive",
    "report",
    "shifts",
    "stages",
    "topics",
    "weights",
]
