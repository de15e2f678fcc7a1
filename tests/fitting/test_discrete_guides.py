"""Discrete sites in the guide, which are not marginalized, with every gradient estimator."""

import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import binom, norm, poisson

import vijax
from vijax.contracts import Batch, LossContext, Variables
from vijax.diagnostics import enumeration
from vijax.families.discrete import Categorical, DiscretizedLogistic
from vijax.guides import Discrete, Mixed
from vijax.model import build, split
from vijax.objectives import ELBO, IWAE, ForwardKL, ScoreELBO, Tempered
from vijax.objectives.estimators.discrete import (
    NAMES,
    DisARM,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    Rebar,
    select_estimator,
)
from vijax.objectives.estimators.discrete.estimator import (
    EstimatorContext,
    Integrand,
    IntegrandValue,
)
from vijax.posterior.result import FitResult
from vijax.runtime.errors import GuideError, ModelError

KEYS = jax.random.split(jax.random.key(1), 4000)
X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
WEIGHTS = np.array([[1.5, -1.0], [-0.5, 2.0]], np.float32)


def network(x):
    """Two dependent local units in every row, and a global one."""
    low = numpyro.param("low", 0.3)
    top = numpyro.sample("top", dist.Bernoulli(0.3))
    with numpyro.plate("rows", len(x)):
        h = numpyro.sample("h", dist.Bernoulli(0.2 + 0.4 * top).expand([2]).to_event(1))
        logits = h @ jnp.asarray(WEIGHTS) - low + top
        numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def several(x):
    """A local site with three ordered values."""
    with numpyro.plate("rows", len(x)):
        n = numpyro.sample("n", dist.Binomial(2, 0.4))
        numpyro.sample("x", dist.Normal(1.3 * n[:, None], 1.0).to_event(1), obs=x)
    numpyro.sample("total", dist.Normal(jnp.sum(n), 1.0), obs=2.0)


@functools.cache
def problem(model):
    arguments, data = split(model, (X,), {})
    target = build(model, arguments, None, "all")
    guide, batch = Discrete(), Batch(data)
    origin = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}
    params = {
        name: own._replace(logits=jax.random.normal(jax.random.key(i), own.logits.shape))
        for i, (name, own) in enumerate(guide.init(KEYS[0], target.space, origin).items())
    }
    model_params = {"low": jnp.array(0.3)} if model is network else {}
    return target, guide, batch, Variables(params, model_params)


def perturbed(controls):
    """Perturbed parameters of control variates, which must not change the mean gradient."""
    leaves, structure = jax.tree.flatten(controls)
    keys = jax.random.split(jax.random.key(9), max(len(leaves), 1))
    pairs = zip(leaves, keys, strict=False)
    return structure.unflatten([a + 0.3 * jax.random.normal(key, a.shape) for a, key in pairs])


def exact(model):
    """The loss and its gradient, summed over all states."""
    target, guide, batch, variables = problem(model)
    sites = target.space.sites
    ranges = [range(site.cardinality) for site in sites for _ in range(site.size)]
    states = jnp.array(list(itertools.product(*ranges)))
    every = jax.vmap(target.space.unravel)(states)

    def loss(variables):
        def one(z):
            log_q = guide.log_prob(variables.guide, target.space, z, batch)
            return log_q, target.log_density(z, batch, variables.model)

        log_q, log_p = jax.vmap(one)(every)
        return jnp.sum(jnp.exp(log_q) * (log_q - log_p))

    return jax.jit(jax.value_and_grad(loss))(variables)


def estimates(model, objective, keys=KEYS):
    target, guide, batch, variables = problem(model)
    start = LossContext({}, KEYS[1], target, guide, batch, jnp.zeros(()))
    controls = (
        perturbed(objective.init_control_params(start)) if isinstance(objective, ELBO) else ()
    )

    def one(key):
        setting = start._replace(key=key, control_params=controls)
        return jax.value_and_grad(lambda at: objective(at, setting)[0])(variables)

    return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(keys)


CASES = [(network, name) for name in ("local", "disarm", "leave_one_out")]
CASES += [(several, name) for name in ("local", "leave_one_out", "rebar", "relax")]
CASES += [(several, Rebar(0.3, learned=True))]
SLOW = [(network, "rebar"), (network, "relax"), (network, Rebar(0.3, learned=True))]


@pytest.mark.parametrize(
    ("model", "name"), CASES + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW]
)
def test_the_elbo_and_its_gradient_are_unbiased(model, name):
    assert NAMES.get(name, name).unbiased
    found = estimates(model, ELBO(discrete=name))
    for got, want in zip(*map(jax.tree.leaves, (found, exact(model))), strict=True):
        got = np.asarray(got, float)
        error = 5 * got.std(0) / np.sqrt(len(KEYS)) + 1e-5
        assert (np.abs(got.mean(0) - want) < error).all()


def test_the_score_of_all_particles_is_unbiased():
    found = estimates(network, ScoreELBO(3))
    for got, want in zip(*map(jax.tree.leaves, (found, exact(network))), strict=True):
        got = np.asarray(got, float)
        error = 5 * got.std(0) / np.sqrt(len(KEYS)) + 1e-5
        assert (np.abs(got.mean(0) - want) < error).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gumbel_softmax", "straight_through"])
def test_biased_estimators_are_biased(name):
    assert not NAMES[name].unbiased
    loss, slopes = estimates(network, ELBO(discrete=name))
    want, want_slopes = exact(network)
    assert abs(loss.mean() - want) < 5 * loss.std() / np.sqrt(len(KEYS))
    z_scores = []
    for got, want in zip(*map(jax.tree.leaves, (slopes.guide, want_slopes.guide)), strict=True):
        z_scores.append((np.abs(got.mean(0) - want) / (got.std(0) / np.sqrt(len(KEYS)))).max())
    assert max(z_scores) > 5


@pytest.mark.slow
def test_gradients_of_rows_are_rao_blackwellized():
    """The variance of one row's gradient does not depend on the number of rows."""

    def slopes(rows):
        arguments, data = split(several_rows, (np.tile(X[:1], (rows, 1)),), {})
        target = build(several_rows, arguments, None, "all")
        guide = Discrete()
        start = {"h": jnp.zeros((rows, 2))}
        params = guide.init(jax.random.key(0), target.space, start)

        def one(key):
            setting = LossContext({}, key, target, guide, Batch(data), jnp.zeros(()))

            def loss(at):
                return ELBO(discrete="leave_one_out")(Variables(at), setting)[0]

            return jax.grad(loss)(params)["h"].logits[0]

        found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(KEYS)
        return np.asarray(found, float).var(0).sum()

    def several_rows(x):
        with numpyro.plate("rows", len(x)):
            h = numpyro.sample("h", dist.Bernoulli(0.3).expand([2]).to_event(1))
            logits = h @ jnp.asarray(WEIGHTS)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    assert slopes(30) == pytest.approx(slopes(1), rel=0.2)


def test_the_default_estimator():
    small = problem(network)[0]
    # four evaluations: the units of a row in turn, all rows in parallel, and the global unit
    assert select_estimator("auto", small.space, small.term_info(Batch({}))) == LocalExpectation()

    def many(x, units=20):
        with numpyro.plate("rows", len(x)):
            h = numpyro.sample("h", dist.Bernoulli(0.4).expand([units]).to_event(1))
            numpyro.sample("x", dist.Normal(jnp.sum(h, -1), 1.0), obs=x[:, 0])

    def counts(x):
        with numpyro.plate("rows", len(x)):
            n = numpyro.sample("n", dist.Poisson(3.0))
            numpyro.sample("x", dist.Normal(n, 1.0), obs=x[:, 0])

    for model, expected in ((many, DisARM()), (counts, LeaveOneOut())):
        target = build(model, split(model, (X,), {})[0], None, "all")
        assert select_estimator("auto", target.space, target.term_info(Batch({}))) == expected
        assert (
            select_estimator("leave_one_out", target.space, target.term_info(Batch({})))
            == LeaveOneOut()
        )


def rows(y):
    """Independent rows: the family contains the exact posterior."""
    with numpyro.plate("rows", len(y)):
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
        numpyro.deterministic("center", 2.0 * k)
        numpyro.sample("y", dist.Normal(2.0 * k, 1.0), obs=y)


Y = np.array([-0.5, 1.1, 2.9, 3.2], np.float32)


@functools.cache
def fitted():
    return vijax.fit(rows, Y, progress_bar=False)


def test_a_model_with_discrete_sites_only_is_fitted_exactly():
    posterior, num = fitted(), 20_000
    joint = np.log([0.2, 0.5, 0.3]) - 0.5 * (Y[:, None] - 2 * np.arange(3)) ** 2
    p = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    evidence = logsumexp(joint - 0.5 * np.log(2 * np.pi), axis=1).sum()
    assert posterior.elbo == pytest.approx(evidence, abs=5 * posterior.elbo_se + 0.01)
    assert posterior.log_evidence().value == pytest.approx(evidence, abs=0.02)
    assert posterior.status == "certified"
    draws = posterior.sample(num)
    share = (draws["k"][..., None] == np.arange(3)).mean(0)
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / num) + 0.01).all()
    np.testing.assert_allclose(posterior.discrete_probs()["k"], p, atol=0.01)
    with mock.patch.object(FitResult, "status", "corrected"):  # then of the corrected draws
        corrected = posterior.discrete_probs(num_draws=num)["k"]
    assert (np.abs(corrected - p) < 5 * np.sqrt(p * (1 - p) / num) + 0.01).all()
    np.testing.assert_array_equal(draws["center"], 2.0 * draws["k"])
    assert "in the guide: k (3 values); gradients by LocalExpectation()" in posterior.report()
    again = posterior.predict(num_draws=num)["y"]
    assert (np.abs(again.mean(0) - 2 * p @ np.arange(3)) < 5 * again.std(0) / 141 + 0.03).all()
    assert posterior.median()["k"].tolist() == [0, 1, 1, 1]
    values = {"k": np.argmax(p, axis=1)}
    assert posterior.log_prob(values) == pytest.approx(np.log(p.max(1)).sum(), abs=0.05)


def test_one_of_two_modes_of_discrete_sites_is_not_trusted(monkeypatch):
    monkeypatch.setattr(enumeration, "_MAX_STATES", 4)

    def aligned():
        with numpyro.plate("spins", 3):
            s = numpyro.sample("s", dist.Bernoulli(0.5))
        numpyro.factor("energy", 0.75 * jnp.sum(2 * s - 1) ** 2)

    posterior = vijax.fit(aligned, num_steps=1500, progress_bar=False)
    assert posterior.status == "approximate"
    assert "chains that change and swap discrete values differ" in posterior.report()


def test_saved_and_loaded(tmp_path):
    posterior = fitted()
    posterior.save(tmp_path / "fit.vijax")
    loaded = vijax.load(tmp_path / "fit.vijax", rows, Y)
    np.testing.assert_array_equal(loaded.sample(10)["k"], posterior.sample(10)["k"])
    on = loaded.resume(100, progress_bar=False)
    assert on.num_steps == posterior.num_steps + 100
    with pytest.raises(ModelError, match=r"nuts: .*'k'"):
        posterior.nuts()


RATE = 6.0


def events(y):
    with numpyro.plate("sites", len(y)):
        n = numpyro.sample("n", dist.Poisson(RATE))
        numpyro.sample("y", dist.Normal(n, 1.5), obs=y)


@pytest.mark.slow
def test_unbounded_counts():
    y = np.array([0.3, 5.2, 11.0], np.float32)
    posterior = vijax.fit(events, y, progress_bar=False)
    k = np.arange(60)
    joint = poisson.logpmf(k, RATE) + norm.logpdf(y[:, None], k, 1.5)
    p = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    mean = p @ k
    sd = np.sqrt(p @ k**2 - mean**2)
    found, evidence = posterior.log_evidence(), logsumexp(joint, axis=1).sum()
    assert abs(found.value - evidence) < 5 * found.se + 1e-3
    assert evidence - 0.1 < posterior.elbo < evidence + 5 * posterior.elbo_se
    num = 20_000
    draws = posterior.sample(num, corrected=True)["n"]
    assert (np.abs(draws.mean(0) - mean) < 8 * sd / np.sqrt(num) + 0.01).all()
    assert (np.abs(draws.std(0) / sd - 1) < 0.05).all()
    assert "n (countably many values); gradients by LeaveOneOut" in posterior.report()


def thinned(y):
    with numpyro.plate("sites", len(y)):
        n = numpyro.sample("n", dist.Poisson(12.0))
        numpyro.sample("y", dist.Binomial(n, 0.6), obs=y)


@pytest.mark.slow
def test_counts_with_lower_bounds_from_the_data():
    """At least as many as observed; the number of those missed is Poisson."""
    y, missed, num = np.array([0, 9, 30], np.int32), 12 * 0.4, 20_000
    posterior = vijax.fit(thinned, y, progress_bar=False)
    evidence, found = poisson.logpmf(y, 12 * 0.6).sum(), posterior.log_evidence()
    assert abs(found.value - evidence) < 5 * found.se + 1e-3
    assert evidence - 0.1 < posterior.elbo < evidence + 5 * posterior.elbo_se
    draws = posterior.sample(num, corrected=True)["n"]
    assert (draws >= y).all()
    assert (np.abs(draws.mean(0) - y - missed) < 8 * np.sqrt(missed / num) + 0.01).all()
    assert (np.abs(draws.std(0) / np.sqrt(missed) - 1) < 0.05).all()
    at = {"n": y + 4}
    # log q at given values of the model's site: close to the posterior's
    assert posterior.log_prob(at) == pytest.approx(3 * poisson.logpmf(4, missed), abs=0.2)
    started = vijax.fit(thinned, y, init=at, num_steps=10, progress_bar=False)
    assert np.abs(started.sample(500)["n"].mean(0) - y - 4).max() < 1.5


STEPS = np.array([1.0, 3.0], np.float32)


def units(x):
    bias = numpyro.sample("bias", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(x)):
        h = numpyro.sample("h", dist.Bernoulli(0.4).expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(bias + h @ jnp.asarray(STEPS), 0.5), obs=x)


@pytest.mark.slow
def test_discrete_sites_with_a_guide_for_continuous_sites():
    x = np.array([0.2, 3.4, 1.3, 4.2, 3.0], np.float32)
    posterior = vijax.fit(units, x, num_steps=3000, progress_bar=False)
    assert isinstance(posterior.guide, Mixed)
    h, grid = (
        np.array(list(itertools.product([0, 1], repeat=2))),
        np.linspace(-6, 6, 4001),
    )
    prior = binom.logpmf(h, 1, 0.4).sum(1)
    rows = norm.logpdf(x[:, None, None], grid[:, None] + h @ STEPS, 0.5) + prior
    joint = logsumexp(rows, axis=2).sum(0) + norm.logpdf(grid)
    evidence = logsumexp(joint) + np.log(grid[1] - grid[0])
    found = posterior.log_evidence()
    assert abs(found.value - evidence) < 5 * found.se + 0.02
    assert evidence - 0.5 < posterior.elbo < evidence + 5 * posterior.elbo_se
    weight = np.exp(joint - logsumexp(joint))
    draws = posterior.sample(4000, corrected=True)
    assert abs(draws["bias"].mean() - weight @ grid) < 0.03
    share = np.einsum("g,ngk,ku->nu", weight, np.exp(rows - logsumexp(rows, 2, keepdims=True)), h)
    assert np.abs(draws["h"].mean(0) - share).max() < 0.05


def mixture(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(mu + 4.0 * z, 1.0), obs=y)


@pytest.mark.slow
def test_sites_are_marginalized_unless_a_guide_is_named_for_them():
    y = np.array([-1.0, 0.2, 3.5, 4.4], np.float32)
    marginalized = vijax.fit(mixture, y, progress_bar=False)
    assert marginalized.space.names == ("mu",)
    options = {"num_steps": 1500, "progress_bar": False}
    sampled = vijax.fit(mixture, y, guide={"z": "discrete", ...: "fullrank"}, **options)
    assert sampled.space.names == ("mu", "z")
    assert sampled.elbo < marginalized.elbo + 0.01
    shares = [p.sample(4000)["z"].mean(0) for p in (marginalized, sampled)]
    assert np.abs(shares[0] - shares[1]).max() < 0.1
    flat = vijax.fit(mixture, y, guide={"z": Discrete(), ...: "meanfield"}, objective=Tempered())
    assert "LocalExpectation" in flat.report()


@pytest.mark.slow
def test_minibatches():
    rng = np.random.default_rng(0)
    y = (4 * rng.integers(0, 2, 200) + 0.5 + rng.normal(size=200)).astype(np.float32)
    guide = {"z": "discrete", ...: "fullrank"}
    options = {"num_steps": 3000, "progress_bar": False}
    posterior = vijax.fit(mixture, y, batch_size=50, guide=guide, **options)
    whole = vijax.fit(mixture, y, progress_bar=False).summary().loc["mu"]
    mu = posterior.sample(2000)["mu"]
    assert abs(mu.mean() - whole["mean"]) < whole["sd"]
    assert posterior.sample(10)["z"].shape == (10, 200)


@pytest.mark.slow
def test_other_objectives_use_score_function_gradients():
    y = np.array([-1.0, 0.2, 3.5, 4.4], np.float32)
    guide = {"z": "discrete", ...: "meanfield"}
    evidence = vijax.fit(mixture, y, progress_bar=False).log_evidence().value
    for objective in (ScoreELBO(32), ForwardKL(64)):
        posterior = vijax.fit(
            mixture, y, guide=guide, objective=objective, num_steps=1500, progress_bar=False
        )
        found = posterior.log_evidence()
        assert abs(found.value - evidence) < 5 * found.se + 0.02
    with pytest.raises(GuideError, match=r"site 'z' are discrete\. Use ELBO"):
        vijax.fit(mixture, y, guide=guide, objective=IWAE(4), num_steps=10, progress_bar=False)


def test_the_predictive_density_averages_over_sampled_discrete_sites():
    def which(y):
        k = numpyro.sample("k", dist.Categorical(jnp.ones(3) / 3))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(1.0 * k, 2.0), obs=y)

    y, new = np.array([0.5, 1.5, 2.5], np.float32), np.array([3.0, -1.0, 0.0, 4.0], np.float32)
    options = {"guide": "discrete", "num_steps": 1500, "progress_bar": False}
    posterior = vijax.fit(which, y, **options)
    log_joint = norm.logpdf(y[:, None], np.arange(3), 2.0).sum(0)
    weights = np.exp(log_joint - logsumexp(log_joint))
    expected = np.log(norm.pdf(new[:, None], np.arange(3), 2.0) @ weights)
    found = posterior.log_predictive_density(new, num_draws=4000)["y"]
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_temperatures_decrease_with_the_phase():
    """The bias of the relaxed gradient decreases with the temperature."""
    estimator = GumbelSoftmax((1.0, 0.1))

    def slope(phase):
        def one(key):
            def loss(logits):
                def f(states):
                    b = states["b"]
                    hot = b if b.ndim == 2 else jax.nn.one_hot(b, 2)
                    value = jnp.sum((hot[:, 1] - 0.3) ** 2)
                    return IntegrandValue(value, {"b": value[None]})

                return estimator.estimate(
                    key, {"b": Categorical(logits)}, Integrand(f), EstimatorContext(phase)
                )[0]

            return jax.grad(loss)(jnp.zeros((1, 1)))[0, 0]

        return np.asarray(jax.jit(jax.vmap(one))(KEYS), float)

    truth = (0.7**2 - 0.3**2) / 4
    early, late = abs(slope(0.0).mean() - truth), slope(1.0)
    assert early > 5 * slope(0.0).std() / np.sqrt(len(KEYS))
    assert abs(late.mean() - truth) < 5 * late.std() / np.sqrt(len(KEYS)) + early / 3


def partitions(y):
    n = numpyro.sample("n", dist.Multinomial(3, jnp.array([0.5, 0.5])))
    numpyro.sample("y", dist.Normal(jnp.sum(n), 1.0), obs=y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": {"k": "discrete", "mu": "meanfield"}}, "'mu': expected one of the model's"),
        ({"objective": ELBO(discrete="disarm")}, "'disarm'.*2 values, got 'k' with 3 values"),
    ],
)
def test_misuse_is_reported(options, message):
    with pytest.raises(GuideError, match=message):
        vijax.fit(rows, Y, num_steps=10, progress_bar=False, **options)


def test_unknown_names_and_unsupported_sites():
    with pytest.raises(ValueError, match=r"discrete: .*Did you mean 'disarm'"):
        ELBO(discrete="disarms")
    with pytest.raises(ModelError, match="site 'n'"):
        vijax.fit(partitions, 3.0, progress_bar=False)


def test_the_family_of_counts_is_a_distribution():
    family = DiscretizedLogistic(
        jnp.log(jnp.array([0.4, 5.0, 300.0])), jnp.log(jnp.array([0.3, 2.0, 4.0]))
    )
    k = jnp.arange(2000)[:, None]
    p = np.exp(np.asarray(jax.vmap(family.log_prob)(k), float))
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-4)
    draws = np.asarray(jax.vmap(family.draw)(KEYS))
    mean = (np.arange(2000)[:, None] * p).sum(0)
    sd = np.sqrt((np.arange(2000)[:, None] ** 2 * p).sum(0) - mean**2)
    assert (np.abs(draws.mean(0) - mean) < 5 * sd / np.sqrt(len(KEYS)) + 1e-3).all()
