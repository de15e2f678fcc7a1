import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer import Trace_ELBO
from numpyro.infer import autoguide as ag
from scipy import stats

from tests.laws import assert_mean, case, keys, perturb
from tests.targets import problem
from vijax.contracts import Batch
from vijax.guides import adapt, resolve
from vijax.model import build, split
from vijax.runtime.errors import GuideError


def moving_support(y):
    """A support that depends on other latents, and one whose unconstrained shape differs."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    low = numpyro.sample("low", dist.Normal(0.0, 1.0))
    u = numpyro.sample("u", dist.Uniform(low, low + scale))
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("y", dist.Normal(u + p[0], 1.0), obs=y)


Y = np.float32([0.3])
ARGUMENTS, DATA = split(moving_support, (Y,), {})
TARGET = build(moving_support, ARGUMENTS)
SPACE, BATCH = TARGET.space, Batch(DATA)
START = SPACE.unravel(jnp.linspace(-0.5, 0.5, SPACE.dim))


def draws_of(guide, params, num=4096, batch=BATCH):
    def one(key):
        draw = guide.draw(params, SPACE, key, batch)
        x = TARGET.constrain(draw.z, batch, {}, {})
        return SPACE.ravel(draw.z), draw.log_q, TARGET.log_density(draw.z, batch), x

    return jax.jit(jax.vmap(one))(keys(0, num))


@pytest.mark.slow
def test_elbo_equals_numpyros_at_the_same_parameters():
    def fixed_support(y):  # NumPyro is incorrect for supports that depend on latents
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("y", dist.Normal(p[0], scale), obs=y)

    arguments, data = split(fixed_support, (Y,), {})
    target = build(fixed_support, arguments)
    auto = ag.AutoNormal(fixed_support, init_scale=0.4)
    guide = adapt(auto, fixed_support, arguments, target)
    location = target.space.unravel(jnp.asarray([0.1, -0.3, 0.2]))
    params = perturb(guide.init(jax.random.key(0), target.space, location))
    handlers.seed(auto, jax.random.key(0))(Y)
    theirs = {
        name: biject_to(constraints.softplus_positive)(value) if "scale" in name[-5:] else value
        for name, value in params.items()
    }

    @jax.jit
    @jax.vmap
    def elbos(key):
        draw = guide.draw(params, target.space, key, Batch(data))
        ours = target.log_density(draw.z, Batch(data)) - draw.log_q
        return ours, -Trace_ELBO().loss(jax.random.fold_in(key, 1), theirs, fixed_support, auto, Y)

    ours, numpyros = elbos(keys(0, 8192))
    assert_mean(np.asarray(ours, float) - np.asarray(numpyros, float), 0.0)


@pytest.mark.slow
def test_draws_respect_a_support_that_depends_on_latents():
    guide = adapt(ag.AutoNormal(moving_support, init_scale=1.5), moving_support, ARGUMENTS, TARGET)
    params = guide.init(jax.random.key(0), SPACE, START)
    z, log_q, log_p, x = draws_of(guide, params)
    assert np.all((x["u"] >= x["low"]) & (x["u"] <= x["low"] + x["scale"]))
    assert np.all(np.isfinite(log_p))
    exact = dist.Normal(SPACE.ravel(START), 1.5).log_prob(z).sum(-1)
    np.testing.assert_allclose(log_q, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_starts_at_the_given_location():
    for kind in (ag.AutoNormal, ag.AutoDiagonalNormal):
        auto = kind(moving_support, init_scale=0.001)
        guide = adapt(auto, moving_support, ARGUMENTS, TARGET)
        z, *_ = draws_of(guide, guide.init(jax.random.key(0), SPACE, START), num=256)
        np.testing.assert_allclose(z.mean(axis=0), SPACE.ravel(START), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [(ag.AutoIAFNormal, {"num_flows": 2}), (ag.AutoBNAFNormal, {"hidden_factors": [2, 2]})],
)
def test_flows_have_the_density_of_their_draws(kind, options):
    p = problem("regression")
    guide = adapt(kind(p.model, **options), p.model, p.arguments, p.target)
    space = p.target.space
    params = guide.init(jax.random.key(0), space, space.unravel(jnp.zeros(3)))

    @jax.jit
    @jax.vmap
    def draw(key):
        z, log_q = guide.draw(params, space, key, p.batch)
        return space.ravel(z), log_q

    z, log_q = (np.asarray(a, float) for a in draw(keys(0, 8192)))
    # a Gaussian inside the bulk of the guide integrates to one by importance sampling
    inside = stats.multivariate_normal(z.mean(axis=0), 0.3 * np.cov(z.T))
    assert_mean(np.exp(inside.logpdf(z) - log_q), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        ag.AutoNormal,
        ag.AutoDiagonalNormal,
        ag.AutoMultivariateNormal,
        ag.AutoLowRankMultivariateNormal,
    ],
)
def test_gaussians_have_a_density_at_any_point(kind):
    """With sites not sorted by name, as NumPyro's vector of them is."""
    guide = adapt(kind(moving_support, init_scale=0.7), moving_support, ARGUMENTS, TARGET)
    params = perturb(guide.init(jax.random.key(0), SPACE, START))

    @jax.jit
    @jax.vmap
    def log_densities(key):
        z, log_q = guide.draw(params, SPACE, key, BATCH)
        log_prob = guide.log_prob(params, SPACE, z, BATCH)
        return SPACE.ravel(z), log_q, log_prob

    z, log_q, log_prob = log_densities(keys(0, 4000))
    np.testing.assert_allclose(log_prob, log_q, rtol=1e-5, atol=2e-5)
    # it is normalized: a Gaussian inside the bulk integrates to one by importance sampling
    z, log_prob = np.asarray(z, float), np.asarray(log_prob, float)
    inside = stats.multivariate_normal(z.mean(axis=0), 0.6 * np.cov(z.T))
    assert_mean(np.exp(inside.logpdf(z) - log_prob), 1.0)
    assert guide.factorized == (kind in (ag.AutoNormal, ag.AutoDiagonalNormal))


@pytest.mark.slow
def test_dais_depends_on_the_data_of_the_call():
    c = case("AutoDAIS")
    x, y = (c.problem.batch.data[name] for name in ("x", "y"))

    def draw(key, data):
        z, log_q = c.guide.draw(c.params, c.problem.target.space, key, Batch(data))
        return c.problem.target.space.ravel(z), log_q

    program = jax.jit(draw)
    original, _ = program(jax.random.key(0), {"x": x, "y": y})
    shifted, _ = program(jax.random.key(0), {"x": x, "y": y + 3.0})
    assert np.all(original != shifted)


@pytest.mark.slow
def test_autodelta_is_the_mode_in_constrained_space():
    p = problem("gamma_poisson")
    guide = adapt(ag.AutoDelta, p.model, p.arguments, p.target)

    def bound(params):
        draw = guide.draw(params, p.target.space, jax.random.key(0), p.batch)
        return p.target.log_density(draw.z, p.batch) - draw.log_q

    shape, rate = p.mean[0] ** 2 / p.covariance[0, 0], p.mean[0] / p.covariance[0, 0]
    mode = {"rate": jnp.log(jnp.float32((shape - 1) / rate))}
    params = guide.init(jax.random.key(0), p.target.space, mode)
    np.testing.assert_allclose(jax.grad(bound)(params)["rate_auto_loc"], 0, atol=1e-4)


def test_a_list_of_autoguides():
    p = problem("regression")
    auto = ag.AutoGuideList(p.model)
    auto.append(ag.AutoNormal(handlers.block(p.model, hide=["beta"]), init_scale=0.9))
    auto.append(ag.AutoMultivariateNormal(handlers.block(p.model, expose=["beta"]), init_scale=0.9))
    guide = adapt(auto, p.model, p.arguments, p.target)
    assert repr(guide) == "NumPyroAuto(AutoNormal, AutoMultivariateNormal)"
    space = p.target.space
    params = guide.init(jax.random.key(0), space, space.unravel(jnp.zeros(3)))
    assert set(params) == {"alpha_auto_loc", "alpha_auto_scale", "auto_loc", "auto_scale_tril"}

    def draw(key):
        z, log_q = guide.draw(params, space, key, p.batch)
        return p.target.log_density(z, p.batch) - log_q

    log_weight = np.asarray(jax.jit(jax.vmap(draw))(keys(0, 8192)), float)
    assert_mean(np.exp(log_weight - p.log_evidence), 1.0)


def test_adapt_does_not_modify_the_autoguide():
    auto = ag.AutoNormal(moving_support)
    guide = adapt(auto, moving_support, ARGUMENTS, TARGET)
    guide.init(jax.random.key(0), SPACE, START)
    assert auto.prototype_trace is None
    assert auto._event_dims == {}
    assert adapt(auto, moving_support, ARGUMENTS, TARGET) == guide
    assert adapt(ag.AutoNormal(moving_support), moving_support, ARGUMENTS, TARGET) == guide
    assert (
        adapt(ag.AutoNormal(moving_support, init_scale=0.2), moving_support, ARGUMENTS, TARGET)
        != guide
    )


def listed(*parts):
    auto = ag.AutoGuideList(moving_support)
    for part in parts:
        auto.append(part)
    return auto


def blocked(kind, *names, **options):
    return kind(handlers.block(moving_support, expose=list(names)), **options)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (ag.AutoLaplaceApproximation, "AutoLaplaceApproximation: .*Use guide='laplace'"),
        (ag.AutoSemiDAIS, "AutoSemiDAIS: not supported"),
        (blocked(ag.AutoNormal, "u", "p"), "site 'scale': expected a guide for every site"),
        (ag.AutoNormal(problem("regression").model), "the model of guide AutoNormal failed .*'y'"),
        (
            listed(blocked(ag.AutoNormal, "u", "p", "low", "scale"), blocked(ag.AutoNormal, "u")),
            "site 'u': expected one guide, got two",
        ),
        (
            listed(
                blocked(ag.AutoDiagonalNormal, "u", "p"),
                blocked(ag.AutoDiagonalNormal, "low", "scale"),
            ),
            "guide parameter 'auto_loc': .*Give each autoguide a different prefix",
        ),
        (listed(lambda y: None), "AutoGuideList: expected autoguides only"),
        ({"u": ag.AutoDelta, ...: "meanfield"}, "Use 'map' for a group of sites"),
        ({"u": ag.AutoDAIS, ...: "meanfield"}, "AutoDAIS uses .* must cover all sites"),
        (ag.AutoBatchedMultivariateNormal, "failed while being traced with ValueError: Expected 1"),
    ],
)
def test_invalid_autoguides_raise_errors(guide, message):
    with pytest.raises(GuideError, match=message):
        resolve(guide, TARGET, moving_support, ARGUMENTS)


def test_an_autoguide_of_another_model_raises_an_error():
    def other(y):
        numpyro.sample("tau", dist.HalfNormal(1.0))

    with pytest.raises(GuideError, match="site 'tau': expected a guide for"):
        adapt(ag.AutoNormal(other), moving_support, ARGUMENTS, TARGET)
