"""SWAG on quadratic log densities: its moments are those of the iterates, known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from vijax.algorithms import SWAG, Optimizer

PRECISION = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, 0.3], [0.0, 0.3, 0.5]])
START = np.array([3.0, -2.0, 1.0])
RATE = 0.05


def gaussian(precision):
    numpyro.sample("z", dist.MultivariateNormal(0.0, precision_matrix=precision))


def noisy(precision, sd):
    """The same, its gradient with independent noise in every step."""
    z = numpyro.sample("z", dist.MultivariateNormal(0.0, precision_matrix=precision))
    key = numpyro.prng_key()
    e = 0.0 if key is None else jax.random.normal(key, (2,))
    numpyro.factor("noise", jnp.sum(sd * e * z))


def descent(**options):
    return SWAG(Optimizer(optax.sgd(RATE)), **options)


@pytest.mark.parametrize("num_steps", [60, 130])  # fewer deviations than columns, and more
def test_moments_are_those_of_the_collected_iterates(num_steps):
    fits = {
        guide: vijax.fit(
            gaussian,
            PRECISION.astype(np.float32),
            guide=vijax.guides.LowRank(3) if guide == "lowrank" else guide,
            algorithm=descent(start=30, every=15),
            init={"z": START.astype(np.float32)},
            num_steps=num_steps,
            progress_bar=False,
        ).params
        for guide in ("lowrank", "meanfield", "map")
    }
    once = np.eye(3) - RATE * PRECISION
    iterates = [np.linalg.matrix_power(once, t) @ START for t in range(45, num_steps + 1, 15)]
    means = np.cumsum(iterates, 0) / np.arange(1, len(iterates) + 1)[:, None]
    last = (iterates - means)[-3:]
    diagonal = np.diag(np.var(iterates, axis=0))
    covariance = 0.5 * (diagonal + last.T @ last / (len(last) - 1))
    for params in fits.values():
        loc = params.loc if hasattr(params, "factor") else params.loc["z"]
        np.testing.assert_allclose(loc, means[-1], rtol=1e-4)
    np.testing.assert_allclose(
        np.exp(2 * fits["meanfield"].log_scale["z"]), np.diag(diagonal), rtol=1e-3
    )
    scaled = np.exp(fits["lowrank"].log_scale)[:, None] * fits["lowrank"].factor
    found = np.diag(np.exp(2 * fits["lowrank"].log_scale)) + scaled @ scaled.T
    np.testing.assert_allclose(found, covariance, rtol=1e-3, atol=1e-6)


def test_a_fit_that_is_left_in_the_warm_up_has_its_last_iterate():
    def leave(run, losses, step):
        raise StopIteration

    posterior = vijax.fit(
        gaussian,
        PRECISION.astype(np.float32),
        guide="map",
        algorithm=descent(start=300, every=5),
        init={"z": START.astype(np.float32)},
        num_steps=400,
        callbacks=[leave],
        num_restarts=2,
        progress_bar=False,
    )
    steps = len(posterior.losses)
    assert 0 < steps < 300
    assert steps % 5 == 0
    last = np.linalg.matrix_power(np.eye(3) - RATE * PRECISION, steps) @ START
    first = posterior._result.run.loop.state.variables.guide.loc["z"][0]
    np.testing.assert_allclose(first, last, rtol=1e-4)
    assert not posterior.converged


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_stationary_iterates_of_noisy_steps(seed):
    """`x <- (1 - r P) x + r e` has the covariance `C = A C A + r^2 s^2`, with `A = 1 - r P`."""
    sd, steps, every = 2.0, 40_000, 10
    params = vijax.fit(
        noisy,
        np.diag([2.0, 0.5]).astype(np.float32),
        sd,
        guide="meanfield",
        algorithm=descent(start=1000, every=every),
        num_steps=steps,
        rng_key=seed,
        progress_bar=False,
    ).params
    once = 1 - RATE * np.array([2.0, 0.5])
    variance = RATE**2 * sd**2 / (1 - once**2)
    correlation = once**every
    kept = (steps - 1000) // every
    effective = kept * (1 - correlation) / (1 + correlation)
    assert np.all(np.abs(params.loc["z"]) < 4 * np.sqrt(variance / effective))
    found = np.exp(2 * params.log_scale["z"])
    squared = kept * (1 - correlation**2) / (1 + correlation**2)
    assert np.all(np.abs(found / variance - 1) < 4 * np.sqrt(2 / squared) + 1 / effective)


@pytest.mark.parametrize("guide", ["lowrank", "map"])
def test_resumed_steps_are_identical_also_from_a_file(tmp_path, guide):
    args = (gaussian, PRECISION.astype(np.float32))
    options = {"guide": guide, "algorithm": SWAG(start=20, every=3), "progress_bar": False}
    first = vijax.fit(*args, num_steps=50, **options)
    first.save(tmp_path / "fit.vijax")
    whole = vijax.fit(*args, num_steps=120, **options)
    for posterior in (first, vijax.load(tmp_path / "fit.vijax", *args)):
        on = posterior.resume(70, progress_bar=False)
        np.testing.assert_array_equal(on.losses, whole.losses)
        for one, other in zip(
            jax.tree.leaves(on.params), jax.tree.leaves(whole.params), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_an_optimizer_that_is_not_saved_is_passed_to_load(tmp_path):
    args = (gaussian, PRECISION.astype(np.float32))
    options = {"algorithm": "swag", "optimizer": optax.sgd(RATE), "progress_bar": False}
    first = vijax.fit(*args, num_steps=50, **options)
    first.save(tmp_path / "fit.vijax")
    given = vijax.load(tmp_path / "fit.vijax", *args, optimizer=optax.sgd(RATE))
    on, other = (one.resume(10, progress_bar=False) for one in (given, first))
    np.testing.assert_array_equal(on.params.factor, other.params.factor)


def test_what_swag_cannot_fit_is_named():
    args = (gaussian, PRECISION.astype(np.float32))
    with pytest.raises(vijax.GuideError, match="lowrank"):
        vijax.fit(*args, guide="fullrank", algorithm="swag", num_steps=100)
    with pytest.raises(ValueError, match="num_steps: expected a number"):
        vijax.fit(*args, algorithm="swag")
    with pytest.raises(ValueError, match="at least start"):
        vijax.fit(*args, algorithm=SWAG(start=90, every=10), num_steps=100)
    with pytest.raises(ValueError, match="log joint density"):
        vijax.fit(*args, algorithm="swag", objective=vijax.objectives.ELBO(), num_steps=10)
    with pytest.raises(ValueError, match="every"):
        SWAG(every=0)
