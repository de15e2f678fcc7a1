"""Amortised guides: exact where the encoder can be, at any rows, at the cost of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from numpyro.contrib.module import nnx_module

import vijax
from tests.groups import PRECISION, Encoder, data, groups, hierarchy
from vijax import GuideError, ModelError
from vijax._contracts import Batch, Setting, Variables
from vijax.guides import Amortised
from vijax.guides.amortised import AmortisedParams
from vijax.model import build, request, split
from vijax.objectives import ELBO

ROWS = 400
Y = data(ROWS)


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


@pytest.fixture(scope="module")
def fitted():
    return fit(groups, Y, guide=Amortised(Encoder, "y"), batch_size={"rows": 50})


def test_the_encoder_learns_the_exact_posterior(fitted):
    assert fitted.converged
    layer, gate = fitted.params.encoder["layer"], float(fitted.params.gate[0])
    slope, width = np.asarray(layer["kernel"]).T * np.array([[1], [gate]])
    np.testing.assert_allclose(slope, 1 / PRECISION, atol=0.02)
    np.testing.assert_allclose(width, 0, atol=0.03)
    # relative to `init_scale`
    np.testing.assert_allclose(layer["bias"][0], 0, atol=0.03)
    np.testing.assert_allclose(
        gate * layer["bias"][1] + np.log(0.3), -0.5 * np.log(PRECISION), atol=0.05
    )


def test_new_rows_are_inferred_from_their_data(fitted):
    new = np.array([[3.0, 4.0, 5.0], [-1.0, 0.0, 1.0]], np.float32)
    there = fitted.at(new)
    draws = there.sample(1, 4000)["theta"][:, :, 0]
    np.testing.assert_allclose(draws.mean(0), new.sum(1) / PRECISION, atol=0.1)
    np.testing.assert_allclose(draws.std(0), PRECISION**-0.5, rtol=0.1)
    predicted = fitted.predict(2, new, num_draws=4000)["y"]
    assert predicted.shape == (4000, 2, 3)
    np.testing.assert_allclose(predicted.mean((0, 2)), new.sum(1) / PRECISION, atol=0.1)
    np.testing.assert_allclose(predicted.var((0, 2)), 1 + 1 / PRECISION, rtol=0.1)


def test_density_and_draw_agree_and_count_rows_as_the_model_does():
    arguments, data = split(groups, (Y,), {})
    target = build(groups, arguments, request({"rows": 50}, None))
    guide = Amortised(Encoder, ("y",))
    start = {s.name: jnp.zeros(s.z_shape) for s in target.space.sites}
    params = guide.init(jax.random.key(0), target.space, start)
    params = params._replace(gate=jnp.array([0.5]))
    whole, batch = target.space, Batch(data)
    draw = guide.draw(params, whole, jax.random.key(1), batch)
    log_q = guide.log_prob(params, whole, draw.z, batch)
    np.testing.assert_allclose(draw.log_q, log_q, rtol=1e-5)
    parts = []
    for rows in np.arange(ROWS).reshape(-1, 50):
        z = {"theta": draw.z["theta"][rows]}
        part = batch._replace(index={"rows": rows})
        parts.append(guide.log_prob(params, target.on_batch.space, z, part))
    np.testing.assert_allclose(np.mean(parts), log_q, rtol=1e-5)
    loc, raw = (Y @ params.encoder["layer"]["kernel"]).T
    scale = 0.3 * np.exp(0.5 * raw)
    expected = dist.Normal(loc, scale).log_prob(draw.z["theta"][:, 0]).sum()
    np.testing.assert_allclose(log_q, expected, rtol=1e-4)


@pytest.mark.slow
def test_shared_latents_have_a_guide_of_their_own():
    guide = {"theta": Amortised(Encoder, "y"), ...: "fullrank"}
    posterior = fit(hierarchy, Y, guide=guide, batch_size={"rows": 50})
    mu = posterior.sample(0, 4000)["mu"]
    variance = 1 / (1 / 25 + ROWS / (4 + 1 / 3))
    assert abs(mu.mean() - variance * Y.mean() * ROWS / (4 + 1 / 3)) < 0.3 * variance**0.5
    axes = posterior.guide.row_axes(posterior.params, posterior.target.space, ["rows"])
    assert all(not one.pairs for one in jax.tree.leaves(axes))


def test_gradients_vanish_at_the_exact_posterior():
    """`ELBO()` sticks the landing from the first step on."""
    arguments, data = split(groups, (Y,), {})
    target, guide = build(groups, arguments), Amortised(Encoder, "y")
    kernel = jnp.zeros((3, 2)).at[:, 0].set(1 / PRECISION)
    bias = jnp.array([0.0, -0.5 * np.log(PRECISION) - np.log(0.3)])
    params = AmortisedParams({"layer": {"kernel": kernel, "bias": bias}}, jnp.ones(1))

    def slopes(objective):
        def loss(params):
            setting = Setting({}, jax.random.key(0), target, guide, Batch(data), jnp.zeros(()))
            return objective(Variables(params), setting)[0]

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    assert max(jnp.abs(leaf).max() for leaf in slopes(ELBO())) < 0.02
    assert max(jnp.abs(leaf).max() for leaf in slopes(ELBO(1, "plain"))) > 1


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(1, 3, rngs=rngs)

    def __call__(self, z):
        return self.layer(z)


def factor_model(y):
    """Probabilistic PCA with one factor, as a variational autoencoder."""
    decoder = nnx_module("decoder", Decoder(nnx.Rngs(0)))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        numpyro.sample("y", dist.Normal(decoder(z), 1.0).to_event(1), obs=y)


def test_an_autoencoder_with_linear_maps_is_probabilistic_pca():
    options = {"optimizer": optax.adam(0.01), "num_steps": 4000}
    posterior = fit(factor_model, Y, guide=Amortised(Encoder, "y"), batch_size=100, **options)
    centred = Y - Y.mean(0)
    covariance = centred.T @ centred / ROWS
    value, vector = (part[..., -1] for part in np.linalg.eigh(covariance))
    exact = np.abs(vector) * np.sqrt(value - 1)  # the maximum likelihood loading at noise 1
    kernel = posterior.model_params["decoder$params"]["layer"]["kernel"]
    np.testing.assert_allclose(np.abs(np.asarray(kernel)[0]), exact, rtol=0.06)
    marginal = np.outer(exact, exact) + np.eye(3)
    _, log_det = np.linalg.slogdet(2 * np.pi * marginal)
    evidence = -0.5 * ROWS * (log_det + np.trace(np.linalg.solve(marginal, covariance)))
    assert abs(posterior.elbo - evidence) < 5 * posterior.elbo_se + 2


class Wide(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, y):
        return self.layer(y)


class WithDropout(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, y):
        return self.dropout(self.layer(y))


@pytest.mark.parametrize(
    ("guide", "model", "message"),
    [
        (Amortised(Wide, "y"), groups, r"shape \(400, 2\), got \(400, 3\)"),
        (Amortised(Encoder, "x"), groups, r"array arguments among \['y'\], got 'x'"),
        (Amortised(WithDropout, "y"), groups, "no state but nnx.Param"),
        (Amortised(Encoder, "y"), hierarchy, "sites inside one plate, got 'mu'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(guide, model, message):
    with pytest.raises(GuideError, match=message):
        fit(model, Y, guide=guide, num_steps=2)


def test_a_module_instead_of_what_makes_one_is_refused():
    with pytest.raises(GuideError, match=r"encoder: expected a function of nnx.Rngs"):
        Amortised(3, "y")


def test_other_rows_need_an_amortised_guide_and_observations(fitted):
    other = fit(groups, Y[:3], guide="map")
    with pytest.raises(GuideError, match=r"at: .*Amortised"):
        other.at(Y[:2])
    with pytest.raises((ModelError, TypeError)):
        fitted.at(None)


def test_new_rows_keep_the_coordinates_of_the_fitted_ones():
    def scaled(y):
        tau = numpyro.sample("tau", dist.HalfNormal(2.0))
        with numpyro.plate("rows", y.shape[0], dim=-2):
            theta = numpyro.sample("theta", dist.Normal(0.0, tau))
            with numpyro.plate("repeats", y.shape[1], dim=-1):
                numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    guide = {"theta": Amortised(Encoder, "y"), ...: "meanfield"}
    fitted = fit(scaled, Y[:5], guide=guide, centring={"theta": 0.25}, num_steps=1)
    there = fitted.at(Y[:7])
    np.testing.assert_array_equal(there.batch.centring["theta"], np.full((7, 1), 0.25))
    each = {"theta": np.linspace(0, 1, 5)[:, None]}
    apart = fit(scaled, Y[:5], guide=guide, centring=each, num_steps=1)
    with pytest.raises(ModelError, match=r"centring\['theta'\]: expected one weight for all rows"):
        apart.at(Y[:7])
