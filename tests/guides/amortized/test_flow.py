"""The `AmortizedFlow` guide: densities by brute force, and curved posteriors with known bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from scipy.optimize import minimize

import vijax
from tests.laws import perturb
from vijax import GuideError
from vijax.contracts import Batch
from vijax.guides import Amortized, AmortizedFlow
from vijax.guides.flow import Autoregressive
from vijax.model import build, split
from vijax.runtime.keys import Normals

NOISE = 0.3
Y = np.random.default_rng(0).uniform(-2.0, 0.5, (100, 1)).astype(np.float32)


def banana(y):
    """Given `z_1`, the posterior of `z_2` is normal around a parabola."""
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        mean = z[..., 1:] + z[..., :1] ** 2
        numpyro.sample("y", dist.Normal(mean, NOISE).to_event(1), obs=y)


def encoder(outputs):
    def build_it(rngs):
        hidden, out = nnx.Linear(1, 16, rngs=rngs), nnx.Linear(16, outputs, rngs=rngs)
        return nnx.Sequential(hidden, nnx.tanh, out)

    return build_it


PLAIN, FEATURED = encoder(4), encoder(12)


def best(bound, center, dim):
    """The largest bound over means and log sds of independent normals."""
    starts = [np.concatenate([center, np.full(dim, s)]) for s in (-1.0, -0.3)]
    return max(-minimize(lambda v: -bound(v[:dim], np.exp(v[dim:])), s).fun for s in starts)


def gaussian_bound(y):
    """Over independent normals of `z`: moments of normals to the fourth are closed."""

    def bound(m, s):
        square = (y - m[1] - m[0] ** 2 - s[0] ** 2) ** 2
        square += s[1] ** 2 + 2 * s[0] ** 4 + 4 * (m[0] * s[0]) ** 2
        prior = 0.5 * np.sum(1 + 2 * np.log(s) - m**2 - s**2)
        return prior - 0.5 * square / NOISE**2 - 0.5 * np.log(2 * np.pi * NOISE**2)

    return best(bound, np.array([0.1, min(y, 0.0)]), 2)


def layer_bound(y):
    """Of one autoregressive layer: `z_1` normal, `z_2` given it exact, which integrates it out."""

    def bound(m, s):
        square = ((y - m**2 - s**2) ** 2 + 2 * s**4 + 4 * (m * s) ** 2).sum()
        prior = 0.5 * np.sum(1 + 2 * np.log(s) - m**2 - s**2)
        return prior - 0.5 * square / (1 + NOISE**2) - 0.5 * np.log(2 * np.pi * (1 + NOISE**2))

    return best(bound, np.array([0.1]), 1)


def evidence(y):
    z = np.linspace(-8, 8, 2001)
    sd = np.sqrt(1 + NOISE**2)
    density = np.exp(-0.5 * z**2 - 0.5 * ((y - z**2) / sd) ** 2) / (2 * np.pi * sd)
    return np.log(np.trapezoid(density, z))


def fitted(guide, num_steps=1000):
    rate = optax.adam(optax.cosine_decay_schedule(0.02, num_steps))
    how = {"optimizer": rate, "num_steps": num_steps, "progress_bar": False}
    return vijax.fit(banana, Y, guide=guide, batch_size=50, **how)


@pytest.fixture(scope="module")
def posterior():
    return fitted(AmortizedFlow(FEATURED, "y", Autoregressive(hidden=(16,)), num_features=8))


def test_curved_posteriors_have_the_bound_of_the_family(posterior):
    expected = np.mean([layer_bound(y) for y in Y[:, 0]])
    assert np.mean([gaussian_bound(y) for y in Y[:, 0]]) < expected - 0.2
    assert abs(posterior.elbo / len(Y) - expected) < 5 * posterior.elbo_se / len(Y) + 0.01


@pytest.mark.slow
def test_the_gaussian_is_worse_by_its_gap():
    found = fitted(Amortized(PLAIN, "y"))
    expected = np.mean([gaussian_bound(y) for y in Y[:, 0]])
    assert abs(found.elbo / len(Y) - expected) < 5 * found.elbo_se / len(Y) + 0.02


def test_evidence_of_rows_and_new_rows(posterior):
    rows = posterior.log_evidence_rows(Y, num_draws=500)
    exact = np.array([evidence(y) for y in Y[:, 0]])
    assert abs(rows.mean - exact.mean()) < 5 * rows.mean_se + abs(rows.bias)
    assert np.all(np.abs(rows.values - exact) < 5 * rows.se + rows.se**2 + 1e-3)
    assert rows.ess.min() > 50
    new = np.array([[-1.0], [0.3]], np.float32)
    predicted = posterior.predict(new, rng_key=1)["y"]
    assert predicted.shape[1:] == (2, 1)
    assert np.all(np.abs(predicted.mean(axis=0) - new) < 0.3)
    with pytest.raises(GuideError, match="latents: expected latents that are independent"):
        posterior.latents()


@pytest.mark.slow
def test_resumed_is_the_same():
    guide = AmortizedFlow(FEATURED, "y", Autoregressive(hidden=(16,)), num_features=8)
    how = {"guide": guide, "batch_size": 50, "progress_bar": False}
    whole = vijax.fit(banana, Y, num_steps=6, **how)
    resumed = vijax.fit(banana, Y, num_steps=4, **how).resume(2)
    same = jax.tree.map(np.array_equal, whole.params, resumed.params)
    assert all(jax.tree.leaves(same))


def small(layers):
    """The guide on three rows at parameters without symmetries, their space and data."""
    arguments, data = split(banana, (Y[:3],), {})
    space, guide = build(banana, arguments).space, AmortizedFlow(FEATURED, "y", layers, 8)
    start = {s.name: jnp.zeros(s.z_shape) for s in space.sites}
    params = perturb(guide.init(jax.random.key(0), space, start))
    return guide, params, space, Batch(data)


@pytest.mark.parametrize(
    "layers",
    [
        Autoregressive(hidden=(8,)),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("realnvp", "iaf", "planar")),
    ],
    ids=str,
)
def test_density_is_that_of_the_change_of_variables(layers):
    guide, params, space, batch = small(layers)
    noise = jax.random.normal(jax.random.key(1), (6,))

    def values(noise):
        return guide.draw(params, space, Normals(noise), batch).z["z"].ravel()

    jacobian = np.asarray(jax.jit(jax.jacfwd(values))(noise), float).reshape(3, 2, 3, 2)
    expected = []
    for row in range(3):
        others = np.delete(jacobian[row], row, axis=1)
        np.testing.assert_array_equal(others, 0.0)  # rows are independent
        _, log_det = np.linalg.slogdet(jacobian[row, :, row])
        e = np.asarray(noise, float).reshape(3, 2)[row]
        expected.append(-0.5 * np.sum(e**2) - np.log(2 * np.pi) - log_det)
    draw = jax.jit(lambda: guide.draw(params, space, Normals(noise), batch))()
    by_row = jax.jit(lambda: guide.row_log_probs(params, space, draw.z, batch))()
    np.testing.assert_allclose(by_row, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(draw.log_q, np.sum(expected), rtol=1e-4)


@pytest.mark.slow
def test_density_of_a_row_integrates_to_one():
    guide, params, space, batch = small(Autoregressive(hidden=(8,)))
    center = guide.draw(params, space, Normals(jnp.zeros(6)), batch).z["z"]
    grid = np.linspace(-5, 5, 201)
    offsets = jnp.stack(jnp.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 1, 2)
    density = jax.jit(
        jax.vmap(lambda shift: guide.row_log_probs(params, space, {"z": center + shift}, batch))
    )(offsets.astype(jnp.float32))
    total = np.exp(np.asarray(density, float)).sum(axis=0) * (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(total, 1.0, rtol=1e-3)


@pytest.mark.slow
def test_path_gradient_is_that_of_the_density_at_fixed_parameters():
    guide, params, space, batch = small(Autoregressive(hidden=(8,)))
    key = jax.random.key(2)

    def path(params):
        return guide.path_log_q(params, space, key, guide.draw(params, space, key, batch), batch)

    def by_inverse(moving):
        z = guide.draw(moving, space, key, batch).z
        return guide.log_prob(params, space, z, batch)

    found, expected = (jax.jit(jax.value_and_grad(f))(params) for f in (path, by_inverse))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3)
    assert all(np.any(one != 0) for one in jax.tree.leaves(found[1].links))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "realvp"}, "layers: expected a Bijection"),
        ({"layers": 3}, "layers: expected a Bijection"),
        ({"num_features": 0}, "num_features: expected at least 1"),
        pytest.param(
            {"num_features": 4},
            r"encoder's outputs .* expected shape \(50, 8\)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(GuideError, match=message):
        vijax.fit(
            banana, Y, guide=AmortizedFlow(FEATURED, "y", **options), batch_size=50, num_steps=1
        )
