"""Expectations over discrete variables, and their gradients.

For variables too many to be summed out. An estimator gives an unbiased estimate of `E[f]`, to be
differentiated: its gradient in the variables' probabilities is the estimator's, in anything else
that `f` holds the pathwise one. In order of preference:

| estimator | name | evaluations of `f` | what it needs |
|---|---|---|---|
| `LocalExpectation` | `"local"` | `1 + ` one for every other value | few variables |
| `DisARM` | `"disarm"` | 2 a pair | two values each |
| `LeaveOneOut` | `"leave_one_out"` | `num_draws` | nothing |
| `Rebar` | `"rebar"` | 2 and a gradient | `f` smooth between the values |
| `Relax` | `"relax"` | as `Rebar`, and a product with the Hessian | the same, and time to learn |
| `GumbelSoftmax` | `"gumbel_softmax"` | 2, one gradient; **biased** | the same |
| `StraightThrough` | `"straight_through"` | 1 and its gradient; **biased** | the same |
"""

from vijax.objectives.estimators.discrete.choice import NAMES, check, chosen
from vijax.objectives.estimators.discrete.estimator import Estimator, EstimatorContext
from vijax.objectives.estimators.discrete.integrand import elbo_integrand
from vijax.objectives.estimators.discrete.rebar import Rebar
from vijax.objectives.estimators.discrete.relax import Relax
from vijax.objectives.estimators.discrete.relaxed import GumbelSoftmax, StraightThrough
from vijax.objectives.estimators.discrete.sampled import DisARM, LeaveOneOut, LocalExpectation

__all__ = [
    "NAMES",
    "DisARM",
    "Estimator",
    "GumbelSoftmax",
    "LeaveOneOut",
    "LocalExpectation",
    "Rebar",
    "Relax",
    "EstimatorContext",
    "StraightThrough",
    "check",
    "chosen",
    "elbo_integrand",
]
