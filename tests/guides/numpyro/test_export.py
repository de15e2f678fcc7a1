import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro import handlers, optim
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import vijax
from tests.laws import assert_mean, keys, perturb
from vijax.contracts import Batch, Variables
from vijax.guides import Delta, FullRank, MeanField, adapt, as_numpyro
from vijax.model import build, split


def model(x, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("group", 2):
        theta = numpyro.sample("theta", dist.Normal(0.0, scale))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(theta[0] + x * p[0], scale), obs=y)


X, Y = np.float32([0.1, 0.5, 1.0]), np.float32([0.3, 1.2, 0.8])
ARGUMENTS, DATA = split(model, (X, Y), {})
TARGET = build(model, ARGUMENTS)
SPACE, BATCH = TARGET.space, Batch(DATA)
GUIDE = FullRank(0.4)
LOCATION = SPACE.unravel(jnp.linspace(-0.5, 0.5, SPACE.dim))
PARAMS = perturb(GUIDE.init(jax.random.key(0), SPACE, LOCATION))
EXPORTED, NO_PARAMS = as_numpyro(GUIDE, Variables(PARAMS), TARGET, BATCH)


@pytest.fixture(scope="module")
def draws():
    def one(key):
        draw = GUIDE.draw(PARAMS, SPACE, key, BATCH)
        elbo = TARGET.log_density(draw.z, BATCH) - draw.log_q
        return TARGET.constrain(draw.z, BATCH, {}, {}), elbo

    return jax.jit(jax.vmap(one))(keys(0, 4096))


@pytest.mark.slow
def test_predictive_accepts_it_as_the_guide(draws):
    predictive = Predictive(
        model, guide=EXPORTED, params=NO_PARAMS, num_samples=4096, parallel=True
    )
    predicted = predictive(jax.random.key(1), X[:2])["y"]
    assert predicted.shape == (4096, 2)
    x, _ = draws
    mean = x["theta"][:, :1] + X[:2] * x["p"][:, :1]
    assert_mean(np.asarray(predicted - mean, float), 0.0)
    square = np.asarray(predicted**2 - mean**2 - x["scale"][:, None] ** 2, float)
    assert_mean(square, 0.0)


def test_its_sites_have_the_guides_moments(draws):
    predictive = Predictive(EXPORTED, num_samples=4096, parallel=True)
    exported = predictive(jax.random.key(1), X)
    for name in SPACE.names:
        x, expected = np.asarray(exported[name], float), np.asarray(draws[0][name], float)
        assert_mean(x - expected, 0.0)
        assert_mean(x**2 - expected**2, 0.0)


def test_trace_elbo_equals_the_vijax_elbo(draws):
    def trace_elbo(key):
        return -Trace_ELBO().loss(key, {}, model, EXPORTED, X, Y)

    elbos = np.asarray(jax.jit(jax.vmap(trace_elbo))(keys(1, 4096)), float)
    assert_mean(elbos - np.asarray(draws[1], float), 0.0)


@pytest.mark.slow
def test_svi_accepts_it():
    svi = SVI(model, EXPORTED, optim.Adam(0.01), Trace_ELBO())
    state = svi.init(jax.random.key(0), X, Y)
    assert svi.get_params(state) == {}
    key = jax.random.split(state.rng_key)[1]  # as SVI.evaluate does
    expected = Trace_ELBO().loss(key, {}, model, EXPORTED, X, Y)
    np.testing.assert_allclose(jax.jit(svi.evaluate)(state, X, Y), expected, rtol=1e-5)


def test_adapting_it_back_gives_the_same_weights():
    again = adapt(EXPORTED, model, ARGUMENTS, TARGET)

    @jax.jit
    @jax.vmap
    def log_densities(key):
        draw = again.draw({}, SPACE, key, BATCH)
        return draw.log_q, GUIDE.log_prob(PARAMS, SPACE, draw.z, BATCH)

    log_q, log_prob = log_densities(keys(2, 64))
    np.testing.assert_allclose(log_q, log_prob, rtol=1e-4, atol=1e-4)


def test_a_latent_vector_can_be_substituted():
    vector = jnp.linspace(-0.3, 0.4, SPACE.dim)
    substituted = handlers.substitute(handlers.seed(EXPORTED, 0), {"_vijax_latent": vector})
    trace = handlers.trace(substituted).get_trace(X, Y)
    values = TARGET.constrain(SPACE.unravel(vector), BATCH, {}, {})
    for name in SPACE.names:
        np.testing.assert_allclose(trace[name]["value"], values[name], rtol=1e-6)
    log_prob = trace["_vijax_latent"]["fn"].log_prob(vector)
    exact = GUIDE.log_prob(PARAMS, SPACE, SPACE.unravel(vector), BATCH)
    np.testing.assert_allclose(log_prob, exact, rtol=1e-5)


def test_many_draws_at_once():
    latent = handlers.trace(handlers.seed(EXPORTED, 0)).get_trace(X)["_vijax_latent"]["fn"]
    vectors, (log_q,) = latent.sample_with_intermediates(jax.random.key(0), (3, 2))
    assert vectors.shape == (3, 2, SPACE.dim)
    np.testing.assert_allclose(latent.log_prob(vectors), log_q, rtol=1e-4, atol=1e-4)


def test_a_point_mass_draws_but_has_no_density_elsewhere():
    guide = Delta()
    variables = Variables(guide.init(jax.random.key(0), SPACE, LOCATION))
    exported, _ = as_numpyro(guide, variables, TARGET, BATCH)
    trace = handlers.trace(handlers.seed(exported, 0)).get_trace(X)
    latent = trace["_vijax_latent"]
    np.testing.assert_allclose(latent["value"], SPACE.ravel(LOCATION))
    with pytest.raises(NotImplementedError, match="has no density at points other than its draws"):
        latent["fn"].log_prob(latent["value"])


def test_the_parameters_of_the_model_are_used():
    def learned(y):
        top = numpyro.param("top", 2.0, constraint=dist.constraints.positive)
        u = numpyro.sample("u", dist.Uniform(0.0, top))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y)

    arguments, data = split(learned, (Y,), {})
    target = build(learned, arguments)
    guide = MeanField()
    start = guide.init(jax.random.key(0), target.space, {"u": jnp.zeros(())})
    drawn = []
    for top in (2.0, 20.0):
        variables = Variables(start, {"top": jnp.log(top)})
        exported, params = as_numpyro(guide, variables, target, Batch(data))
        np.testing.assert_allclose(params["top"], top, rtol=1e-6)
        drawn.append(handlers.seed(exported, 0)(Y)["u"])
    np.testing.assert_allclose(drawn[1], 10 * drawn[0], rtol=1e-6)


def test_it_has_the_methods_of_autoguides(draws):
    x, _ = draws
    number = len(x["scale"])
    drawn = EXPORTED.sample_posterior(jax.random.key(3), {}, sample_shape=(2, 5))
    assert {name: value.shape for name, value in drawn.items()} == {
        "scale": (2, 5),
        "p": (2, 5, 3),
        "theta": (2, 5, 2),
    }
    below = x["theta"] < EXPORTED.median({})["theta"]
    assert np.abs(below.mean(0) - 0.5).max() < 5 * 0.5 * np.sqrt(1 / number + 1 / 10_000)
    low, high = EXPORTED.quantiles(NO_PARAMS, [0.1, 0.9])["scale"]
    share = np.mean((x["scale"] > low) & (x["scale"] < high))
    assert share == pytest.approx(0.8, abs=5 * 0.4 * np.sqrt(1 / number + 2 / 10_000))


@pytest.mark.slow
def test_parameters_of_numpyro_guides_have_their_names_and_constraints():
    positive = dist.constraints.positive

    def conjugate(y):
        f = numpyro.sample("f", dist.Beta(1.0, 1.0))
        numpyro.sample("y", dist.Bernoulli(f).expand([10]).to_event(1), obs=y)

    def beta(y):
        a = numpyro.param("alpha_q", 8.0, constraint=positive)
        numpyro.sample("f", dist.Beta(a, numpyro.param("beta_q", 2.0, constraint=positive)))

    y = np.array([1.0] * 8 + [0.0] * 2)
    steps = {"optimizer": optax.adam(0.03), "num_steps": 2000}
    posterior = vijax.fit(conjugate, y, guide=beta, progress_bar=False, **steps)
    assert posterior.guide_params["alpha_q"] == pytest.approx(9.0, rel=0.15)
    assert posterior.guide_params["beta_q"] == pytest.approx(3.0, rel=0.1)
    assert posterior.as_numpyro()[1].keys() == {"alpha_q", "beta_q"}
    assert vijax.fit(conjugate, y, guide="meanfield", progress_bar=False).guide_params == {}
    auto = vijax.fit(conjugate, y, guide=AutoNormal, num_steps=1, progress_bar=False)
    assert auto.guide_params.keys() == {"f_auto_loc", "f_auto_scale"}
    assert auto.guide_params["f_auto_scale"] > 0
