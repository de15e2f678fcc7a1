"""SGHMC on Gaussian densities: its stationary distribution is known, for any step size."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.algorithms import SGHMC

SD = np.array([0.1, 1.0, 5.0], np.float32)
NUM = 1600


def gaussian(mean, sd):
    numpyro.sample("z", dist.Normal(mean, sd).to_event(1))


def noisy(sd, noise):
    """A Gaussian, its gradient with independent noise in every step."""
    z = numpyro.sample("z", dist.Normal(3 * sd, sd).to_event(1))
    key = numpyro.prng_key()
    e = 0.0 if key is None else jax.random.normal(key, (3,))
    numpyro.factor("noise", jnp.sum(e * noise * z))


def rows(y):
    mean = numpyro.sample("mean", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def sample(model, *args, every, algorithm, **options):
    posterior = vijax.fit(
        model,
        *args,
        guide=vijax.guides.Particles(NUM, init_scale=0.1),
        algorithm=algorithm,
        num_steps=2000 + NUM // algorithm.num_chains * every,
        progress_bar=False,
        **options,
    )
    return posterior, np.asarray(posterior.params.points)


def lyapunov(h, m, scale, precision, noise):
    """Stationary variance of `x`, from the linear map of a step on `(x, p)` and its noise."""
    drift = np.array([[1.0, h / 2 * scale], [0.0, 1.0]])
    rest = drift @ np.diag([1.0, m]) @ drift
    once = rest @ np.array([[1.0, 0.0], [-h * scale * precision, 1.0]])
    of_gradient = rest @ np.array([0.0, h * scale]) * noise
    of_momentum = drift @ np.array([0.0, np.sqrt(1 - m**2)])
    added = np.outer(of_gradient, of_gradient) + np.outer(of_momentum, of_momentum)
    return np.linalg.solve(np.eye(4) - np.kron(once, once), added.ravel())[0]


@pytest.mark.parametrize(
    ("momentum", "noise"),
    [
        (0.6, 0.0),  # Euler's steps of this size would be wrong by a third in the variance
        (0.6, 3.0),
        pytest.param(0.0, 0.0, marks=pytest.mark.slow),
        pytest.param(0.0, 3.0, marks=pytest.mark.slow),
    ],
)
def test_stationary_distribution_of_large_steps(momentum, noise):
    algorithm = SGHMC(0.9, momentum, num_chains=40, start=2000, every=60)
    posterior, points = sample(noisy, SD, noise / SD, every=60, algorithm=algorithm)
    squares = np.asarray(posterior._result.run.loop.state.squares)[0]
    np.testing.assert_allclose(squares * SD**2, 1 + noise**2, rtol=0.3)
    expected = np.array(
        [
            lyapunov(0.9, momentum, *one)
            for one in zip(squares**-0.5, SD**-2.0, noise / SD, strict=True)
        ]
    )
    if noise:
        assert np.all(expected > 1.1 * SD**2)
    else:  # whatever the scales
        np.testing.assert_allclose(expected, SD**2, rtol=1e-6)
    z = (points - 3 * SD) / np.sqrt(expected)
    assert np.all(np.abs(z.mean(0)) < 4 / np.sqrt(NUM))
    assert np.all(np.abs(z.var(0) - 1) < 4 * np.sqrt(2 / NUM))
    chains = z.reshape(-1, 40, 3)  # draws are as independent as these errors assume
    assert np.all(np.abs((chains[1:] * chains[:-1]).mean((0, 1))) < 4 / np.sqrt(NUM))


def test_minibatches():
    y = np.random.default_rng(0).normal(1.0, 1.0, 400).astype(np.float32)
    algorithm = SGHMC(num_chains=40, start=2000, every=100)
    posterior, points = sample(rows, y, every=100, algorithm=algorithm, batch_size=20)
    precision = len(y) + 0.01
    z = (points[:, 0] - y.sum() / precision) * np.sqrt(precision)
    error = 4 / np.sqrt(NUM / 3)  # draws have some correlation, scales being smaller
    assert abs(z.mean()) < error
    assert 1 - np.sqrt(2) * error < z.var() < 1.05 + np.sqrt(2) * error
    assert posterior.converged
    assert posterior.status == "approximate"


def test_resumed_steps_are_identical_also_from_a_file(tmp_path):
    args = (gaussian, SD, SD)
    options = {
        "guide": vijax.guides.Particles(8),
        "algorithm": SGHMC(start=10, every=3),
        "progress_bar": False,
    }
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


def test_what_sghmc_cannot_sample_is_named():
    args = (gaussian, SD, SD)
    with pytest.raises(vijax.GuideError, match="particles"):
        vijax.fit(*args, guide="fullrank", algorithm="sghmc", num_steps=100)
    with pytest.raises(vijax.GuideError, match="multiple of the number of chains"):
        vijax.fit(*args, guide=vijax.guides.Particles(9), algorithm="sghmc", num_steps=100)
    with pytest.raises(ValueError, match="num_steps: expected a number"):
        vijax.fit(*args, algorithm="sghmc")
    with pytest.raises(ValueError, match="num_steps: expected at least start"):
        vijax.fit(*args, algorithm="sghmc", num_steps=40)
    with pytest.raises(ValueError, match="momentum"):
        SGHMC(momentum=1.0)
    with pytest.raises(ValueError, match="num_particles"):
        vijax.fit(*args, algorithm="sghmc", num_particles=3, num_steps=100)
