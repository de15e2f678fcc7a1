"""Ctrl-C and the time limit at every stage of a fit: an answer, never trusted beyond its checks."""

import contextlib
import functools
import logging
import signal
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vijax
from tests import targets
from vijax.diagnostics.status import diagnose
from vijax.guides import Flow, FullRank
from vijax.runtime import deadline, interrupt
from vijax.runtime.deadline import current_limit, keep_answer, time_limit
from vijax.runtime.interrupt import _Interrupts, best_answer
from vijax.runtime.program import Program
from vijax.solvers.gaussians import conversion

PROBLEM = targets.problem("gamma_poisson")
FITS = {
    "auto": {},
    "direct solver": {"guide": "laplace"},
    "gradient steps": {"guide": "fullrank", "num_steps": 300},
}
STAGES = [
    *[("auto", name) for name in ("initial values", "full-rank Gaussian")],
    *[("auto", name) for name in ("importance sampling", "short HMC chains")],
    *[("direct solver", name) for name in ("Laplace approximation", "importance sampling")],
    *[("gradient steps", name) for name in ("initial values", "gradient steps")],
    *[("gradient steps", name) for name in ("importance sampling", "searching for other modes")],
]


def fit(**options):
    return vijax.fit(PROBLEM.model, *PROBLEM.args, progress_bar=False, **options)


class Press(logging.Handler):
    """Presses Ctrl-C at the start of a stage."""

    def __init__(self, stage, times=1):
        super().__init__()
        self.stage, self.times = stage, times

    def emit(self, record):
        fields = getattr(record, "vijax", {})
        if fields.get("stage") == self.stage and "seconds" not in fields:
            times, self.times = self.times, 0
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)


@pytest.fixture
def press(monkeypatch):
    """Adds a handler to the logger, which is at level INFO."""
    logger, handlers = logging.getLogger("vijax"), []
    before = logger.level
    logger.setLevel(logging.INFO)

    def add(stage, times=1):
        handlers.append(Press(stage, times))
        logger.addHandler(handlers[-1])
        return handlers[-1]

    yield add
    logger.setLevel(before)
    for handler in handlers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("grace", [0.0, 1000.0], ids=["left", "ended"])
@pytest.mark.parametrize(("kind", "stage"), STAGES)
def test_ctrl_c_gives_an_answer_that_is_not_trusted(kind, stage, grace, press, monkeypatch):
    """Whether the fit is left where it is, or its loops end."""
    monkeypatch.setattr(deadline, "_GRACE", grace)
    # left before the next program, not wherever the main thread happens to be
    monkeypatch.setattr(_Interrupts, "_remind", lambda self: None)
    handler = press(stage)
    with pytest.warns(vijax.VijaxWarning, match=r"fit: interrupted by Ctrl-C") as warned:
        posterior = fit(**FITS[kind])
    assert handler.times == 0
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert posterior.status in ("approximate", "failed")
    assert "interrupted by Ctrl-C" in posterior.stop_reason
    assert any("interrupted by Ctrl-C" in one for one in posterior._result.assessment.diagnosis[1])
    started = posterior._result.assessment.diagnostics.started
    assert started or (grace == 0 and "initial values" in posterior.report())
    draws = posterior.sample(10)
    assert all(np.isfinite(one).all() for one in draws.values())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert current_limit() is None


def test_a_second_ctrl_c_stops(press):
    press("full-rank Gaussian", times=2)
    with pytest.raises(KeyboardInterrupt):
        fit()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_does_not_look_at_the_clock_is_left(monkeypatch):
    monkeypatch.setattr(deadline, "_GRACE", 0.0)

    def model(y):
        signal.raise_signal(signal.SIGINT)
        while True:
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt) as caught:
        vijax.fit(model, np.zeros(3), progress_bar=False)
    assert caught.value.__notes__ == ["fit: interrupted before it had any result to return."]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_swallowed_interrupt_is_repeated(monkeypatch):
    monkeypatch.setattr(deadline, "_GRACE", 0.0)
    monkeypatch.setattr(interrupt, "_AGAIN", 0.001)

    def compute():
        keep_answer(lambda: "the answer so far")
        with contextlib.suppress(KeyboardInterrupt):  # as garbage collection does
            signal.raise_signal(signal.SIGINT)
            while True:
                time.sleep(0.001)
        while True:
            time.sleep(0.001)

    with pytest.warns(vijax.VijaxWarning, match="interrupted by Ctrl-C"):
        assert best_answer(compute, None, time.perf_counter(), "fit") == "the answer so far"


def test_checks_that_were_made_count():
    """Only an interrupted fit is capped: the same diagnostics are certified without."""
    diagnostics = fit()._result.assessment.diagnostics
    assert diagnose(diagnostics).status == "certified"
    cut = diagnostics._replace(cut_short=deadline.INTERRUPTED)
    assert diagnose(cut).status == "approximate"
    assert diagnose(cut._replace(started=False)).status == "failed"


def test_a_program_that_compiles_is_left_behind_and_found_later(monkeypatch):
    monkeypatch.setattr(deadline, "_GRACE", 0.0)
    release, compiled, original = threading.Event(), [], jax.stages.Lowered.compile

    def compile_slowly(self, *args, **options):
        limit.interrupt()
        release.wait()
        compiled.append(original(self, *args, **options))
        return compiled[-1]

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_slowly)
    program = Program(lambda x: x + 1)
    with time_limit(None, time.perf_counter()) as limit, pytest.raises(KeyboardInterrupt):
        program(jnp.ones(3))
    threads = [one for one in threading.enumerate() if one.name.startswith("compiling")]
    release.set()
    for one in threads:
        one.join()
    assert len(compiled) == len(threads) == 1
    np.testing.assert_array_equal(program(jnp.ones(3)), 2)
    assert program._cache_size() == 1


def test_an_error_of_the_compiler_is_raised(monkeypatch):
    def fail(self, *args, **options):
        raise ValueError("out of registers")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with time_limit(None, 0.0), pytest.raises(ValueError, match="out of registers"):
        Program(lambda x: x + 1)(jnp.ones(3))


def test_the_time_limit_waits_for_one_compilation(monkeypatch):
    monkeypatch.setattr(deadline, "_OVERTIME", 0.05)
    compiled = []

    def compile_slowly(self, *args, original=jax.stages.Lowered.compile, **options):
        time.sleep(0.1)
        compiled.append(original(self, *args, **options))

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_slowly)

    def compute():
        start = current_limit().overdue - 0.1
        while time.perf_counter() < start:  # until the first program spans the end
            time.sleep(0.001)
        for i in range(3):
            run.append(Program(lambda x, i=i: x + i)(1.0))
            keep_answer(lambda: f"the answer after {len(run)}")
        return "the last answer"

    run = []
    answer = best_answer(compute, 0.1, time.perf_counter(), "fit")
    assert answer == "the answer after 1"
    assert run == [1.0]


def test_nothing_is_interrupted_in_other_threads():
    found = []

    def work():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(best_answer(functools.partial(int, 3), None, 0.0, "fit"))
        found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [3, signal.default_int_handler]


@pytest.mark.parametrize("count", [1, 2, 3], ids=["paths", "chosen path", "steps"])
@pytest.mark.parametrize("guide", ["auto", "flow"])
def test_the_best_gaussian_so_far_is_the_answer(guide, count, monkeypatch):
    """A fit that is left inside its first solver returns what that has found."""
    offers = iter(range(1, 1000))

    def offer_and_press(result):
        deadline.offer(result)
        if next(offers) == count:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(conversion, "offer", offer_and_press)
    monkeypatch.setattr(deadline, "_GRACE", 0.0)
    monkeypatch.setattr(_Interrupts, "_remind", lambda self: None)
    with pytest.warns(vijax.VijaxWarning, match="interrupted by Ctrl-C"):
        posterior = fit(guide=guide)
    assert posterior.stop_reason == "interrupted by Ctrl-C; the best Gaussian so far"
    assert posterior.status == "approximate"
    assert posterior.guide == (Flow() if guide == "flow" else FullRank())
    draws = posterior.sample(4000)
    found = np.concatenate([draws[name].reshape(4000, -1) for name in posterior.space.names], 1)
    # Gaussian curvature at or near the mode: within half of a standard deviation
    assert (np.abs(found.mean(0) - PROBLEM.mean) < 0.5 * np.sqrt(np.diag(PROBLEM.covariance))).all()
    assert (np.abs(np.log(found.var(0) / np.diag(PROBLEM.covariance))) < 1).all()
