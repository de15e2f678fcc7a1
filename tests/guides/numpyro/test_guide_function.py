import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

from tests.laws import assert_mean, keys
from tests.targets import problem
from vijax.contracts import Batch
from vijax.guides import adapt
from vijax.guides.numpyro.tracing import dependent
from vijax.model import build, split
from vijax.runtime.errors import GuideError


def model(y=None):
    rate = numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    with numpyro.plate("group", 2):
        theta = numpyro.sample("theta", dist.Normal(p, rate))
    numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def guide(y=None):
    loc = numpyro.param("loc", -0.2)
    scale = numpyro.param("scale", 0.5, constraint=constraints.positive)
    shape = numpyro.param("shape", jnp.asarray([4.0, 5.0]), constraint=constraints.positive)
    numpyro.sample("rate", dist.LogNormal(loc, scale))
    p = numpyro.sample("p", dist.Beta(shape[0], shape[1]))
    with numpyro.plate("group", 2):
        numpyro.sample("theta", dist.Normal(p, 2.0))


Y = np.float32([0.3, 1.2])
ARGUMENTS, DATA = split(model, (), {"y": Y})
TARGET = build(model, ARGUMENTS)
SPACE, BATCH = TARGET.space, Batch(DATA)


def adapted(function):
    return adapt(function, model, ARGUMENTS, TARGET)


def start(g, batch=None):
    location = {site.name: jnp.zeros(site.z_shape) for site in SPACE.sites}
    return g.init(jax.random.key(0), SPACE, location, batch)


def test_parameters_are_unconstrained_start_values():
    params = start(adapted(guide))
    np.testing.assert_allclose(params["loc"], -0.2)
    np.testing.assert_allclose(params["scale"], np.log(0.5), rtol=1e-6)
    np.testing.assert_allclose(params["shape"], np.log([4, 5]), rtol=1e-6)


def test_the_density_is_exact_by_change_of_variables():
    g = adapted(guide)
    params = start(g)
    draw = jax.jit(jax.vmap(lambda key: g.draw(params, SPACE, key, BATCH)))
    z, log_q = draw(keys(0, 50))
    z = {name: np.asarray(value, float) for name, value in z.items()}
    rate, p = np.exp(z["rate"]), 1 / (1 + np.exp(-z["p"]))
    exact = stats.lognorm(0.5, scale=np.exp(-0.2)).logpdf(rate) + np.log(rate)
    exact += stats.beta(4, 5).logpdf(p) + np.log(p * (1 - p))
    exact += stats.norm(p[:, None], 2).logpdf(z["theta"]).sum(axis=1)
    np.testing.assert_allclose(log_q, exact, rtol=1e-5, atol=1e-5)


def test_the_exact_posterior_has_constant_weights():
    p = problem("beta_binomial")

    def posterior(n, k):
        numpyro.sample("p", dist.Beta(2.0 + k, 3.0 + n - k))

    g = adapt(posterior, p.model, p.arguments, p.target)

    def log_weight(key):
        z, log_q = g.draw({}, p.target.space, key, p.batch)
        return p.target.log_density(z, p.batch) - log_q

    weights = jax.jit(jax.vmap(log_weight))(keys(0, 50))
    np.testing.assert_allclose(weights, p.log_evidence, rtol=2e-5)


def test_every_parameter_has_a_gradient():
    g = adapted(guide)

    def elbo(params):
        def one(key):
            z, log_q = g.draw(params, SPACE, key, BATCH)
            return TARGET.log_density(z, BATCH) - log_q

        return jnp.mean(jax.vmap(one)(keys(0, 8)))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(elbo))(start(g))):
        assert np.all(np.isfinite(leaf) & (leaf != 0))


def test_a_support_that_depends_on_a_latent():
    def uniform(y):
        low = numpyro.sample("low", dist.Normal(0.0, 1.0))
        u = numpyro.sample("u", dist.Uniform(low, low + 2.0))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y)

    def prior(y):
        low = numpyro.sample("low", dist.Normal(0.0, 1.0))
        numpyro.sample("u", dist.Uniform(low, low + 2.0))

    arguments, data = split(uniform, (Y[:1],), {})
    target = build(uniform, arguments)
    g = adapt(prior, uniform, arguments, target)

    def one(key):
        z, log_q = g.draw({}, target.space, key, Batch(data))
        x = target.constrain(z, Batch(data), {}, {})
        return target.log_density(z, Batch(data)) - log_q, dist.Normal(x["u"], 1).log_prob(Y[0])

    # with the prior as the guide the weight of a draw is its likelihood
    weight, likelihood = jax.jit(jax.vmap(one))(keys(0, 200))
    np.testing.assert_allclose(weight, likelihood, atol=2e-4)


def test_an_auxiliary_site_with_its_reverse_density():
    p = problem("normal_mean")

    def mixed(y):
        h = numpyro.sample("h", dist.Normal(0.5, 0.8), infer={"is_auxiliary": True})
        mu = numpyro.sample("mu", dist.Normal(h, 0.8))
        numpyro.factor("reverse", -dist.Normal(0.5 + (mu - 0.5) / 2, 1.0).log_prob(h))

    g = adapt(mixed, p.model, p.arguments, p.target)

    def log_weight(key):
        z, log_q = g.draw({}, p.target.space, key, p.batch)
        return p.target.log_density(z, p.batch) - log_q

    weights = np.exp(np.asarray(jax.jit(jax.vmap(log_weight))(keys(0, 8192))) - p.log_evidence)
    assert_mean(weights, 1.0)


def test_initial_values_from_the_data_require_the_data():
    def amortized(y=None):
        center = numpyro.param("center", jnp.mean(y))
        numpyro.sample("rate", dist.LogNormal(center, 1.0))
        numpyro.sample("p", dist.Beta(2.0, 2.0))
        with numpyro.plate("group", 2):
            numpyro.sample("theta", dist.Normal(y, 1.0))

    g = adapted(amortized)
    with pytest.raises(GuideError, match="guide parameter 'center': its initial value is computed"):
        start(g)
    np.testing.assert_allclose(start(g, BATCH)["center"], Y.mean())
    shifted = Batch({"y": BATCH.data["y"] + 1})
    np.testing.assert_allclose(start(g, shifted)["center"], Y.mean() + 1)
    original = g.draw(start(g, BATCH), SPACE, jax.random.key(0), BATCH)
    after_shift = g.draw(start(g, BATCH), SPACE, jax.random.key(0), shifted)
    np.testing.assert_allclose(after_shift.z["theta"], original.z["theta"] + 1, rtol=1e-5)


def test_equal_functions_are_equal_guides():
    def guide_with(scale):
        def guide(y=None):
            numpyro.sample("rate", dist.LogNormal(0.0, scale))
            numpyro.sample("p", dist.Beta(2.0, 2.0))
            with numpyro.plate("group", 2):
                numpyro.sample("theta", dist.Normal(0.0, 1.0))

        return guide

    assert adapted(guide_with(1.0)) == adapted(guide_with(1.0))
    assert hash(adapted(guide_with(1.0))) == hash(adapted(guide_with(1.0)))
    assert adapted(guide_with(1.0)) != adapted(guide_with(2.0))
    assert repr(adapted(guide)) == "NumPyroFunction(guide)"


def without(name):
    def function(y=None):
        for site, distribution in {
            "rate": dist.LogNormal(0.0, 1.0),
            "p": dist.Beta(2.0, 2.0),
            "theta": dist.Normal(0.0, 1.0).expand([2]),
        }.items():
            if site != name:
                numpyro.sample(site, distribution)

    return function


def also(name, distribution, **options):
    def function(y=None):
        without(name)(y)
        numpyro.sample(name, distribution, **options)

    return function


def with_module_state(y=None):
    numpyro.primitives.mutable("state", {"mean": jnp.zeros(())})
    without(None)(y)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (without("p"), r"site 'p': expected a numpyro.sample.*got only \['rate', 'theta'\].*prior"),
        (also("thta", dist.Normal(0, 1)), r"site 'thta': .*Did you mean 'theta'\?"),
        (
            also("theta", dist.Normal(0.0, 1.0).expand([3])),
            r"site 'theta': expected the model's shape \(2,\), got \(3,\)",
        ),
        (also("rate", dist.Poisson(3.0)), "site 'rate': Poisson is discrete"),
        (with_module_state, "mutable 'state': mutable state in a guide is not supported"),
        (lambda: None, "failed while being traced with TypeError"),
        (lambda y=None: float(y[0]), "failed while being traced with .*Error"),
    ],
)
def test_invalid_guide_functions_raise_errors(function, message):
    with pytest.raises(GuideError, match=message):
        adapted(function)


def test_auxiliary_sites_may_have_any_shape_and_name():
    options = {"infer": {"is_auxiliary": True}}
    g = adapted(also("h", dist.Normal(0.0, 1.0).expand([7]), **options))
    assert g.draw({}, SPACE, jax.random.key(0), BATCH).log_q.shape == ()


def test_a_support_that_depends_on_a_parameter_of_the_model():
    def learned(y):
        top = numpyro.param("top", 2.0)
        u = numpyro.sample("u", dist.Uniform(0.0, top))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y)

    def function(y):
        numpyro.sample("u", dist.Uniform(0.0, 1.0))

    arguments, _ = split(learned, (Y,), {})
    with pytest.raises(GuideError, match=r"site 'u': its support depends on .*'top'"):
        adapt(function, learned, arguments, build(learned, arguments))


def test_dependence_through_inner_jaxprs():
    def function(source, other):
        inner = jax.jit(lambda a: a * 2)(source)
        return {"dependent": inner + other, "independent": jnp.sin(other), "constant": jnp.ones(2)}

    found = dependent(function, jnp.ones(()), jnp.ones(()))
    assert found == {"dependent": True, "independent": False, "constant": False}


@pytest.mark.parametrize(
    ("prior", "q"),
    [
        (dist.Uniform(0.0, 1.0), dist.Normal(0.5, 0.1)),
        (dist.Gamma(2.0, 1.0), dist.Normal(0.5, 0.1)),
        (dist.Beta(2.0, 1.0), dist.LogNormal(0.0, 1.0)),
        (
            dist.Gamma(2.0, 1.0).expand([2]).to_event(1),
            dist.Normal(0.0, 1.0).expand([2]).to_event(1),
        ),
        (dist.Dirichlet(jnp.ones(3)), dist.MultivariateNormal(jnp.zeros(3), jnp.eye(3))),
    ],
)
def test_a_guide_that_leaves_the_support_is_refused(prior, q):
    def bounded():
        numpyro.sample("x", prior)

    def unbounded():
        numpyro.sample("x", q)

    arguments, _ = split(bounded, (), {})
    with pytest.raises(GuideError, match=r"'unbounded', site 'x'.*support.*on .*Real|on Positive"):
        adapt(unbounded, bounded, arguments, build(bounded, arguments))


def test_parameters_of_the_guide_and_of_the_model_are_not_shared():
    def shared():
        s = numpyro.param("s", 1.0)
        numpyro.sample("x", dist.Normal(s, 1.0))

    arguments, _ = split(shared, (), {})
    with pytest.raises(GuideError, match=r"'shared', param 's'.*not shared"):
        adapt(shared, shared, arguments, build(shared, arguments))
