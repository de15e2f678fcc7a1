"""Label switching: components whose order a posterior does not determine.

If the density is the same for every order of the components of a mixture, so is the posterior of
each: their means are equal, however well the data distinguish the components.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
from jax import Array

from vijax.contracts import Target
from vijax.contracts.kernel import Kernel
from vijax.diagnostics.importance import flatten, num_elements
from vijax.posterior import draws
from vijax.posterior.components import Axes, Components, Relabeling
from vijax.posterior.relabeling import assignments, features, permuted
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import unconstrained
from vijax.runtime.blockwise import Arrays
from vijax.runtime.errors import GuideError, ModelError
from vijax.runtime.keys import as_key

_MAX_CHOICES = 256  # sets of axes that are tried
_TEST_DRAWS = 8
_MAX_ELEMENTS = 2**32  # array elements that are read, some seconds
_ROUNDING = 16  # machine epsilons of the log density that two orders may differ by
_DRAWS, _ROUNDS = 1000, 20  # to find what distinguishes components
_MIN_SCALE = 1e-3  # of a value in one component, in standard deviations over all
ADVICE = (
    "Order the components in the model (dist.transforms.OrderedTransform), or give each draw the "
    "same labels: posterior.relabel()."
)

_known: weakref.WeakKeyDictionary[FitResult, tuple[Components, ...]] = weakref.WeakKeyDictionary()


def remarks(result: FitResult) -> tuple[str, ...]:
    """What the status lines of a report and a summary say of the model."""
    found = exchangeable(result)
    sites = ", ".join(name for one in found for name in one.sites)
    known = result.assessment.diagnostics.remarks
    if not found:
        return known
    if result.relabeling:
        return (*known, f"components of {sites} are relabeled")
    return (*known, f"label switching: components of {sites} are exchangeable")


def advice(result: FitResult) -> str:
    """What to try next, see `vijax.diagnostics.diagnosis.Diagnosis`."""
    of_fit = result.assessment.diagnosis.advice
    return of_fit if result.relabeling or not exchangeable(result) else f"{ADVICE} {of_fit}".strip()


def exchangeable(result: FitResult) -> tuple[Components, ...]:
    """The components of a model with a discrete or mixture distribution that are exchangeable.

    The number of components is that of the values of a marginalized discrete site, or of the
    components of a mixture distribution. Candidates are the axes of that length. What is permuted
    together is found by evaluating the log density: of the sets that leave it unchanged, those that
    contain no smaller one.
    """
    if result.relabeling:
        return tuple(one.components for one in result.relabeling)
    if result not in _known:
        _known[result] = ()
        # a transform may have no inverse, or a value in a closed support no unconstrained one
        with contextlib.suppress(NotImplementedError, ModelError):
            _known[result] = tuple(_found(result)) if _can_be_evaluated(result) else ()
    return _known[result]


def relabel(result: FitResult, key: Array) -> FitResult:
    """See `Posterior.relabel`.

    Sources: Bayesian modelling and inference on mixtures of distributions, Marin, Mengersen,
    Robert, 2005 (the draw of the largest density as the first reference); Bayesian methods for
    mixtures of normal distributions, Stephens, 1997 (labels and their normal distributions in
    turn).
    """
    found = exchangeable(result)
    if not found:
        raise GuideError(
            "relabel: expected a model with components of a discrete site or a mixture "
            "distribution that can all be exchanged, found none. The prior, an ordered constraint "
            "or a fixed initial state distinguishes some of them."
        )
    result = dataclasses.replace(result, relabeling=())
    z = unconstrained(result, key, _DRAWS)
    values = draws.constrain(result, z, result.unknown)
    pivot = int(np.argmax(_log_density(result, z)))
    return dataclasses.replace(
        result, relabeling=tuple(_distinguished(one, values, pivot) for one in found)
    )


def _distinguished(components: Components, values: Arrays, pivot: int) -> Relabeling:
    """Location and scale of each component's values, labels being those of the draw `pivot`."""
    found = features(values, components)
    overall = np.maximum(found.std(axis=(0, 1)), np.finfo(float).tiny)
    one = Relabeling(components, found[pivot], np.broadcast_to(overall, found[pivot].shape))
    order = np.zeros((0, components.num), int)
    for _ in range(_ROUNDS):
        previous, order = order, assignments(found, one.locations, one.scales)
        if np.array_equal(order, previous):
            break
        chosen = np.take_along_axis(found, order[:, :, None], axis=1)
        scales = np.maximum(chosen.std(axis=0), _MIN_SCALE * overall)
        one = one._replace(locations=chosen.mean(axis=0), scales=scales)
    return one


def _can_be_evaluated(result: FitResult) -> bool:
    """Whether there may be exchangeable components, and all data to find out."""
    target = result.target
    if not any(_axes(target, num) for num in _numbers(target)) or target.space.discrete.sites:
        return False
    return target.subsampling.whole and not (result.missing or result.batch.index)


def _numbers(target: Target) -> list[int]:
    """The possible numbers of components."""
    found = {*target.marginalized.sizes.values(), *target.structure.mixture_sizes}
    return sorted(num for num in found if num > 1)


def _axes(target: Target, num: int) -> dict[str, tuple[int, ...]]:
    """By site, the axes that have an entry for each of `num` components."""
    found = {
        site.name: tuple(axis for axis, length in enumerate(site.shape) if length == num)
        for site in target.space.continuous.sites
    }
    return {name: axes for name, axes in found.items() if axes}


def _found(result: FitResult) -> Iterator[Components]:
    z = _test_draws(result)
    if z is None:
        return
    for num in _numbers(result.target):
        sites = _axes(result.target, num)
        choices = _choices(sites)
        cost = (len(choices) + 2 * _TEST_DRAWS) * num_elements(
            result.batch, result.target.footprint
        )
        if not choices or cost > _MAX_ELEMENTS:
            continue
        every = tuple((name, axis) for name, axes in sites.items() for axis in axes)
        shift = np.roll(np.arange(num), 1)
        first = {name: value[:1] for name, value in z.items()}
        same = _same(result, first, every, choices, shift)
        unchanged = [axes for axes, equal in zip(choices, same, strict=True) if equal.all()]
        orders = (shift, np.array([1, 0, *range(2, num)]))  # generate all others
        for axes in unchanged:
            if any({*other} < {*axes} for other in unchanged):
                continue
            if all(_same(result, z, every, [axes], order).all() for order in orders):
                yield Components(num, axes)


def _choices(axes: dict[str, tuple[int, ...]]) -> list[Axes]:
    """Sets of axes that may be permuted together; fewer of them if there are too many."""
    for smallest in (1, 2):
        options = [
            [(), *_combinations([(name, axis) for axis in found], min(smallest, len(found)))]
            for name, found in axes.items()
        ]
        if np.prod([float(len(one)) for one in options]) <= _MAX_CHOICES:
            return [tuple(itertools.chain(*one)) for one in itertools.product(*options) if any(one)]
    return []


def _combinations(axes: list[tuple[str, int]], smallest: int) -> list[Axes]:
    """The sets of at least `smallest` axes."""
    sizes = range(smallest, len(axes) + 1)
    return [chosen for size in sizes for chosen in itertools.combinations(axes, size)]


def _test_draws(result: FitResult) -> Arrays | None:
    """A few draws with a finite density; `None` without any."""
    drawn = result.assessment.draws
    if not drawn.z:
        return unconstrained(result, as_key(0), _TEST_DRAWS, corrected=False)
    rows = np.flatnonzero(np.isfinite(drawn.log_p))[:_TEST_DRAWS]
    return {name: value[rows] for name, value in drawn.z.items()} if rows.size else None


def _same(
    result: FitResult, z: Arrays, every: Axes, choices: Sequence[Axes], order: np.ndarray
) -> np.ndarray:
    """Whether a permutation along some axes leaves the density at draws as it is.

    Args:
        result: of the fit.
        z: unconstrained draws.
        every: all axes.
        choices: those of each permutation.
        order: of the components.

    Returns:
        `(num_choices, num_draws)`.
    """
    num_draws = len(next(iter(z.values())))
    identity = np.arange(len(order))
    takes = [
        np.repeat([order if axis in chosen else identity for chosen in choices], num_draws, axis=0)
        for axis in every
    ]
    repeated = {name: np.concatenate([value] * len(choices)) for name, value in z.items()}
    moved, changes = permuted(result, repeated, every, takes)
    before = np.tile(_log_density(result, z), len(choices))
    after = _log_density(result, moved) - changes
    limit = _ROUNDING * np.finfo(np.float32).eps * (1 + np.abs(before))
    close = np.abs(after - before) <= limit
    return close.reshape(len(choices), num_draws)


def _log_density(result: FitResult, z: Arrays) -> np.ndarray:
    kernel = Kernel(result.target, result.batch, result.variables.model, result.mutable)
    return kernel.log_density(flatten(result.target.space, z))
