"""A limit of time ends the loops of solvers and diagnostics, and changes nothing without one."""

import functools
import time

import numpy as np
import pytest

import vijax
from tests import targets
from vijax.diagnostics import assessment
from vijax.runtime import deadline
from vijax.runtime.deadline import time_is_up, time_limit


def test_the_limit_holds_inside_the_block_only():
    now = time.perf_counter()
    assert not time_is_up()
    with time_limit(None, now):
        assert not time_is_up()
    with time_limit(1.0, now - 2.0):
        assert time_is_up()
        with time_limit(100.0, now):  # the earlier one remains
            assert time_is_up()
    assert not time_is_up()


OPTIONS = {
    "auto": {},
    "laplace": {"guide": "laplace"},
    "pathfinder": {"algorithm": "pathfinder"},
    "batch and match": {"algorithm": "batch_and_match"},
    "Newton": {"algorithm": "variational_newton"},
    "fixed draws": {"guide": "meanfield"},
    "steps": {"guide": "meanfield", "algorithm": "gradient"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_method_returns_a_result_however_little_time_it_has(name):
    problem = targets.problem("gamma_poisson")
    posterior = vijax.fit(
        problem.model, *problem.args, max_seconds=1e-6, progress_bar=False, **OPTIONS[name]
    )
    assert posterior._result.assessment.diagnostics.check is None  # chains take more time
    if not posterior.converged:
        assert "max_seconds" in posterior.stop_reason


def test_a_limit_that_is_not_reached_changes_nothing():
    problem = targets.problem("gamma_poisson")
    fit = functools.partial(vijax.fit, problem.model, *problem.args, progress_bar=False)
    one, other = fit(guide="meanfield"), fit(guide="meanfield", max_seconds=1000.0)
    for name, draws in one.sample(20).items():
        np.testing.assert_array_equal(draws, other.sample(20)[name])
    assert one.stop_reason == other.stop_reason


def test_what_was_not_checked_for_lack_of_time_is_not_certified(monkeypatch):
    problem = targets.problem("gamma_poisson")
    posterior = vijax.fit(problem.model, *problem.args, guide="meanfield", progress_bar=False)
    found = posterior._result.assessment
    unchecked = found.diagnostics._replace(check=None, use_chains=False)
    weak = unchecked.importance._replace(ess=0.8 * unchecked.num_draws, khat=0.1)
    for importance, out_of_time, status in (
        (weak, False, "certified"),
        (weak, True, "approximate"),
        (weak._replace(ess=0.99 * unchecked.num_draws), True, "certified"),
    ):
        diagnostics = unchecked._replace(importance=importance, out_of_time=out_of_time)
        diagnosis = assessment.diagnose(diagnostics)
        assert diagnosis.status == status
        assert any("not checked" in one for one in diagnosis.reasons) == (status == "approximate")
    assert deadline.current_limit() is None
