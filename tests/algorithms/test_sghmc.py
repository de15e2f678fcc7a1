"""SGHMC on Gaussian densities: its stationary distribution is known, for any step size."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.algorithms import SGHMC

SD = np.array([0.1, 1.0, 5.0], np.float32)
NUM = 4000


def gaussian(mean, sd):
    numpyro.sample("z", dist.Normal(mean, sd).to_event(1))


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


@pytest.mark.parametrize(("rate", "momentum"), [(0.9, 0.5), (1.0, 0.0)])
def test_large_steps_keep_a_gaussian(rate, momentum):
    """Euler's steps of this size would be wrong by a sixth and more in the variance."""
    algorithm = SGHMC(rate, momentum, num_chains=40, start=2000, every=30)
    _, points = sample(gaussian, SD * 3, SD, every=30, algorithm=algorithm)
    z = (points - 3 * SD) / SD
    assert np.all(np.abs(z.mean(0)) < 4 / np.sqrt(NUM))
    assert np.all(np.abs(z.var(0) - 1) < 4 * np.sqrt(2 / NUM))
    chains = z.reshape(-1, 40, 3)  # draws are as independent as the errors above assume
    assert np.all(np.abs((chains[1:] * chains[:-1]).mean((0, 1))) < 4 / np.sqrt(NUM))


def test_minibatches_heat_by_less_than_the_bound():
    y = np.random.default_rng(0).normal(1.0, 1.0, 400).astype(np.float32)
    algorithm = SGHMC(num_chains=40, start=2000, every=100)
    posterior, points = sample(rows, y, every=100, algorithm=algorithm, batch_size=20)
    precision = len(y) + 0.01
    z = (points[:, 0] - y.sum() / precision) * np.sqrt(precision)
    error = 4 / np.sqrt(NUM / 3)  # draws have some correlation, scales being smaller
    bound = 1 + algorithm.rate**2 / (1 - algorithm.momentum**2)
    assert abs(z.mean()) < error
    assert 1 - np.sqrt(2) * error < z.var() < bound + np.sqrt(2) * error
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
