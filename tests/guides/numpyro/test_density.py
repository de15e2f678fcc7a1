"""The density of guide functions that sample only the model's latents."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.distributions import constraints
from numpyro.distributions.flows import InverseAutoregressiveTransform
from scipy import stats

import vijax
from tests.laws import keys
from tests.targets import Problem, problem
from vijax.contracts import DensityGuide, LossContext, Variables
from vijax.guides import adapt
from vijax.objectives import CUBO, ELBO, IWAE, FDivergence, ForwardKL, FreeBits, Renyi, ScoreELBO
from vijax.runtime.errors import GuideError

POSITIVE = {"constraint": constraints.positive}


def nested(y):
    z1 = numpyro.sample("z1", dist.Normal(0.0, 1.0))
    z2 = numpyro.sample("z2", dist.Normal(z1, 0.7))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Normal(z2, 1.1), obs=y)


Y = np.asarray([0.3, 1.9, -0.4, 2.2, 1.1], np.float32)
PRECISION = 0.7**-2 + 5 * 1.1**-2  # of z2 given z1 and the data
VARIANCE = 0.7**2 + 1.1**2 / 5  # of the mean of the data given z1
EXACT = {
    "loc": Y.mean() / (1 + VARIANCE),
    "scale": (1 + 1 / VARIANCE) ** -0.5,
    "intercept": 5 * Y.mean() / 1.1**2 / PRECISION,
    "slope": 0.7**-2 / PRECISION,
    "conditional_scale": PRECISION**-0.5,
}
EVIDENCE = stats.multivariate_normal(np.zeros(5), 1.1**2 * np.eye(5) + 1.49).logpdf(Y)


def exactly_nested(y):
    """The posterior at its start values; `z2` given `z1`."""
    of = {name: numpyro.param(name, value) for name, value in EXACT.items()}
    z1 = numpyro.sample("z1", dist.Normal(of["loc"], of["scale"]))
    numpyro.sample("z2", dist.Normal(of["intercept"] + of["slope"] * z1, of["conditional_scale"]))


def exactly_gamma(y):
    """The posterior of `gamma_poisson`, whose data are 2, 0, 3, 1, 4, 2, at its start values."""
    shape = numpyro.param("shape", 15.0, **POSITIVE)
    numpyro.sample("rate", dist.Gamma(shape, numpyro.param("inverse", 8.0, **POSITIVE)))


NESTED = Problem(nested, (Y,), EVIDENCE, np.zeros(2), np.zeros((2, 2)))
CASES = {
    "nested": (NESTED, exactly_nested),
    "gamma": (problem("gamma_poisson"), exactly_gamma),
}


def adapted(function, p):
    return adapt(function, p.model, p.arguments, p.target)


def density_and_draw(guide, p, num=64, batch=None):
    """`(z, log_q, log_prob)` of draws at the start values."""
    space, batch = p.target.space, batch or p.batch
    params = guide.init(jax.random.key(0), space, {}, batch)

    def one(key):
        draw = guide.draw(params, space, key, batch)
        return draw.z, draw.log_q, guide.log_prob(params, space, draw.z, batch)

    return jax.jit(jax.vmap(one))(keys(0, num))


def on_grid(guide, p, grid):
    """The log density at values of the only site, which is on the real line."""
    space = p.target.space

    def one(value):
        return guide.log_prob({}, space, space.unravel(value[None]), p.batch)

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(grid)), float)


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_density_by_change_of_variables(name):
    p, function = CASES[name]
    z, log_q, log_prob = density_and_draw(adapted(function, p), p)
    np.testing.assert_allclose(log_prob, log_q, rtol=1e-5, atol=2e-5)
    z = {site: np.asarray(value, float) for site, value in z.items()}
    if name == "nested":
        exact = stats.norm(EXACT["loc"], EXACT["scale"]).logpdf(z["z1"])
        mean = EXACT["intercept"] + EXACT["slope"] * z["z1"]
        exact += stats.norm(mean, EXACT["conditional_scale"]).logpdf(z["z2"])
    else:
        exact = stats.gamma(15, scale=1 / 8).logpdf(np.exp(z["rate"])) + z["rate"]
    np.testing.assert_allclose(log_prob, exact, rtol=1e-5, atol=2e-5)


AT_THE_POSTERIOR = {  # objective, sign of the evidence in the loss, whether the gradient is zero
    "elbo": (ELBO(2), -1, True),
    "stl": (ELBO(2, "stl"), -1, True),
    "iwae": (IWAE(4), -1, True),
    "renyi": (Renyi(0.5, 4), -1, True),
    "cubo": (CUBO(2.0, 8), 1, False),
    "score": (ScoreELBO(8), -1, True),
    "free bits": (FreeBits(0.0, 8), -1, False),
    "hellinger": (FDivergence("hellinger", 8), 0, True),
    "forward": (ForwardKL(8), 0, False),
}


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        *(("nested", objective) for objective in AT_THE_POSTERIOR),
        pytest.param("gamma", "iwae", marks=pytest.mark.slow),
        ("gamma", "cubo"),
    ],
)
def test_at_the_exact_posterior_every_objective_is_exact(name, objective):
    p, function = CASES[name]
    guide, (objective, sign, zero_gradient) = adapted(function, p), AT_THE_POSTERIOR[objective]
    params = guide.init(jax.random.key(0), p.target.space, {})

    def loss(params, key):
        setting = LossContext({}, key, p.target, guide, p.batch, jnp.ones(()))
        return objective(Variables(params), setting)[0]

    slopes = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))
    found, slope = slopes(params, keys(3, 20))
    np.testing.assert_allclose(found, sign * p.log_evidence, atol=2e-4)
    largest = {path: float(jnp.abs(leaf).max()) for path, leaf in slope.items()}
    assert max(largest.values()) < 2e-3 if zero_gradient else min(largest.values()) > 2e-3, largest


@pytest.mark.slow
def test_a_fit_with_minibatches_has_weights_and_a_density():
    rng = np.random.default_rng(0)
    y = rng.normal(1.0, 1.5, 400).astype(np.float32)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("rows", y.shape[0]):
            numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)

    def guide(y):
        loc = numpyro.param("loc", 0.0)
        numpyro.sample("mu", dist.Normal(loc, numpyro.param("scale", 0.3, **POSITIVE)))

    options = {"guide": guide, "batch_size": 100, "num_steps": 3000, "progress_bar": False}
    posterior = vijax.fit(model, y, objective=ELBO(16, "stl"), **options)
    precision = 1 / 4 + len(y) / 2.25
    mean, sd = y.astype(float).sum() / 2.25 / precision, precision**-0.5
    loc, scale = posterior.params["loc"], np.exp(posterior.params["scale"])
    assert abs(loc - mean) < 0.5 * sd
    assert scale == pytest.approx(sd, rel=0.1)
    points = np.asarray([0.8, 1.0, 1.2], np.float32)
    exact = stats.norm(loc, scale).logpdf(points)
    np.testing.assert_allclose(posterior.log_prob({"mu": points}), exact, rtol=1e-4)
    covariance = 2.25 * np.eye(len(y)) + 4
    evidence = stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)
    found = posterior.importance(4000, rng_key=1)
    assert abs(found.log_evidence - evidence) < 5 * found.log_evidence_se + 2e-3


def test_a_chain_in_a_scan():
    def series(y):
        def step(z, y):
            z = numpyro.sample("z", dist.Normal(0.8 * z, 1.0))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
            return z, None

        scan(step, 0.0, y)

    def backwards(y):
        def step(z, y):
            z = numpyro.sample("z", dist.Normal(0.3 * z + 0.5 * y, 0.8))
            return z, None

        scan(step, 0.0, y)

    p = Problem(series, (Y,), 0.0, np.zeros(5), np.eye(5))
    guide = adapted(backwards, p)
    assert isinstance(guide, DensityGuide)
    z, log_q, log_prob = density_and_draw(guide, p)
    np.testing.assert_allclose(log_prob, log_q, rtol=1e-5, atol=2e-5)
    z = np.asarray(z["z"], float)
    before = np.column_stack([np.zeros(len(z)), z[:, :-1]])
    exact = stats.norm(0.3 * before + 0.5 * Y, 0.8).logpdf(z).sum(axis=1)
    np.testing.assert_allclose(log_prob, exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "distribution",
    [dist.HalfNormal(1.5), dist.Uniform(-1.0, 2.0), dist.TruncatedNormal(0.5, 1.0, low=0.0)],
    ids=lambda one: type(one).__name__,
)
def test_the_density_is_zero_outside_the_support_of_the_guide(distribution):
    p = problem("normal_mean")

    def function(y):
        numpyro.sample("mu", distribution)

    guide = adapted(function, p)
    grid = np.linspace(-8.0, 8.0, 4001)
    log_prob = on_grid(guide, p, grid)
    low = -1.0 if isinstance(distribution, dist.Uniform) else 0.0
    assert (log_prob[grid < low - 1e-3] == -np.inf).all()
    np.testing.assert_allclose(np.trapezoid(np.exp(log_prob), grid), 1, atol=2e-3)


def test_rounding_does_not_leave_a_simplex():
    def shares(y):
        p = numpyro.sample("p", dist.Dirichlet(jnp.full(1000, 2.0)))
        numpyro.sample("y", dist.Normal(p[:5], 1.0), obs=y)

    def guide(y):
        numpyro.sample("p", dist.Dirichlet(jnp.full(1000, 3.0)))

    p = Problem(shares, (Y,), 0.0, np.zeros(1), np.eye(1))
    _, log_q, log_prob = density_and_draw(adapted(guide, p), p, num=500)
    np.testing.assert_allclose(log_prob, log_q, rtol=1e-4, atol=5e-2)


def plain(y):
    return numpyro.sample("mu", dist.Normal(0.0, 1.0))


def auxiliary(y):
    h = numpyro.sample("h", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    numpyro.sample("mu", dist.Normal(h, 1.0))


def factored(y):
    numpyro.factor("more", -(plain(y) ** 2))


def point(y):
    numpyro.sample("mu", dist.Delta(numpyro.param("at", 0.5)))


def noisy(y):
    shift = jax.random.normal(numpyro.prng_key())
    numpyro.sample("mu", dist.Normal(shift, 1.0))


def autoregressive(y):
    def network(x, **_):
        return jnp.zeros_like(x), jnp.ones_like(x)

    flow = InverseAutoregressiveTransform(network)
    base = dist.Normal(0.0, 1.0).expand([1]).to_event(1)
    numpyro.sample("mu", dist.TransformedDistribution(base, flow))


def alone(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[:1])


@pytest.mark.parametrize("function", [auxiliary, factored, point, noisy, autoregressive])
def test_other_guide_functions_have_no_density(function):
    p = problem("normal_mean")
    if function is autoregressive:
        p = Problem(alone, (Y,), 0.0, np.zeros(1), np.eye(1))
    guide = adapted(function, p)
    assert not isinstance(guide, DensityGuide)
    params = guide.init(jax.random.key(0), p.target.space, {})
    setting = LossContext({}, jax.random.key(0), p.target, guide, p.batch, jnp.ones(()))
    ELBO()(Variables(params), setting)
    with pytest.raises(GuideError, match=f"a guide with a density, got.*{function.__name__}"):
        IWAE(2)(Variables(params), setting)
