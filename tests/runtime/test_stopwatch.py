"""The parts of a fit's time add up to it, and each second counts once."""

import time

import numpy as np
import pytest

import vijax
from tests.targets import problem
from vijax.runtime.stopwatch import Timing, count_program, spent_on, timed, timing_so_far


def test_seconds_count_for_the_innermost_part():
    start = time.perf_counter()
    with timed(start, Timing(check=5.0, num_loaded=3)):
        time.sleep(0.02)
        with spent_on("check"):
            with spent_on("compile"):
                time.sleep(0.04)
                count_program(loaded=False)
            time.sleep(0.01)
        found, total = timing_so_far(), time.perf_counter() - start
    assert sum(found[:4]) == pytest.approx(5.0 + total, abs=1e-3)
    assert found.compile == pytest.approx(0.04, abs=0.01)
    assert found.solve == pytest.approx(0.02, abs=0.01)
    assert found.check == pytest.approx(5.01, abs=0.01)
    assert found[4:] == (1, 3)
    assert timing_so_far() == Timing()


def test_an_error_ends_a_part():
    with timed(time.perf_counter()):
        with pytest.raises(KeyboardInterrupt), spent_on("trace"):
            raise KeyboardInterrupt
        time.sleep(0.01)
        assert timing_so_far().solve >= 0.01


def test_a_fit_reports_its_time(tmp_path):
    model = problem("regression")
    options = {"guide": "meanfield", "num_steps": 20, "progress_bar": False}
    posterior = vijax.fit(model.model, *model.args, **options)
    timing = posterior.timing
    assert sum(timing[:4]) == pytest.approx(posterior.seconds, abs=0.01)
    assert timing.num_compiled >= 2  # steps and draws
    assert min(timing[:4]) > 0
    assert timing.compile > timing.solve
    assert f" s: tracing {timing.trace:.1f}, compiling " in posterior.report()
    posterior.save(tmp_path / "posterior.vijax")
    loaded = vijax.load(tmp_path / "posterior.vijax", model.model, *model.args)
    assert loaded.timing == timing
    resumed = loaded.resume(5, progress_bar=False)
    assert sum(resumed.timing[:4]) == pytest.approx(resumed.seconds, abs=0.01)
    assert np.all(np.subtract(resumed.timing, timing) >= 0)
