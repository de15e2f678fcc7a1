"""The contract of gradient estimators for expectations over discrete variables."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Family, Position, PyTree
from vijax.families.discrete import Categorical, as_one_hot
from vijax.runtime.errors import GuideError

Families = dict[str, Family]


class EstimatorContext(NamedTuple):
    """Inputs of an estimator that change in the course of a fit.

    Attributes:
        phase: as in `LossContext`, for schedules.
        control_params: parameters of the control variates, from `Estimator.init`, later learned;
            the gradient estimate is differentiable in them.
    """

    phase: Array | float = 0.0
    control_params: PyTree = ()


class IntegrandValue(NamedTuple):
    """The value of a function of discrete variables.

    Attributes:
        value: the function's value, a scalar.
        local_values: by site, of its shape, the part of the value that depends on each entry.
        aux: auxiliary output.
    """

    value: Array
    local_values: dict[str, Array]
    aux: Any = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Integrand:
    """A function of discrete variables, a sum of terms some of which are per row.

    Called with indices of values by site, or with weights for a relaxation.

    Attributes:
        function: the function.
        independent_axes: by site, axes along which the local values of an entry do not depend on
            the other entries, so that all of them can be changed in one evaluation.
        scales: by site, the scale of its terms for subsampling; 1 by default.
    """

    function: Callable[[Position], IntegrandValue]
    independent_axes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    scales: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __call__(self, states: Position) -> IntegrandValue:
        return self.function(states)


class Estimator(abc.ABC):
    """An estimator of `E_q[f]` and its gradient; frozen configuration.

    Attributes:
        unbiased: whether the gradient is unbiased.
    """

    unbiased: ClassVar[bool] = True

    def init(self, key: Array, widths: Mapping[str, int]) -> PyTree:
        """Initial parameters of the control variates, see `ControlVariateObjective`.

        Args:
            key: randomness.
            widths: by site, number of logits of the entries that share terms (one row).
        """
        return ()

    @abc.abstractmethod
    def estimate(
        self, key: Array, families: Families, f: Integrand, context: EstimatorContext
    ) -> tuple[Array, Any]:
        """An estimate of `E_q[f]`, a scalar to be differentiated, and one `aux` of `f`.

        Args:
            key: randomness.
            families: the distribution of every site.
            f: the function.
            context: schedule and control-variate parameters.

        Raises:
            GuideError: the estimator does not support one of the families.
        """

    def init_control_params(self, key: Array, logits: Array) -> PyTree:
        """Initial parameters of the control variates for `__call__` with these logits.

        To be learned by descending `d/dparams sum(g^2)`, with `g` the gradient of one call in the
        logits.
        """
        width = logits.size if logits.ndim == 1 else logits[:, 1:].size
        return self.init(key, {"b": width})

    def __call__(
        self, key: Array, logits: Array, f: Callable[[Array], Array], control_params: PyTree = ()
    ) -> Array:
        """An estimate of `E[f(b)]`, a scalar, to be differentiated in `logits`.

        Args:
            key: randomness.
            logits: `(dim,)` of Bernoulli variables, or `(dim, n)` of categorical ones.
            f: from zeros and ones, shaped like `logits`, to a scalar; categorical variables are
                one-hot.
            control_params: from `init_control_params`, for estimators that learn.
        """
        binary = logits.ndim == 1
        family = Categorical(logits[:, None] if binary else logits[:, 1:] - logits[:, :1])

        def integrand(states: Position) -> IntegrandValue:
            one_hot = as_one_hot(states["b"], family)
            value = f(one_hot[:, 1] if binary else one_hot)
            return IntegrandValue(value, {"b": jnp.broadcast_to(value, logits.shape[:1])})

        return self.estimate(
            key,
            {"b": family},
            Integrand(integrand),
            EstimatorContext(control_params=control_params),
        )[0]


def require_finite(
    families: Families, name: str, size: int | None = None
) -> dict[str, Categorical]:
    """Checks that all families are finite, with `size` values if given, and returns them.

    Raises:
        GuideError: naming a site with another family.
    """
    found: dict[str, Categorical] = {}
    for site, family in families.items():
        if not isinstance(family, Categorical) or size not in (None, family.size):
            expected = "finitely many" if size is None else str(size)
            got = "counts" if family.size is None else f"{family.size} values"
            raise GuideError(
                f"discrete={name!r}: expected sites with {expected} values, got {site!r} with "
                f"{got}. Use 'leave_one_out', which supports all sites."
            )
        found[site] = family
    return found


def with_logit_gradient(
    value: Array, gradients: Mapping[str, Array], families: dict[str, Categorical]
) -> Array:
    """`value`, differentiable as before in all else, with these gradients in the logits."""
    logits = {name: family.logits for name, family in families.items()}
    return value + _zero_with_gradient(dict(gradients), logits).astype(value.dtype)


@jax.custom_vjp
def _zero_with_gradient(gradients: dict[str, Array], logits: dict[str, Array]) -> Array:
    """Zero, with these gradients in the logits; its gradient is differentiable in `gradients`."""
    return jnp.zeros(())


_zero_with_gradient.defvjp(
    lambda gradients, logits: (
        jnp.zeros(()),
        {n: g.astype(logits[n].dtype) for n, g in gradients.items()},
    ),
    lambda gradients, seed: (None, {n: seed.astype(g.dtype) * g for n, g in gradients.items()}),
)


def split_keys(key: Array, families: Mapping[str, Family]) -> dict[str, Array]:
    """One key per site, in alphabetical order of the sites."""
    return dict(zip(sorted(families), jax.random.split(key, len(families)), strict=True))
