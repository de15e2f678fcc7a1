"""Gradient estimators for expectations over discrete variables that are not enumerated.

An estimator returns an unbiased estimate of `E_q[f]`, to be differentiated: its gradient in the
logits of `q` is the estimator's, that in all other inputs of `f` is pathwise. In order of
preference:

| estimator | name | evaluations of `f` | requires |
|---|---|---|---|
| `LocalExpectation` | `"local"` | `1 + ` one for every other value | few variables |
| `DisARM` | `"disarm"` | 2 per pair | binary variables |
| `LeaveOneOut` | `"leave_one_out"` | `num_draws` | nothing |
| `Rebar` | `"rebar"` | 2 and a gradient | `f` smooth between the values |
| `Relax` | `"relax"` | as `Rebar`, and a Hessian-vector product | the same, and time to learn |
| `GumbelSoftmax` | `"gumbel_softmax"` | 2, one gradient; **biased** | the same |
| `StraightThrough` | `"straight_through"` | 1 and its gradient; **biased** | the same |
"""

from vijax.objectives.estimators.discrete.black_box import (
    DisARM,
    LeaveOneOut,
    LocalExpectation,
)
from vijax.objectives.estimators.discrete.estimator import Estimator, EstimatorContext
from vijax.objectives.estimators.discrete.integrand import elbo_integrand
from vijax.objectives.estimators.discrete.names import NAMES, check_discrete, select_estimator
from vijax.objectives.estimators.discrete.rebar import Rebar
from vijax.objectives.estimators.discrete.relax import Relax
from vijax.objectives.estimators.discrete.relaxed import GumbelSoftmax, StraightThrough

__all__ = [
    "NAMES",
    "DisARM",
    "Estimator",
    "EstimatorContext",
    "GumbelSoftmax",
    "LeaveOneOut",
    "LocalExpectation",
    "Rebar",
    "Relax",
    "StraightThrough",
    "check_discrete",
    "elbo_integrand",
    "select_estimator",
]
