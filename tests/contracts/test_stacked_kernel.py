"""Points and trajectories of many data sets, against those of one."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from vijax.contracts.stacked_kernel import StackedKernel
from vijax.diagnostics.short_chains import EXTREME, clipped_gradient
from vijax.fitting.fit import DEFAULTS, build_problem

SETS, DIM = 3, 2


def model(y):
    mean = numpyro.sample("mean", dist.Normal(0.0, 3.0))
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.StudentT(4.0, mean, scale), obs=y)


@pytest.fixture(scope="module")
def kernel():
    y = np.random.default_rng(0).normal([[0.0], [5.0], [-2.0]], 1.0, (SETS, 12))
    problem = build_problem(model, (y[0],), {}, "auto", dict(DEFAULTS))
    return StackedKernel(problem.target, {"y": y.astype(np.float32)}, {})


@pytest.mark.parametrize("num", [5, 16, 300])
def test_trajectories_are_leapfrog_steps(kernel, num):
    """The same ends as steps on the host in float64, also of chains that do not fill a row."""
    rng = np.random.default_rng(num)
    sets, steps, size = np.arange(SETS), np.array([4, 1, 7]), np.array([0.3, 0.5, 0.2])
    starts = kernel.round(rng.normal(size=(SETS, num, DIM)))
    speed = rng.normal(size=(SETS, num, DIM))
    factor = 0.3 * np.tril(rng.uniform(0.5, 1.0, (SETS, DIM, DIM)))
    before = kernel.points.copy()
    value, slope, points, ended = kernel.trajectories(
        starts, speed, factor, size, steps, EXTREME, sets
    )
    np.testing.assert_array_equal(kernel.points - before, num * steps)
    for i in range(SETS):
        at, v, one = starts[i], speed[i], kernel.of_set(i)
        for k in range(steps[i]):
            at = at + size[i] * v @ factor[i].T
            log_density, gradient = one(at)
            kick = size[i] * (1.0 if k < steps[i] - 1 else 0.5)
            v = v + kick * clipped_gradient(gradient @ factor[i])
        np.testing.assert_allclose(points[i], at, atol=1e-4)
        np.testing.assert_allclose(ended[i], v, atol=1e-3)
        np.testing.assert_allclose(value[i], log_density, atol=1e-2, rtol=1e-4)
        np.testing.assert_allclose(slope[i], gradient, atol=1e-2, rtol=1e-3)


def test_gradients_without_bounds_are_clipped(kernel):
    """Chains far outside move on with finite speeds, and have no density there."""
    starts = np.full((1, 16, DIM), 80.0)  # the scale is exp(80)
    value, _, points, speed = kernel.trajectories(
        starts,
        np.full((1, 16, DIM), 50.0),
        np.eye(DIM)[None],
        np.ones(1),
        np.ones(1, int),
        EXTREME,
        np.zeros(1, int),
    )
    assert np.isfinite(speed).all()
    assert np.abs(speed).max() <= 50 + EXTREME / 2
    np.testing.assert_allclose(points, 130.0)
    assert not (value > 0).any()
