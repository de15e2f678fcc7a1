"""The `Amortized` guide: exact if the encoder can be, also for new rows."""

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
from vijax.contracts import Batch, LossContext, Variables
from vijax.fitting import warm_start
from vijax.guides import Amortized
from vijax.guides.amortized.continuous import AmortizedParams
from vijax.model import batch_request, build, split
from vijax.objectives import ELBO
from vijax.posterior.result import FitResult

ROWS = 400
Y = data(ROWS)


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


@pytest.fixture(scope="module")
def fitted():
    return fit(groups, Y, guide=Amortized(Encoder, "y"), batch_size={"rows": 50})


def test_the_encoder_learns_the_exact_posterior(fitted):
    assert fitted.converged
    layer, gate = fitted.params.encoder["layer"], float(fitted.params.gate[0])
    slope, width = np.asarray(layer["kernel"]).T * np.array([[1], [gate]])
    np.testing.assert_allclose(slope, 1 / PRECISION, atol=0.02)
    np.testing.assert_allclose(width, 0, atol=0.03)
    # log scales are relative to `init_scale`
    np.testing.assert_allclose(layer["bias"][0], 0, atol=0.03)
    np.testing.assert_allclose(
        gate * layer["bias"][1] + np.log(0.3), -0.5 * np.log(PRECISION), atol=0.05
    )


def test_new_rows_are_inferred_from_their_data(fitted):
    new = np.array([[3.0, 4.0, 5.0], [-1.0, 0.0, 1.0]], np.float32)
    posterior = fitted.at(new)
    draws = posterior.sample(4000, rng_key=1)["theta"][:, :, 0]
    np.testing.assert_allclose(draws.mean(0), new.sum(1) / PRECISION, atol=0.1)
    np.testing.assert_allclose(draws.std(0), PRECISION**-0.5, rtol=0.1)
    predicted = fitted.predict(new, rng_key=2, num_draws=4000)["y"]
    assert predicted.shape == (4000, 2, 3)
    np.testing.assert_allclose(predicted.mean((0, 2)), new.sum(1) / PRECISION, atol=0.1)
    np.testing.assert_allclose(predicted.var((0, 2)), 1 + 1 / PRECISION, rtol=0.1)


def test_density_and_draw_agree_and_rows_have_the_weight_of_the_model():
    arguments, data = split(groups, (Y,), {})
    target = build(groups, arguments, batch_request({"rows": 50}, None))
    guide = Amortized(Encoder, ("y",))
    start = {s.name: jnp.zeros(s.z_shape) for s in target.space.sites}
    params = guide.init(jax.random.key(0), target.space, start)
    params = params._replace(gate=jnp.array([0.5]))
    space, batch = target.space, Batch(data)
    draw = guide.draw(params, space, jax.random.key(1), batch)
    log_q = guide.log_prob(params, space, draw.z, batch)
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
def test_global_latents_have_another_guide():
    guide = {"theta": Amortized(Encoder, "y"), ...: "fullrank"}
    posterior = fit(hierarchy, Y, guide=guide, batch_size={"rows": 50})
    mu = posterior.sample(4000)["mu"]
    variance = 1 / (1 / 25 + ROWS / (4 + 1 / 3))
    assert abs(mu.mean() - variance * Y.mean() * ROWS / (4 + 1 / 3)) < 0.3 * variance**0.5
    axes = posterior.guide.row_axes(posterior.params, posterior.space, ["rows"])
    assert all(not axes.pairs for axes in jax.tree.leaves(axes))


def test_gradients_vanish_at_the_exact_posterior():
    """`ELBO()` uses sticking the landing from the first step on."""
    arguments, data = split(groups, (Y,), {})
    target, guide = build(groups, arguments), Amortized(Encoder, "y")
    kernel = jnp.zeros((3, 2)).at[:, 0].set(1 / PRECISION)
    bias = jnp.array([0.0, -0.5 * np.log(PRECISION) - np.log(0.3)])
    params = AmortizedParams({"layer": {"kernel": kernel, "bias": bias}}, jnp.ones(1))

    def gradients(objective):
        def loss(params):
            setting = LossContext({}, jax.random.key(0), target, guide, Batch(data), jnp.zeros(()))
            return objective(Variables(params), setting)[0]

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    assert max(jnp.abs(leaf).max() for leaf in gradients(ELBO())) < 0.02
    assert max(jnp.abs(leaf).max() for leaf in gradients(ELBO(1, "plain"))) > 1


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
    posterior = fit(factor_model, Y, guide=Amortized(Encoder, "y"), batch_size=100, **options)
    centered = Y - Y.mean(0)
    covariance = centered.T @ centered / ROWS
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


class WithCounter(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, rngs=rngs)
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, y):
        return self.layer(y)


@pytest.mark.parametrize(
    ("guide", "model", "message"),
    [
        (Amortized(Wide, "y"), groups, r"shape \(400, 2\), got \(400, 3\)"),
        (Amortized(Encoder, "x"), groups, r"array arguments among \['y'\], got 'x'"),
        (Amortized(WithCounter, "y"), groups, "no state but nnx.Param"),
        (Amortized(Encoder, "y"), hierarchy, "sites inside one plate, got 'mu'"),
    ],
)
def test_an_invalid_encoder_raises_an_error(guide, model, message):
    with pytest.raises(GuideError, match=message):
        fit(model, Y, guide=guide, num_steps=2)


def test_an_encoder_that_is_not_callable_raises_an_error():
    with pytest.raises(GuideError, match=r"encoder: expected a function of nnx.Rngs"):
        Amortized(3, "y")


def test_at_requires_an_amortized_guide_and_observations(fitted):
    other = fit(groups, Y[:3], guide="map")
    with pytest.raises(GuideError, match=r"at: .*Amortized"):
        other.at(Y[:2])
    with pytest.raises((ModelError, TypeError)):
        fitted.at(None)


def test_the_data_of_other_rows_do_not_correct_the_global_latents(monkeypatch):
    guide = {"theta": Amortized(Encoder, "y"), ...: "fullrank"}
    posterior = fit(hierarchy, Y[:9], guide=guide, num_steps=1)
    monkeypatch.setattr(FitResult, "status", "corrected")
    mu = posterior.at(Y[:3] + 9).sample(50)["mu"]
    np.testing.assert_array_equal(mu, posterior.sample(50, corrected=False)["mu"])
    assert not np.array_equal(mu, posterior.sample(50)["mu"])


@pytest.mark.slow
def test_new_rows_have_the_centering_of_the_fitted_rows():
    def scaled(y):
        tau = numpyro.sample("tau", dist.HalfNormal(2.0))
        with numpyro.plate("rows", y.shape[0], dim=-2):
            theta = numpyro.sample("theta", dist.Normal(0.0, tau))
            with numpyro.plate("repeats", y.shape[1], dim=-1):
                numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    guide = {"theta": Amortized(Encoder, "y"), ...: "meanfield"}
    fitted = fit(scaled, Y[:5], guide=guide, centering={"theta": 0.25}, num_steps=1)
    posterior = fitted.at(Y[:7])
    np.testing.assert_array_equal(posterior.centering["theta"], np.full((7, 1), 0.25))
    by_row = {"theta": np.linspace(0, 1, 5)[:, None]}
    fitted = fit(scaled, Y[:5], guide=guide, centering=by_row, num_steps=1)
    with pytest.raises(ModelError, match=r"centering\['theta'\]: expected one weight for all rows"):
        fitted.at(Y[:7])


HIERARCHY = {"theta": Amortized(Encoder, "y"), ...: "fullrank"}
BY_ROW = {"theta": "meanfield", ...: "fullrank"}
NO_STEPS = {"optimizer": optax.sgd(0.0), "num_steps": 1}


def encoded_rows(posterior, y):
    """Locations and scales of rows, from the encoder."""
    params = posterior.params[1]
    loc, raw = (y @ params.encoder["layer"]["kernel"] + params.encoder["layer"]["bias"]).T
    return loc, 0.3 * np.exp(raw * params.gate)


@pytest.fixture(scope="module")
def network():
    return fit(hierarchy, Y, guide=HIERARCHY, batch_size={"rows": 50}, num_steps=1500)


@pytest.mark.slow
@pytest.mark.parametrize("size", [{}, {"batch_size": {"rows": 50}}], ids=["all", "batches"])
def test_per_row_parameters_start_at_the_encoder_outputs(network, size):
    initial = fit(hierarchy, Y, guide=BY_ROW, init=network, **size, **NO_STEPS)
    loc, scale = encoded_rows(network, Y)
    rows = initial.params[1]
    np.testing.assert_allclose(rows.loc["theta"][:, 0], loc, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(rows.log_scale["theta"][:, 0]), scale, rtol=1e-4)
    for got, want in zip(initial.params[0], network.params[0], strict=True):
        np.testing.assert_array_equal(got, want)
    error = np.hypot(initial.elbo_se, network.elbo_se)
    assert abs(initial.elbo - network.elbo) < 5 * error


class PartialEncoder(nnx.Module):
    """Ignores one of the three observations."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, y):
        return self.layer(y[:, 1:])


@pytest.mark.slow
def test_refinement_closes_the_amortization_gap():
    partial = {"theta": Amortized(PartialEncoder, "y"), ...: "fullrank"}
    posterior = fit(hierarchy, Y, guide=partial, batch_size={"rows": 50}, num_steps=1500)
    initial = fit(hierarchy, Y, guide=BY_ROW, init=posterior, **NO_STEPS)
    refined = fit(hierarchy, Y, guide=BY_ROW, init=posterior, num_steps=1500)
    assert refined.elbo > initial.elbo + 5 * np.hypot(refined.elbo_se, initial.elbo_se)
    direct = fit(hierarchy, Y, guide=BY_ROW, num_steps=3000)
    assert abs(refined.elbo - direct.elbo) < 5 * np.hypot(refined.elbo_se, direct.elbo_se) + 1


@pytest.mark.slow
def test_more_rows_than_are_encoded_in_one_call(monkeypatch):
    monkeypatch.setattr(warm_start, "_ROWS", 150)
    network = fit(hierarchy, Y, guide=HIERARCHY, batch_size={"rows": 50}, num_steps=1)
    initial = fit(hierarchy, Y, guide=BY_ROW, init=network, **NO_STEPS)
    np.testing.assert_allclose(
        initial.params[1].loc["theta"][:, 0], encoded_rows(network, Y)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_rows_of_new_data_start_at_the_encoder_outputs(network):
    new = Y[:70] + 1
    initial = fit(hierarchy, new, guide=BY_ROW, init=network, **NO_STEPS)
    loc, scale = encoded_rows(network, new)
    np.testing.assert_allclose(initial.params[1].loc["theta"][:, 0], loc, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(initial.params[1].log_scale["theta"][:, 0]), scale, rtol=1e-4)


@pytest.mark.slow
def test_a_mean_field_guide_for_all_sites_starts_at_the_earlier_fit(network):
    initial = fit(hierarchy, Y, guide="meanfield", init=network, **NO_STEPS)
    mean_field, dense = initial.params, network.params[0]
    np.testing.assert_allclose(mean_field.loc["mu"], dense.loc[0], rtol=1e-5)
    np.testing.assert_allclose(mean_field.log_scale["mu"], dense.log_scale[0], rtol=1e-5)
    loc, _ = encoded_rows(network, Y)
    np.testing.assert_allclose(mean_field.loc["theta"][:, 0], loc, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_encoder_is_kept_if_other_sites_get_another_guide(network):
    guide = {"theta": HIERARCHY["theta"], ...: "meanfield"}
    initial = fit(hierarchy, Y, guide=guide, init=network, **NO_STEPS)
    for got, want in zip(
        *map(jax.tree.leaves, (initial.params[1], network.params[1])), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_fitted_groups_are_reused_or_redrawn(network):
    num, mu = 4000, network.sample(4000)["mu"]
    reused, redrawn = (
        network.predict(Y, rng_key=1, num_draws=num, from_prior=r)["y"] for r in ((), ("theta",))
    )
    loc, scale = encoded_rows(network, Y)
    error = np.sqrt(1 + scale**2) / np.sqrt(num)
    assert (np.abs(reused[..., 0].mean(0) - loc) < 5 * error).all()
    np.testing.assert_allclose(reused[..., 0].var(0), 1 + scale**2, rtol=0.15)
    sd = np.sqrt(mu.var() + 4 + 1)  # of a new group
    assert (np.abs(redrawn[..., 0].mean(0) - mu.mean()) < 5 * sd / np.sqrt(num)).all()
    np.testing.assert_allclose(redrawn[..., 0].std(0), sd, rtol=0.08)
    # new groups, one per row; the data do not matter
    new = network.predict(
        np.zeros((7, 3), np.float32), rng_key=1, num_draws=num, from_prior=["theta"]
    )["y"]
    other = network.predict(
        np.ones((7, 3), np.float32), rng_key=1, num_draws=num, from_prior=["theta"]
    )["y"]
    np.testing.assert_array_equal(new, other)
    assert (np.abs(new[..., 0].mean(0) - mu.mean()) < 5 * sd / np.sqrt(num)).all()
    drawn = network.at(Y[:5]).predict(rng_key=2, num_draws=9, from_prior=["theta"])
    assert drawn["theta"].shape == (9, 5, 1)


class ByCount(nnx.Module):
    """Exact for any number of observations: a gain and a scale for each number."""

    def __init__(self, rngs):
        self.gain, self.scale = nnx.Param(jnp.zeros(4)), nnx.Param(jnp.ones(4))

    def __call__(self, y, observed):
        count = observed.sum(1)
        loc = self.gain[...][count] * jnp.sum(jnp.where(observed, y, 0.0), axis=1)
        return jnp.stack([loc, self.scale[...][count]], axis=1)


def partly_observed(y, observed):
    with numpyro.plate("rows", y.shape[0], dim=-2):
        theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
        with numpyro.plate("repeats", y.shape[1], dim=-1), numpyro.handlers.mask(mask=observed):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def test_several_inputs_and_missing_values_with_a_mask():
    observed = np.random.default_rng(2).random(Y.shape) < 0.6
    y = np.where(observed, Y, 99.0).astype(np.float32)
    guide = Amortized(ByCount, ("y", "observed"))
    options = {"optimizer": optax.adam(0.02), "num_steps": 3000}
    posterior = fit(partly_observed, y, observed, guide=guide, batch_size=100, **options)
    precision = 1 / 4 + np.arange(4)
    encoder, gate = posterior.params
    np.testing.assert_allclose(encoder["gain"][1:], 1 / precision[1:], atol=0.05)
    scale = 0.3 * np.exp(gate * encoder["scale"])
    np.testing.assert_allclose(scale, precision**-0.5, rtol=0.1)
    new = np.array([[2.0, 99.0, 99.0], [2.0, 1.0, 99.0], [99.0, 99.0, 99.0]], np.float32)
    draws = posterior.at(new, new < 99).sample(4000)["theta"][..., 0]
    exact = np.array([2.0, 3.0, 0.0]) / precision[[1, 2, 0]]
    assert (np.abs(draws.mean(0) - exact) < 5 * draws.std(0) / np.sqrt(4000) + 0.05).all()
