"""Gradients that are not those of the log density are found, and nothing else is taken for one."""

import types

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.contracts import Site, Space
from vijax.diagnostics.gradient_check import wrong_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=40).astype(np.float32)
Y = (1 + 2 * X + 0.5 * RNG.normal(size=40)).astype(np.float32)
COUNTS = RNG.poisson(3e5, 20).astype(np.float32)


class Function:
    """A kernel of float32 functions: `log_density` of `(num, dim)`, and what is its gradient."""

    eps, num_elements = float(np.finfo(np.float32).eps), 10

    def __init__(self, log_density, gradient, sizes):
        sites = tuple(Site(name, (size,), (size,)) for name, size in sizes.items())
        self.target = types.SimpleNamespace(space=Space(sites))
        self.dim = self.target.space.dim
        self.functions = log_density, gradient

    def round(self, points):
        return np.float32(points).astype(float)

    def __call__(self, points):
        assert len(points) < 1000
        log_density, gradient = (one(np.float32(points)) for one in self.functions)
        return np.float64(log_density), np.float64(gradient)


def found(log_density, gradient, sizes=None, loc=0.0, sd=1.0):
    """The sites that are named, with the keys 0 to 19."""
    kernel = Function(log_density, gradient, sizes or {"a": 2, "b": 1})
    return [
        wrong_gradient(kernel, rng.normal(loc, sd, (400, kernel.dim)), rng)
        for rng in map(np.random.default_rng, range(20))
    ]


def normal(z):
    return -0.5 * np.sum(z**2, axis=1)


def without(coordinate):
    return lambda z: -z * (np.arange(z.shape[1]) != coordinate)


WRONG = {
    "half of one coordinate": lambda z: -z * np.float32([1, 1, 0.5]),
    "twice": lambda z: -z * np.float32([1, 1, 2]),
    "none in one coordinate": without(2),
    "of a term that is not there": lambda z: -z + np.float32([0, 0, 0.3]),
}


@pytest.mark.parametrize("gradient", WRONG.values(), ids=WRONG)
def test_a_wrong_gradient_is_found_with_its_site(gradient):
    assert found(normal, gradient).count(("b",)) >= 18


def test_one_wrong_coordinate_of_hundreds_is_found():
    sizes = {"a": 300, "b": 200, "c": 1}
    assert found(normal, without(500), sizes).count(("c",)) >= 18


def test_all_sites_of_a_wrong_gradient_are_named():
    assert found(normal, lambda z: 0 * z, {"a": 2, "b": 1, "c": 3}) == [("a", "b", "c")] * 20


@pytest.mark.parametrize("steps", [1.5, 3.0, 20.0])
def test_rounding_to_integers_is_found(steps):
    def rounded(z):
        return normal(np.concatenate([z[:, :2], np.round(steps * z[:, 2:]) / steps], axis=1))

    assert found(rounded, without(2)).count(("b",)) >= 15


RIGHT = {
    "smooth": (normal, lambda z: -z),
    "kinks in every coordinate": (lambda z: -np.abs(z).sum(1), lambda z: -np.sign(z)),
    "one jump": (lambda z: normal(z) - (z[:, 2] > 0.3), lambda z: -z),
    "hard edge": (lambda z: np.where(z[:, 2] > 0.5, normal(z), -np.inf), lambda z: -z),
    "not a number beyond an edge": (
        lambda z: np.where(z[:, 2] > 0, normal(z), np.nan),
        lambda z: np.where(z[:, 2:] > 0, -z, np.nan),
    ),
    "cubic": (lambda z: normal(z) - np.exp(3 * z[:, 2]), None),
    "periodic, much too narrow for the guide": (
        lambda z: np.cos(300 * z).sum(1),
        lambda z: -300 * np.sin(300 * z),
    ),
    "rounding of large terms": (lambda z: normal(z) + np.float32(1e6) - np.float32(1e6), None),
}


def cubic_gradient(z):
    return -z - 3 * np.exp(3 * z) * np.float32([0, 0, 1])


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_not_smooth_or_rounded_is_no_wrong_gradient(case):
    log_density, gradient = RIGHT[case]
    gradient = gradient or (cubic_gradient if case == "cubic" else lambda z: -z)
    assert found(log_density, gradient) == [()] * 20


def test_rounding_of_large_counts_is_no_wrong_gradient():
    log_rate, sd = np.log(COUNTS.mean()), COUNTS.sum() ** -0.5

    def log_density(z):
        return np.sum(COUNTS * z - np.exp(z), axis=1, dtype=np.float32)

    def gradient(z):
        return np.sum(COUNTS - np.exp(z), axis=1, keepdims=True)

    assert found(log_density, gradient, {"z": 1}, log_rate, sd) == [()] * 20


def regression(stop):
    def model(x, y):
        a = numpyro.sample("a", dist.Normal(0, 5))
        b = numpyro.sample("b", dist.Normal(0, 5))
        numpyro.sample("y", dist.Normal(a + stop(b) * x, 0.5), obs=y)

    return model


def test_a_model_with_a_wrong_gradient_is_not_trusted():
    posterior = vijax.fit(regression(jax.lax.stop_gradient), X, Y, progress_bar=False)
    assert posterior.status in ("approximate", "failed")
    assert "the gradient in 'b' is not that of the log density" in posterior.report()
    assert "jax.lax.stop_gradient" in posterior.report()
