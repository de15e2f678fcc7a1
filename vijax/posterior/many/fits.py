"""The posteriors of one model given many data sets."""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array

from vijax.model import Call
from vijax.posterior.many import draws as fast
from vijax.posterior.many import files
from vijax.posterior.many.compact import complete, with_data
from vijax.posterior.posterior import Posterior
from vijax.posterior.result import FitResult
from vijax.runtime.blockwise import Arrays
from vijax.runtime.checks import check_count
from vijax.runtime.errors import VijaxError, mismatch
from vijax.runtime.keys import RngKey, as_key, fold_in

if TYPE_CHECKING:
    from vijax.posterior.tables import Table

STATUSES = ("certified", "corrected", "approximate", "failed", "error", "unfinished")
_SHOWN = 10  # labels that a report lists


class Fits:
    """The posteriors of one model given many data sets, returned by `vijax.fit_many`.

    `len(fits)` is their number; iteration and `fits[label]` give each as a `Posterior`, which is
    made on demand: of each only parameters, diagnostics and, where these correct its draws, up to
    1,000 states of chains are kept.
    """

    def __init__(
        self,
        results: Sequence[FitResult | None],
        calls: Sequence[Call],
        labels: Sequence[Hashable] | None,
        errors: Mapping[int, Exception],
        key: Array,
        seconds: float,
    ) -> None:
        self._results, self._calls, self._errors = list(results), list(calls), dict(errors)
        self._key, self._seconds = key, seconds
        self.labels: tuple[Hashable, ...] = (
            tuple(range(len(results))) if labels is None else tuple(labels)
        )
        self._places = {label: i for i, label in enumerate(self.labels)}

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Posterior]:
        return (self._posterior(i) for i in range(len(self)))

    def __getitem__(self, label: Hashable) -> Posterior:
        """The posterior of a data set, by its label, or its number if there are no labels.

        Raises:
            KeyError: there is no such set.
            VijaxError: it could not be fitted; the error is the cause.
        """
        if label not in self._places:
            some = ", ".join(map(repr, self.labels[:_SHOWN]))
            raise KeyError(f"{label!r}: expected a label of one of {len(self)} sets: {some}, ...")
        return self._posterior(self._places[label])

    def __repr__(self) -> str:
        return f"<Fits of {len(self)} data sets: {_counted(self.status)}>"

    def _posterior(self, i: int) -> Posterior:
        return Posterior(complete(self._result(i), self._calls[i], fold_in(self._key, i)))

    def _result(self, i: int) -> FitResult:
        found = self._results[i]
        if found is None:
            error = self._errors.get(i)
            why = "it was not fitted before the time was up" if error is None else str(error)
            raise VijaxError(
                f"data set {self.labels[i]!r}: there is no posterior: {why}"
            ) from error
        return found

    @property
    def status(self) -> np.ndarray:
        """The status of each fit, `(sets,)` strings; see `Posterior.status`.

        Also `"error"`, where a data set could not be fitted (`errors` says why), and
        `"unfinished"`, where the time was up.
        """
        return np.array(
            [
                ("error" if i in self._errors else "unfinished") if one is None else one.status
                for i, one in enumerate(self._results)
            ]
        )

    @property
    def errors(self) -> dict[Hashable, Exception]:
        """What was raised for data sets that could not be fitted, by label."""
        return {self.labels[i]: error for i, error in sorted(self._errors.items())}

    @property
    def elbo(self) -> np.ndarray:
        """The ELBO of each fit in nats, `(sets,)`; NaN where there is none."""
        return self._numbers(lambda one: one.assessment.elbo)

    @property
    def log_evidence(self) -> np.ndarray:
        """The log evidence of each data set in nats, `(sets,)`; NaN where it is not known."""
        return self._numbers(
            lambda one: (
                math.nan
                if one.assessment.importance is None
                else one.assessment.importance.log_evidence
            )
        )

    @property
    def khat(self) -> np.ndarray:
        """Pareto k-hat of each fit's importance weights, `(sets,)`."""
        return self._numbers(lambda one: one.khat)

    @property
    def seconds(self) -> float:
        """Wall-clock time of all fits."""
        return self._seconds

    def _numbers(self, of: Any) -> np.ndarray:
        return np.array([math.nan if one is None else float(of(one)) for one in self._results])

    def sample(
        self,
        num_draws: int = 1000,
        *,
        sites: str | Iterable[str] | None = None,
        rng_key: RngKey = 0,
        corrected: bool | None = None,
    ) -> Arrays:
        """Posterior draws of all data sets, by site.

        Those of latent sites and deterministics; marginalized discrete sites only of
        `fits[label].sample()`.

        Args:
            num_draws: number of draws of each.
            sites: names of the sites; all by default.
            rng_key: an int, a JAX key or a legacy key.
            corrected: see `Posterior.sample`.

        Returns:
            By site, `(sets, num_draws, *shape)`; NaN for sets without a posterior.

        Raises:
            VijaxError: sites have other shapes in some data sets, or there is no such site.
        """
        num_draws, key = check_count("num_draws", num_draws), as_key(rng_key)
        found = self._draws(num_draws, key, corrected)
        first = next((one for one in found if one is not None), None)
        if first is None:
            return {}
        common = [
            name
            for name, value in first.items()
            if all(one is None or name in one for one in found)
        ]
        wanted = [sites] if isinstance(sites, str) else list(common if sites is None else sites)
        out = {}
        for name in wanted:
            if name not in common:
                raise VijaxError(mismatch("sites", f"sites of every fit, {common}", repr(name)))
            shapes = {one[name].shape for one in found if one is not None}
            if len(shapes) > 1:
                raise VijaxError(
                    f"site {name!r}: expected one shape in all data sets, got "
                    f"{sorted(shape[1:] for shape in shapes)}. Draw from each: "
                    "[posterior.sample() for posterior in fits], or pass sites=."
                )
            (shape,) = shapes
            dtype = first[name].dtype if None not in found else float
            out[name] = np.full((len(found), *shape), 0 if None not in found else np.nan, dtype)
            for row, one in zip(out[name], found, strict=True):
                if one is not None:
                    row[...] = one[name]
        return out

    def _draws(self, num_draws: int, key: Array, corrected: bool | None) -> list[Arrays | None]:
        out: list[Arrays | None] = [None] * len(self)
        groups: dict[int, list[int]] = collections.defaultdict(list)
        for i, one in enumerate(self._results):
            if one is not None and fast.is_fast(one):
                groups[id(one.target)].append(i)
            elif one is not None:
                of_set = fold_in(key, i)
                drawn = self._posterior(i).sample(num_draws, rng_key=of_set, corrected=corrected)
                marginalized = one.target.marginalized.sizes
                out[i] = {name: x for name, x in drawn.items() if name not in marginalized}
        for rows in groups.values():
            results = [with_data(self._result(i), self._calls[i]) for i in rows]
            z = [
                fast.unconstrained(one, fold_in(key, i), num_draws, corrected)
                for one, i in zip(results, rows, strict=True)
            ]
            for i, values in zip(rows, fast.constrained(results, z), strict=True):
                out[i] = values
        return out

    def summary(
        self,
        sites: str | Iterable[str] | None = None,
        *,
        ci_prob: float = 0.89,
        num_draws: int = 1000,
        rng_key: RngKey = 0,
    ) -> Table:
        """One table of all fits: a row for every scalar of every data set.

        Args:
            sites: names of the sites; all by default.
            ci_prob: probability of the equal-tailed interval.
            num_draws: number of draws of each.
            rng_key: an int, a JAX key or a legacy key.

        Returns:
            A pandas `DataFrame` with the index `(set, scalar)` and the columns `mean`, `sd`, the
            ends of the interval and `status`.
        """
        from vijax.posterior.many.table import summary_of  # imports pandas, which is slow

        return summary_of(self, self._results, sites, ci_prob, num_draws, as_key(rng_key))

    def report(self) -> str:
        """How many fits have which status, and those that cannot be relied on, as text."""
        lines = [f"{len(self)} data sets: {_counted(self.status)}"]
        status, errors = self.status, self.errors
        for name in STATUSES[2:]:
            labels = [label for label, one in zip(self.labels, status, strict=True) if one == name]
            if labels:
                lines.append(f"{name}: {_listed(labels)}")
        for label, error in [*errors.items()][:_SHOWN]:
            lines.append(f"- {label!r}: {error}")
        if self._seconds:
            each = 1000 * self._seconds / max(len(self), 1)
            lines.append(f"{self._seconds:.1f} s, {each:.0f} ms for each")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves all fits to one file, without the model and the data; see `vijax.load`.

        Args:
            path: the file; an existing one is replaced once the new one is complete.
        """
        state = (self._results, self._calls, self.labels, self._errors, self._key, self._seconds)
        files.save(files.Contents(*state), path)


def _counted(status: np.ndarray) -> str:
    counts = collections.Counter(status.tolist())
    return ", ".join(f"{counts[name]} {name}" for name in STATUSES if counts[name]) or "none"


def _listed(labels: Sequence[Hashable]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(map(repr, labels[:_SHOWN])) + more
