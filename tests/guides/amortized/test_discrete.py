"""The `AmortizedDiscrete` guide: every estimator, minibatches, exact posteriors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from scipy.special import expit, logsumexp
from scipy.stats import norm, poisson

import vijax
from vijax import GuideError
from vijax.contracts import Batch, LossContext, Variables
from vijax.families.discrete import DiscretizedLogistic
from vijax.guides import Amortized, AmortizedDiscrete
from vijax.model import batch_request, build, split
from vijax.objectives import ELBO

ROWS = 300
rng = np.random.default_rng(0)
STEPS = np.array([1.5, -1.0], np.float32)
Y = (rng.integers(0, 2, (ROWS, 2)) * STEPS + rng.normal(size=(ROWS, 2))).astype(np.float32)
WEIGHTS = np.array([[1.5, -1.0], [-0.5, 2.0]], np.float32)
ON = np.array([4, 0, 2], np.int32)  # rows of a minibatch, from the first five


def linear(inputs, outputs):
    """A linear encoder class."""

    class Linear(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(inputs, outputs, rngs=rngs)

        def __call__(self, y):
            return self.layer(y)

    return Linear


TWO, FOUR = linear(2, 2), linear(2, 4)


def units(y):
    """Posterior logits of the units are linear in the data."""
    with numpyro.plate("rows", y.shape[0]):
        h = numpyro.sample("h", dist.Bernoulli(0.4).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(h * jnp.asarray(STEPS), 1.0).to_event(1), obs=y)


def network(y):
    """Units that are dependent given the data, outside the variational family."""
    low = numpyro.param("low", 0.3)
    with numpyro.plate("rows", y.shape[0]):
        h = numpyro.sample("h", dist.Bernoulli(0.4).expand([2]).to_event(1))
        loc = jnp.tanh(h @ jnp.asarray(WEIGHTS) - low)
        numpyro.sample("y", dist.Normal(loc, 0.7).to_event(1), obs=y)


def values(y):
    """Two sites with three values each, with an interaction."""
    with numpyro.plate("rows", y.shape[0]):
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
        j = numpyro.sample("j", dist.Binomial(2, 0.4))
        numpyro.sample("y", dist.Normal(jnp.stack([k, k * j], -1), 1.0).to_event(1), obs=y)


@functools.cache
def problem(model, encoder):
    """A target on a minibatch of three rows of five."""
    arguments, data = split(model, (Y[:5],), {})
    target = build(model, arguments, batch_request({"rows": 3}, None), "all").on_batch
    guide = AmortizedDiscrete(encoder, "y")
    start = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}
    params = guide.init(jax.random.key(4), target.space, start)
    batch = Batch(data, {"rows": jnp.asarray(ON)})
    return target, guide, batch, Variables(params, {"low": jnp.array(0.3)})


def exact(model, encoder):
    """The exact loss and its gradient, by enumeration of the rows in use."""
    target, guide, batch, variables = problem(model, encoder)
    sites = target.space.sites
    ranges = [range(site.cardinality) for site in sites for _ in range(site.size)]
    every = jax.vmap(target.space.unravel)(jnp.array(list(itertools.product(*ranges))))

    def loss(variables):
        def one(z):
            log_q = guide.log_prob(variables.guide, target.space, z, batch)
            return log_q, target.log_density(z, batch, variables.model)

        log_q, log_p = jax.vmap(one)(every)
        return jnp.sum(jnp.exp(log_q * 3 / 5) * (log_q - log_p))  # minibatch weights

    return jax.jit(jax.value_and_grad(loss))(variables)


@pytest.mark.parametrize(
    ("model", "encoder", "name"),
    [
        (network, TWO, "local"),
        (network, TWO, "disarm"),
        (network, TWO, "leave_one_out"),
        pytest.param(network, TWO, "rebar", marks=pytest.mark.slow),
        pytest.param(network, TWO, "relax", marks=pytest.mark.slow),
        (values, FOUR, "leave_one_out"),
        (values, FOUR, "rebar"),
        (values, FOUR, "relax"),
    ],
)
def test_gradients_on_a_batch_are_unbiased(model, encoder, name):
    target, guide, batch, variables = problem(model, encoder)
    keys, objective = jax.random.split(jax.random.key(1), 4000), ELBO(discrete=name)
    start = LossContext({}, keys[0], target, guide, batch, jnp.zeros(()))
    controls = jax.tree.map(lambda leaf: leaf + 0.1, objective.init_control_params(start))

    def one(key):
        setting = start._replace(key=key, control_params=controls)
        return jax.value_and_grad(lambda at: objective(at, setting)[0])(variables)

    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(keys)
    for got, want in zip(*map(jax.tree.leaves, (found, exact(model, encoder))), strict=True):
        got = np.asarray(got, float)
        error = 5 * got.std(0) / np.sqrt(len(keys)) + 1e-5
        assert (np.abs(got.mean(0) - want) < error).all()


@functools.cache
def fitted():
    options = {"optimizer": optax.adam(0.02), "num_steps": 3000, "progress_bar": False}
    guide = AmortizedDiscrete(TWO, "y")
    return vijax.fit(units, Y, guide=guide, batch_size=50, **options)


@pytest.mark.slow
def test_the_encoder_learns_the_exact_posterior():
    posterior = fitted()
    layer = posterior.params.encoder["layer"]
    np.testing.assert_allclose(layer["kernel"], np.diag(STEPS), atol=0.15)
    bias = np.log(0.4 / 0.6) - STEPS**2 / 2
    np.testing.assert_allclose(layer["bias"], bias, atol=0.15)
    joint = norm.logpdf(Y[..., None], STEPS[:, None] * [0, 1]) + np.log([0.6, 0.4])
    evidence = logsumexp(joint, axis=-1).sum()
    assert evidence - 1 < posterior.elbo < evidence + 5 * posterior.elbo_se
    assert "in the guide: h (2 values); gradients by LocalExpectation()" in posterior.report()


def test_new_rows_are_inferred():
    new, num = np.array([[3.0, 2.0], [-1.0, -2.0], [0.7, 0.1]], np.float32), 4000
    draws = fitted().at(new).sample(num, rng_key=1)["h"]
    assert draws.shape == (num, 3, 2)
    p = expit(np.log(0.4 / 0.6) + STEPS * new - STEPS**2 / 2)
    assert (np.abs(draws.mean(0) - p) < 5 * np.sqrt(p * (1 - p) / num) + 0.05).all()
    np.testing.assert_allclose(fitted().discrete_probs(new)["h"][..., 1], p, atol=0.05)
    assert fitted().discrete_probs()["h"].shape == (len(Y), 2, 2)


def test_the_plate_may_be_any_axis():
    def crossed(y):
        with numpyro.plate("rows", y.shape[0], dim=-1):
            k = numpyro.sample("k", dist.Categorical(jnp.full((1, y.shape[0], 3), 1 / 3)))
            numpyro.sample("y", dist.Normal(k[0], 1.0), obs=y[:, 0])

    arguments, data = split(crossed, (Y[:4],), {})
    target = build(crossed, arguments, None, "all")
    guide = AmortizedDiscrete(TWO, "y")
    (site,) = target.space.sites
    assert site.z_shape == (1, 4)
    params = guide.init(jax.random.key(0), target.space, {"k": jnp.zeros(site.z_shape)})
    (family,) = guide.families(params, target.space, Batch(data)).values()
    layer = params.encoder["layer"]
    logits = Y[:4] @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(family.logits[0], logits, rtol=1e-5)
    draw = guide.draw(params, target.space, jax.random.key(2), Batch(data))
    log_p = jax.nn.log_softmax(np.concatenate([np.zeros((4, 1)), logits], 1))
    np.testing.assert_allclose(draw.log_q, log_p[np.arange(4), draw.z["k"][0]].sum(), rtol=1e-5)


OBSERVED = np.stack([rng.binomial(rng.poisson(5 * np.exp(Y[:, 0])), 0.6), 5 * np.exp(Y[:, 0])], 1)
OBSERVED = OBSERVED.astype(np.float32)


def few(y):
    with numpyro.plate("rows", y.shape[0]):
        n = numpyro.sample("n", dist.Poisson(3.0))
        numpyro.sample("y", dist.Normal(n, 1.5), obs=y[:, 0])


def thinned(y):
    """Counts of animals at sites with known rates, bounded below by the observed counts."""
    with numpyro.plate("rows", y.shape[0]):
        n = numpyro.sample("n", dist.Poisson(y[:, 1]))
        numpyro.sample("y", dist.Binomial(n, 0.6), obs=y[:, 0])


def test_rows_of_counts_have_the_same_initial_distribution():
    arguments, data = split(few, (1000 * Y[:5],), {})
    target, guide = build(few, arguments, None, "all"), AmortizedDiscrete(TWO, "y")
    params = guide.init(jax.random.key(0), target.space, {"n": jnp.zeros(5)})
    far = params._replace(counts={"n": params.counts["n"]._replace(gate=jnp.full((2,), 5.0))})
    start, later = (guide.families(p, target.space, Batch(data))["n"] for p in (params, far))
    np.testing.assert_allclose(start.log_loc, np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(start.log_scale, np.log(0.5), rtol=1e-6)
    assert (np.abs(later.log_scale - np.log(0.5)) <= 3.0).all()
    assert (
        later.log_loc < np.log(1e5)
    ).all()  # linear in the outputs; an exponential would give exp(1000)
    slopes = jax.grad(lambda p: guide.families(p, target.space, Batch(data))["n"].log_loc.sum())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes(far)))


def test_gradients_of_counts_on_a_batch_are_unbiased():
    target, guide, batch, variables = problem(few, TWO)
    params = variables.guide
    unit = DiscretizedLogistic(jnp.array(1.0), jnp.array(0.1))
    count = params.counts["n"]._replace(unit=unit, gate=jnp.array([0.4, 0.3]))
    variables = Variables(params._replace(counts={"n": count}))
    every = {"n": jnp.array(list(itertools.product(range(30), repeat=3)))}

    def exact(variables):
        def one(z):
            log_q = guide.log_prob(variables.guide, target.space, z, batch)
            return log_q, target.log_density(z, batch)

        log_q, log_p = jax.vmap(one)(every)
        return jnp.sum(jnp.exp(log_q * 3 / 5) * (log_q - log_p))

    def estimate(key):
        setting = LossContext({}, key, target, guide, batch, jnp.zeros(()))
        return jax.value_and_grad(lambda at: ELBO()(at, setting)[0])(variables)

    keys = jax.random.split(jax.random.key(1), 4000)
    found = jax.jit(lambda keys: jax.lax.map(estimate, keys, batch_size=2000))(keys)
    want = jax.jit(jax.value_and_grad(exact))(variables)
    for got, truth in zip(*map(jax.tree.leaves, (found, want)), strict=True):
        got = np.asarray(got, float)
        error = 5 * got.std(0) / np.sqrt(len(keys)) + 1e-4
        assert (np.abs(got.mean(0) - truth) < error).all()


@pytest.mark.slow
def test_amortized_counts_are_close_to_the_posterior():
    """All of eight linear encoders with exponential scales ended at -160 to -1e17 nats per row."""
    options = {"guide": AmortizedDiscrete(TWO, "y"), "num_steps": 2000, "progress_bar": False}
    posterior = vijax.fit(thinned, OBSERVED, batch_size=100, **options)
    evidence = poisson.logpmf(OBSERVED[:, 0], 0.6 * OBSERVED[:, 1]).sum()
    error = 5 * posterior.elbo_se / ROWS
    assert -0.06 - error < (posterior.elbo - evidence) / ROWS < error
    new = np.array([[3.0, 5.0], [40.0, 60.0], [0.0, 2.0]], np.float32)
    draws = posterior.at(new).sample(4000, rng_key=1)["n"]
    assert (draws >= new[:, 0]).all()
    missed = 0.4 * new[:, 1]
    error = 5 * draws.std(0) / np.sqrt(4000) + 0.1 * missed + 0.1
    assert (np.abs(draws.mean(0) - new[:, 0] - missed) < error).all()
    # a fit with per-row parameters starts there and improves
    no_steps = {"optimizer": optax.sgd(0.0), "num_steps": 1, "progress_bar": False}
    initial = vijax.fit(thinned, OBSERVED, guide="discrete", init=posterior, **no_steps)
    gap = 5 * np.hypot(initial.elbo_se, posterior.elbo_se)
    assert abs(initial.elbo - posterior.elbo) < gap
    steps = {"num_steps": 1000, "progress_bar": False}
    refined = vijax.fit(thinned, OBSERVED, guide="discrete", init=initial, **steps)
    assert (
        initial.elbo + 5 * np.hypot(initial.elbo_se, refined.elbo_se) < refined.elbo < evidence + 1
    )


@pytest.mark.slow
def test_counts_in_minibatches_start_from_their_lower_bounds():
    """With per-row parameters as with an encoder."""
    steps = {"num_steps": 3000, "progress_bar": False}
    posterior = vijax.fit(thinned, OBSERVED, guide="discrete", batch_size=100, **steps)
    np.testing.assert_array_equal(posterior.centering["n"], OBSERVED[:, 0])
    evidence = poisson.logpmf(OBSERVED[:, 0], 0.6 * OBSERVED[:, 1]).sum()
    error = 5 * posterior.elbo_se / ROWS
    assert -0.1 - error < (posterior.elbo - evidence) / ROWS < error


def both(y):
    """A binary and a continuous latent in every row, and a global latent."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", y.shape[0]):
        h = numpyro.sample("h", dist.Bernoulli(0.4))
        z = numpyro.sample("z", dist.Normal(mu, 1.0))
        loc = jnp.stack([3.0 * h, z], -1)
        numpyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)


@pytest.mark.slow
def test_with_continuous_latents_of_the_same_rows():
    guide = {
        "h": AmortizedDiscrete(linear(2, 1), "y"),
        "z": Amortized(TWO, "y"),
        ...: "fullrank",
    }
    options = {"optimizer": optax.adam(0.01), "num_steps": 4000, "progress_bar": False}
    posterior = vijax.fit(both, Y, guide=guide, batch_size=50, **options)
    p = posterior.params.discrete.encoder["layer"]
    np.testing.assert_allclose(np.ravel(p["kernel"]), [3.0, 0.0], atol=0.3)
    variance = 1 / (1 / 4 + ROWS / 2)  # of mu
    draws = posterior.sample(2000)
    assert abs(draws["mu"].mean() - variance * Y[:, 1].sum() / 2) < 3 * variance**0.5
    assert draws["h"].shape == draws["z"].shape == (2000, ROWS)


def above(y):
    top = numpyro.sample("top", dist.Bernoulli(0.5))
    with numpyro.plate("rows", y.shape[0]):
        h = numpyro.sample("h", dist.Bernoulli(0.2 + 0.5 * top))
        numpyro.sample("y", dist.Normal(h, 1.0), obs=y[:, 0])


@pytest.mark.slow
def test_with_global_discrete_sites():
    """About half of the units are on, so `top` is one."""
    guide = {"h": AmortizedDiscrete(linear(2, 1), "y"), ...: "discrete"}
    options = {"optimizer": optax.adam(0.05), "num_steps": 1000, "progress_bar": False}
    y = np.repeat([[3.0, 0.0], [-2.0, 0.0]], 20, axis=0).astype(np.float32)
    posterior = vijax.fit(above, y, guide=guide, **options)
    draws = posterior.sample(1000)
    assert draws["top"].mean() > 0.9
    assert draws["h"][:, :20].mean() > 0.9
    assert draws["h"][:, 20:].mean() < 0.2


@pytest.mark.parametrize(
    ("encoder", "inputs", "model", "message"),
    [
        (FOUR, "y", units, r"shape \(300, 2\), got \(300, 4\)"),
        (TWO, "x", units, r"array arguments among \['y'\], got 'x'"),
        (TWO, "y", above, "expected sites inside one plate, got 'top'"),
    ],
)
def test_an_invalid_encoder_raises_an_error(encoder, inputs, model, message):
    guide = AmortizedDiscrete(encoder, inputs)
    with pytest.raises(GuideError, match=message):
        vijax.fit(model, Y, guide=guide, num_steps=2, progress_bar=False)


def test_an_encoder_that_is_not_callable_raises_an_error():
    with pytest.raises(GuideError, match=r"encoder: expected a function of nnx.Rngs"):
        AmortizedDiscrete(3, "y")
