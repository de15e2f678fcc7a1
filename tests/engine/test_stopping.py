"""The stopping rule on series with known properties."""

import numpy as np

from vijax.engine.stopping import (
    Phase,
    StopRule,
    Window,
    add_window,
    average,
    is_flat,
    recent,
    split_rhat,
)


def windows_of(series, losses=None, steps=100):
    """Windows over a series `(n, probes)` of iterates."""
    losses = np.zeros(len(series)) if losses is None else losses
    for i in range(0, len(series), steps):
        part = series[i : i + steps]
        yield Window(
            float(len(part)),
            float(losses[i : i + steps].mean()),
            {"x": part.mean(0).astype(np.float64)},
            part.mean(0),
            part.var(0),
        )


def phase_of(series, **options):
    phase = Phase()
    for window in windows_of(series, **options):
        phase = add_window(phase, window)
    return phase


def ar1(n, probes, rho, rng):
    noise = rng.normal(size=(n, probes)) * np.sqrt(1 - rho**2)
    out = np.zeros((n, probes))
    for t in range(1, n):
        out[t] = rho * out[t - 1] + noise[t]
    return out


def test_a_stationary_series_is_distinguished_from_a_drifting_one():
    rng = np.random.default_rng(0)
    stationary = ar1(4000, 20, 0.9, rng)
    drift = stationary + np.linspace(0, 40, 4000)[:, None]
    rule = StopRule(flat_steps=10**9)
    assert rule.stationary(phase_of(stationary))
    assert not rule.stationary(phase_of(drift))


def test_too_few_windows_are_never_stationary():
    rng = np.random.default_rng(0)
    assert not StopRule().stationary(phase_of(ar1(300, 5, 0.0, rng)))


def test_split_rhat_matches_its_formula():
    rng = np.random.default_rng(1)
    series = rng.normal(size=(800, 6)) + np.where(np.arange(800) < 400, 0.0, 1.0)[:, None]
    first, second = series[:400], series[400:]
    between = 0.5 * (first.mean(0) - second.mean(0)) ** 2
    within = 0.5 * (first.var(0) + second.var(0))
    expected = np.sqrt(1 + np.mean(between / within))
    assert np.isclose(split_rhat(tuple(windows_of(series))), expected, rtol=1e-10)


def test_drift_with_flat_losses_is_stationary():
    rng = np.random.default_rng(2)
    drift = np.linspace(0, 40, 20_000)[:, None] + rng.normal(size=(20_000, 4))
    level, falling = rng.normal(size=20_000), rng.normal(size=20_000) - np.linspace(0, 5, 20_000)
    rule = StopRule()
    assert rule.stationary(phase_of(drift, losses=level))
    assert not rule.stationary(phase_of(drift, losses=falling))


def test_losses_are_flat_within_two_standard_errors():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=4000)
    assert is_flat(tuple(windows_of(np.zeros((4000, 1)), noise)))
    falling = noise - np.where(np.arange(4000) < 2000, 0.0, 0.5)
    assert not is_flat(tuple(windows_of(np.zeros((4000, 1)), falling)))


def test_merging_keeps_the_moments_and_bounds_the_memory():
    rng = np.random.default_rng(4)
    series = rng.normal(size=(5000, 3)) * [1, 10, 0.1] + [0, 5, -2]
    phase = phase_of(series)
    assert len(phase.windows) <= 16
    assert sum(window.steps for window in phase.windows) == 5000
    np.testing.assert_allclose(average(phase.windows)["x"], series.mean(0), rtol=1e-10)
    steps = np.array([window.steps for window in phase.windows])[:, None] / 5000
    within = sum(s * w.probe_var for s, w in zip(steps, phase.windows, strict=True))
    between = sum(
        s * (w.probe_mean - series.mean(0)) ** 2 for s, w in zip(steps, phase.windows, strict=True)
    )
    np.testing.assert_allclose(within + between, series.var(0), rtol=1e-10)


def test_recent_windows_exclude_the_initial_transient():
    phase = phase_of(np.arange(1000.0)[:, None])
    assert [w.probe_mean[0] for w in recent(phase)] == [549.5, 649.5, 749.5, 849.5, 949.5]
