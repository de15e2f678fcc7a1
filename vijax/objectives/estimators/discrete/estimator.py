"""What an estimator of an expectation over discrete variables is."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Family, Position, PyTree
from vijax.families.discrete import Counts, Finite, weights
from vijax.runtime.errors import GuideError

Families = dict[str, Family]


class EstimatorContext(NamedTuple):
    """How far a fit is.

    Attributes:
        phase: as in `LossContext`, for what changes in the course of a fit.
        controls: what `Estimator.init` made, later learned; the gradient has a gradient in them.
    """

    phase: Array | float = 0.0
    controls: PyTree = ()


class IntegrandValue(NamedTuple):
    """A function of discrete variables at one place.

    Attributes:
        value: of the function, a scalar.
        signals: by site, of its shape, what of the value each entry can have a part in.
        aux: anything else.
    """

    value: Array
    signals: dict[str, Array]
    aux: Any = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Integrand:
    """A function of discrete variables whose value is a sum, some of it by row.

    Called with numbers of values by site, or with weights where it is relaxed.

    Attributes:
        function: what it does.
        parallel: by site, axes along which entries have no part in one another's signals, so that
            all of them can be changed at once.
        scales: by site, what the value counts each of them for; 1 where nothing is said.
    """

    function: Callable[[Position], IntegrandValue]
    parallel: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    scales: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __call__(self, states: Position) -> IntegrandValue:
        return self.function(states)


class Estimator(abc.ABC):
    """Estimates `E[f]` and its gradient; frozen configuration.

    Attributes:
        unbiased: whether the gradient is.
    """

    unbiased: ClassVar[bool] = True

    def init(self, key: Array, widths: Mapping[str, int]) -> PyTree:
        """Start values of the control variates' parameters, see `vijax.contracts.ControlVariateObjective`.

        Args:
            key: randomness.
            widths: by site, logits of a row, of the entries that share terms with one another.
        """
        return ()

    @abc.abstractmethod
    def estimate(
        self, key: Array, families: Families, f: Integrand, stage: EstimatorContext
    ) -> tuple[Array, Any]:
        """An estimate of `E[f]`, a scalar to be differentiated, and one `aux` of `f`.

        Args:
            key: randomness.
            families: the distribution of every site.
            f: the function.
            stage: how far the fit is.

        Raises:
            GuideError: the families are of a kind that this estimator is not for.
        """

    def controls(self, key: Array, logits: Array) -> PyTree:
        """Start values of the control variates' parameters for calls with these logits.

        They are to follow `d/dcontrols sum(g^2)`, with `g` the gradient of one call in the logits.
        """
        width = logits.size if logits.ndim == 1 else logits[:, 1:].size
        return self.init(key, {"b": width})

    def __call__(
        self, key: Array, logits: Array, f: Callable[[Array], Array], controls: PyTree = ()
    ) -> Array:
        """An estimate of `E[f(b)]`, a scalar, to be differentiated in `logits`.

        Args:
            key: randomness.
            logits: `(dim,)` of Bernoulli variables, or `(dim, n)` of categorical ones.
            f: from zeros and ones, shaped like `logits`, to a scalar; the ones of categorical
                variables say which value it is.
            controls: what `controls` makes, for estimators that learn.
        """
        binary = logits.ndim == 1
        family = Finite(logits[:, None] if binary else logits[:, 1:] - logits[:, :1])

        def seen(states: Position) -> IntegrandValue:
            hot = weights(states["b"], family)
            value = f(hot[:, 1] if binary else hot)
            return IntegrandValue(value, {"b": jnp.broadcast_to(value, logits.shape[:1])})

        return self.estimate(key, {"b": family}, Integrand(seen), EstimatorContext(control_params=controls))[0]


def finite(families: Families, name: str, size: int | None = None) -> dict[str, Finite]:
    """The families, all of them with finitely many values, or with `size` of them.

    Raises:
        GuideError: naming a site with others.
    """
    found: dict[str, Finite] = {}
    for site, family in families.items():
        if isinstance(family, Counts) or size not in (None, family.size):
            expected = "finitely many" if size is None else str(size)
            got = "a count" if isinstance(family, Counts) else f"{family.size} values"
            raise GuideError(
                f"discrete={name!r}: expected sites with {expected} values, got {site!r} with "
                f"{got}. Use 'leave_one_out', which is for all of them."
            )
        found[site] = family
    return found


def with_logit_gradient(value: Array, slopes: Mapping[str, Array], families: dict[str, Finite]) -> Array:
    """`value`, which goes on to depend on all else as it does, with slopes in the logits."""
    logits = {name: family.logits for name, family in families.items()}
    return value + _sloping(dict(slopes), logits).astype(value.dtype)


@jax.custom_vjp
def _sloping(slopes: dict[str, Array], logits: dict[str, Array]) -> Array:
    """Zero, with these slopes in the logits. It has none in the slopes, but its gradient has."""
    return jnp.zeros(())


_sloping.defvjp(
    lambda slopes, logits: (
        jnp.zeros(()),
        {n: s.astype(logits[n].dtype) for n, s in slopes.items()},
    ),
    lambda slopes, seed: (None, {n: seed.astype(s.dtype) * s for n, s in slopes.items()}),
)


def split_keys(key: Array, families: Mapping[str, Family]) -> dict[str, Array]:
    """A key for every site."""
    return dict(zip(sorted(families), jax.random.split(key, len(families)), strict=True))
