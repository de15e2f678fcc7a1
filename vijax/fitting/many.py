"""The fits of one model to many data sets: together where that is possible, else one by one."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from vijax.auto.many.member import Member
from vijax.auto.many.together import fit_together
from vijax.contracts import Batch
from vijax.contracts.kernel import Floats
from vijax.diagnostics.diagnosis import TRUSTED
from vijax.engine.problem import Problem
from vijax.fitting.fit import build_problem, is_stepwise, run_fit
from vijax.fitting.initial_values import initial_variables, model_state
from vijax.guides import FullRank
from vijax.model import Call, check_data, check_indices, model_remarks, split, unwrap
from vijax.posterior.finish import finish_candidate
from vijax.posterior.many.compact import compact, compact_assessment
from vijax.posterior.many.fits import Fits
from vijax.posterior.result import FitResult
from vijax.runtime.deadline import (
    current_limit,
    keep_answer,
    no_time_limit,
    time_is_up,
    time_limit,
)
from vijax.runtime.device_layout import available_cpus
from vijax.runtime.errors import warn
from vijax.runtime.keys import fold_in, folded_words, key_words
from vijax.runtime.progress import Stage, show_progress, stage
from vijax.runtime.stopwatch import timed
from vijax.runtime.threads import with_settings_of_caller
from vijax.solvers.gaussians.conversion import location

_MAX_DIM = 100  # largest dimension in which fits are made together
_MAX_ELEMENTS = 2**18  # largest number of data elements of a set likewise
_SETS = (8, 128)  # fits at once, at least and at most
_COORDINATES = 1024  # of all fits at once: some hundred megabytes of draws and chains
_ONLY_ALONE = ("batch_size", "mesh", "centering", "holdout")  # options of fits made one by one
_SETS_AXIS = "sets"  # of a mesh
_WORKERS = 4  # threads, at most: each holds the draws and chains of its sets


class _Set(NamedTuple):
    """A data set that is ready to be fitted."""

    number: int
    problem: Problem
    words: tuple[int, int]


class _Group(NamedTuple):
    """Data sets of equal structure.

    Attributes:
        template: the problem of the first.
        together: whether they are fitted together.
        first: the start of the first path in all, `(dim,)`.
        size: sets at once.
        waiting: sets that are ready.
    """

    template: Problem
    together: bool
    first: Floats | None
    size: int
    waiting: list[_Set]


class ManyFits:
    """The fits of one model to many data sets.

    Args:
        model: the model function.
        calls: its arguments for each set.
        labels: of the sets, `None` for none.
        options: checked options of `fit`.
        key: the root key.
        start_time: by `time.perf_counter`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        calls: list[Call],
        labels: Sequence[Hashable] | None,
        options: dict[str, Any],
        key: Array,
        start_time: float,
    ) -> None:
        self.model, self.calls, self.labels, self.options = model, calls, labels, options
        self.key, self.words, self.start_time = key, key_words(key), start_time
        self.results: list[FitResult | None] = [None] * len(calls)
        self.errors: dict[int, Exception] = {}
        self.devices = _devices_of_sets(options["mesh"])
        if self.devices:
            self.options = options | {"mesh": None}
        self.workers = max(1, min(_WORKERS, available_cpus()), len(self.devices))
        self.started = 0
        self.running: collections.deque[tuple[list[_Set], Future[list[Member]]]]
        self.running = collections.deque()
        self.groups: dict[Hashable, _Group] = {}
        self.done, self.doubtful = 0, 0
        self.warned: collections.Counter[str] = collections.Counter()

    def run(self) -> Fits:
        """Fits all sets; those finished so far are kept for Ctrl-C."""
        limit = current_limit()
        if limit is not None and np.isfinite(limit.end):  # Ctrl-C raises as long as nothing is done
            keep_answer(self._fits)
        self.pool = ThreadPoolExecutor(self.workers, "vijax.fit_many")
        try:
            with stage("sets", len(self.calls), "set") as progress:
                for number in range(len(self.calls)):
                    if time_is_up():
                        break
                    self._prepare(number, progress)
                for group in self.groups.values():
                    self._fit(group, progress)
                while self.running:
                    self._collect(progress)
        finally:
            self.pool.shutdown(wait=False, cancel_futures=True)
        return self._fits()

    def _fits(self) -> Fits:
        for text, count in self.warned.items():
            warn(f"{text} (in {count} of {len(self.calls)} data sets).")
        self.warned.clear()
        seconds = time.perf_counter() - self.start_time
        state = (self.results, self.calls, self.labels, self.errors, self.key, seconds)
        return Fits(*state)

    def _prepare(self, number: int, progress: Stage) -> None:
        """Checks a data set; fits its group once that is complete."""
        try:
            model, args, kwargs = unwrap(self.model, *self.calls[number])
            arguments, data = split(model, args, kwargs, on_device=False)
            group = self.groups.get(arguments.lookup)
            if group is None:
                group = self.groups[arguments.lookup] = self._group(number)
            problem = self._problem(group.template, number, arguments, data)
        except Exception as error:  # of one set: others are fitted
            self._failed(number, error, progress)
            return
        words = folded_words(self.words, number)
        group.waiting.append(_Set(number, problem, words))
        if len(group.waiting) == group.size:
            self._fit(group, progress)

    def _failed(self, number: int, error: Exception, progress: Stage) -> None:
        self.errors[number] = error
        self._finished(number, None, progress)

    def _group(self, number: int) -> _Group:
        args, kwargs = self.calls[number]
        options = self.options | {"rng_key": fold_in(self.key, number)}
        with time_limit(None, self.start_time):
            problem = build_problem(self.model, args, kwargs, options["algorithm"], options)
            state = model_state(problem, options["init"])
        together = not any(state) and self._is_together(problem)
        size = max(_SETS[0], min(_SETS[1], _COORDINATES // max(problem.target.space.dim, 1)))
        first = None
        if together and options["init"] is not None:
            (start,) = initial_variables(options["init"], problem, {}, {}, 1)
            first = location(start.guide, problem.target.space)
        rounds = -(-len(self.calls) // (size * self.workers))  # in which all threads are at work
        share = -(-len(self.calls) // (rounds * self.workers))
        size = min(size, max(share, _SETS[0])) if together else 1
        return _Group(problem, together, first, size, [])

    def _is_together(self, problem: Problem) -> bool:
        """Whether sets like this one are fitted together."""
        options, target = self.options, problem.target
        if options["guide"] != "auto" or options["algorithm"] != "auto" or is_stepwise(options):
            return False
        if any(options[name] is not None for name in _ONLY_ALONE):
            return False
        if problem.guide != FullRank() or problem.final is not None or target.subsampled:
            return False
        structure, space = target.structure, target.space
        plain = target.differentiable and not (structure.bounds or structure.improper)
        elements = sum(np.size(value) for value in problem.batch.data.values())
        elements += space.dim + target.marginalized.entries
        small = space.dim <= _MAX_DIM and elements <= _MAX_ELEMENTS
        return plain and small and not space.networks.sites

    def _problem(self, template: Problem, number: int, arguments: Any, data: Any) -> Problem:
        """The problem of a data set, checked as `fit` does."""
        arguments = dataclasses.replace(
            arguments, coords=template.arguments.coords, bound=template.arguments.bound
        )
        batch = Batch(data, centering=template.batch.centering)
        problem = dataclasses.replace(
            template, arguments=arguments, batch=batch, key=self.key
        )  # keys of sets are not arrays, each of which would take a millisecond
        check_data(problem.target, arguments, batch)
        check_indices(problem.target, arguments, batch)
        model, args, kwargs = unwrap(self.model, *self.calls[number])
        remarks = model_remarks(model, args, kwargs, problem.target, batch)
        self.warned.update((*arguments.data_warnings, *remarks.warnings))
        return dataclasses.replace(problem, remarks=remarks)

    def _fit(self, group: _Group, progress: Stage) -> None:
        """Fits the sets of a group that are ready."""
        waiting = group.waiting.copy()
        group.waiting.clear()
        if not waiting or time_is_up():
            return
        if not group.together:
            for one in waiting:
                self._alone(one.number, progress)
            return
        problems, words = [one.problem for one in waiting], [one.words for one in waiting]
        with self._next_device():
            work = with_settings_of_caller(_quietly)
        task = self.pool.submit(work, problems, words, group.size, group.first)
        self.running.append((waiting, task))
        if len(self.running) > self.workers:  # as many are at work, and one is ready
            self._collect(progress)

    def _next_device(self) -> contextlib.AbstractContextManager[Any]:
        """The devices of a mesh in turn, each for the sets that are fitted together there."""
        if not self.devices:
            return contextlib.nullcontext()
        self.started += 1
        return jax.default_device(self.devices[(self.started - 1) % len(self.devices)])

    def _collect(self, progress: Stage) -> None:
        """The results of the sets that were the first to be started."""
        waiting, task = self.running.popleft()
        try:
            members = task.result()
        except Exception as error:  # of a group: its sets are fitted one by one
            warn(f"fit_many: {len(waiting)} data sets could not be fitted together: {error!r}.")
            for one in waiting:
                if not time_is_up():
                    self._alone(one.number, progress)
            return
        for one, member in zip(waiting, members, strict=True):
            if not member.alone:
                self._finished(one.number, self._result(member), progress, member.status)
        for one, member in zip(waiting, members, strict=True):
            if member.alone and not time_is_up():
                self._alone(one.number, progress)

    def _result(self, member: Member) -> FitResult:
        candidate = member.fit._replace(
            assessment=compact_assessment(member.fit.assessment, member.status)
        )
        with no_time_limit():  # all was checked in time
            found = finish_candidate(candidate, {}, member.history, time.perf_counter())
        seconds = sum(attempt.seconds for attempt in member.history)
        batch = found.batch._replace(data={})
        found = dataclasses.replace(found, seconds=seconds, batch=batch, solver_losses=())
        return dataclasses.replace(found, timing=None)  # the time was spent on many at once

    def _alone(self, number: int, progress: Stage) -> None:
        """An ordinary fit of one data set."""
        options = self.options | {"rng_key": fold_in(self.key, number)}
        try:
            start = time.perf_counter()
            with time_limit(None, self.start_time), timed(start):
                found = run_fit(self.model, self.calls[number], options, start)
        except Exception as error:  # of one set: others are fitted
            self._failed(number, error, progress)
            return
        self._finished(number, compact(found), progress)

    def _finished(
        self, number: int, found: FitResult | None, progress: Stage, status: str = ""
    ) -> None:
        self.results[number] = found
        self.done += 1
        self.doubtful += found is None or (status or found.status) not in TRUSTED
        progress.detail = f"{self.doubtful} not certified" if self.doubtful else ""
        progress.update(self.done)
        keep_answer(self._fits)


def _devices_of_sets(mesh: Mesh | None) -> list[jax.Device]:
    """The devices along the axis `"sets"` of a mesh; none if it has no such axis."""
    if mesh is None or _SETS_AXIS not in mesh.axis_names:
        return []
    if len(mesh.axis_names) > 1:
        others = ", ".join(repr(name) for name in mesh.axis_names if name != _SETS_AXIS)
        raise ValueError(
            f"mesh: expected the axis {_SETS_AXIS!r} alone, got also {others}. "
            f'Pass jax.make_mesh((count,), ("{_SETS_AXIS}",)).'
        )
    if jax.process_count() > 1:
        raise ValueError(
            f"mesh: expected one process for its axis {_SETS_AXIS!r}, got {jax.process_count()}. "
            "Fit a part of the data sets in each, without a mesh."
        )
    return [*mesh.devices.flat]


def _quietly(*args: Any) -> list[Member]:
    """`fit_together` in a thread of its own, which leaves progress to that of the caller."""
    with show_progress(False):
        return fit_together(*args)
