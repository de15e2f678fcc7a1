"""Fits of models with discrete sites: marginalized by default, exact evidence, exact draws."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.special import logsumexp
from scipy.stats import norm

import vijax

Y = np.array([-1.3, 0.2, 2.9, 0.7], np.float32)
WEIGHTS = np.array([0.2, 0.5, 0.3])
SHIFTS = np.array([-2.0, 0.0, 3.0])
STEPS = np.array([[0.7, 0.2, 0.1], [0.15, 0.6, 0.25], [0.3, 0.3, 0.4]])
GRID = np.linspace(-6, 6, 4001)


def mixture(y):
    mu = numpyro.sample("mu", dist.Normal(0.3, 1.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.asarray(WEIGHTS)))
        numpyro.deterministic("center", mu + jnp.asarray(SHIFTS)[z])
        numpyro.sample("y", dist.Normal(mu + jnp.asarray(SHIFTS)[z], 1.0), obs=y)


def markov(y, length=4):
    mu = numpyro.sample("mu", dist.Normal(0.3, 1.0))

    def step(x, y):
        x = numpyro.sample("x", dist.Categorical(jnp.asarray(STEPS)[x]))
        numpyro.sample("y", dist.Normal(mu + jnp.asarray(SHIFTS)[x], 0.5), obs=y)
        return x, None

    scan(step, 0, y, length=length)


@functools.cache
def fitted():
    return vijax.fit(mixture, Y, progress_bar=False)


@functools.cache
def exact():
    """The log evidence, and the probability of each value of `z` by row, by quadrature."""
    terms = np.log(WEIGHTS) + norm.logpdf(Y[:, None], GRID[:, None, None] + SHIFTS)
    rows = logsumexp(terms, axis=2)
    joint = rows.sum(1) + norm.logpdf(GRID, 0.3, 1.0)
    evidence = logsumexp(joint) + np.log(GRID[1] - GRID[0])
    posterior = np.exp(joint - logsumexp(joint))
    return evidence, np.einsum("g,gnk->nk", posterior, np.exp(terms - rows[..., None]))


def test_the_evidence_is_exact():
    posterior = fitted()
    found = posterior.importance(4000, rng_key=1)
    assert abs(found.log_evidence - exact()[0]) < 5 * found.log_evidence_se + 1e-3
    assert posterior.elbo < exact()[0] + 5 * posterior.elbo_se
    assert posterior.space.names == ("mu",)
    assert "discrete sites, marginalized exactly: z (3 values)" in posterior.report()


def test_draws_of_the_states_follow_their_posterior():
    num = 8000
    draws = fitted().sample(num)
    np.testing.assert_allclose(draws["center"], draws["mu"][:, None] + SHIFTS[draws["z"]], 1e-5)
    fraction = (draws["z"][..., None] == np.arange(3)).mean(0)
    p = exact()[1]
    assert (np.abs(fraction - p) < 5 * np.sqrt(p * (1 - p) / num) + 0.01).all()


def labels(y, mu):
    """The mean over draws of the exact probabilities of `z` given each, `(rows, 3)`."""
    terms = np.log(WEIGHTS) + norm.logpdf(y[:, None], mu[:, None, None].astype(float) + SHIFTS)
    return np.exp(terms - logsumexp(terms, axis=2, keepdims=True)).mean(0)


def test_probabilities_of_labels_of_fitted_and_of_new_rows():
    posterior, num = fitted(), 700  # not a multiple of the size of a block
    mu = posterior.sample(num, rng_key=5)["mu"]
    found = posterior.discrete_probs(num_draws=num, rng_key=5)
    assert found.keys() == {"z"}
    np.testing.assert_allclose(found["z"], labels(Y, mu), atol=1e-5)
    new = np.array([0.0, -9.0, 1.2, 4.0, 40.0], np.float32)
    found = posterior.discrete_probs(new, num_draws=num, rng_key=5)
    np.testing.assert_allclose(found["z"], labels(new, mu), atol=1e-5)


def test_a_label_can_be_set():
    with pytest.raises(vijax.ModelError, match=r"do\['z'\]: .*support, .*upper_bound=2.*got 3"):
        fitted().predict(do={"z": 3})
    draws = fitted().predict(do={"z": [0, 0, 2, 2]}, num_draws=4)["center"]
    np.testing.assert_allclose(draws[:, 2:] - draws[:, :2], np.full((4, 2), 5.0), rtol=1e-5)


def states(y, mu):
    """The mean over draws of the exact probabilities of the states of `markov`, by enumeration."""
    paths = np.array(list(itertools.product(range(3), repeat=len(y))))
    previous = np.pad(paths, ((0, 0), (1, 0)))[:, :-1]
    prior = np.log(STEPS[previous, paths]).sum(1)
    total = 0.0
    for one in mu.astype(float):
        joint = prior + norm.logpdf(y, one + SHIFTS[paths], 0.5).sum(1)
        weights = np.exp(joint - logsumexp(joint))
        total = total + np.einsum("p,ptk->tk", weights, paths[..., None] == np.arange(3))
    return total / len(mu)


@pytest.mark.slow
def test_probabilities_of_states_of_fitted_and_of_new_sequences():
    y, new = Y, np.array([-1.0, 0.5, 0.4, 2.2, 3.3, -2.1], np.float32)
    posterior = vijax.fit(markov, y, guide="laplace", progress_bar=False)
    mu = posterior.sample(40, rng_key=5)["mu"]
    found = posterior.discrete_probs(num_draws=40, rng_key=5)
    np.testing.assert_allclose(found["x"], states(y, mu), atol=1e-5)
    found = posterior.discrete_probs(new, length=6, num_draws=40, rng_key=5)
    np.testing.assert_allclose(found["x"], states(new, mu), atol=1e-5)
    with pytest.raises(vijax.ModelError, match=r"discrete_probs: .*Pass the observations"):
        posterior.discrete_probs(None, length=6)


def test_each_draw_has_its_own_states():
    posterior = fitted()
    z, mu = (posterior.sample(600)[name] for name in ("z", "mu"))
    same = posterior.sample(600)
    assert (same["z"] == z).all()
    assert (same["mu"] == mu).all()
    # neighbors in the list of draws are independent, also across blocks of one program
    centered = z - z.mean(0)
    lagged = (centered[1:] * centered[:-1]).mean(0) / centered.var(0)
    assert np.abs(lagged).max() < 5 / np.sqrt(600)


def test_predictions_use_the_states_of_the_fitted_rows():
    posterior, num = fitted(), 8000
    again = posterior.predict(num_draws=num)["y"]
    expected = exact()[1] @ SHIFTS
    drift = posterior.sample(num)["mu"].mean()
    error = 5 * again.std(0) / np.sqrt(num)
    assert (np.abs(again.mean(0) - expected - drift) < error + 0.03).all()
    # new rows have the mixture distribution
    new = posterior.predict(np.zeros(7, np.float32), num_draws=num)["y"]
    assert new.shape == (num, 7)
    assert abs(new.mean() - WEIGHTS @ SHIFTS - drift) < 5 * new.std() / np.sqrt(num) + 0.03


@pytest.mark.slow
def test_a_chain_continues_from_its_last_state():
    y = np.array([-2.0, 3.0, 2.8, 3.1], np.float32)  # the last state is 2
    posterior = vijax.fit(markov, y, progress_bar=False)
    draws = posterior.sample(500)
    assert draws["x"].shape == (500, 4)
    assert (draws["x"][:, 1:] == 2).all()
    ahead = posterior.predict(np.zeros(5, np.float32), length=5, num_draws=4000)["y"][:, 4]
    expected = STEPS[2] @ SHIFTS + posterior.sample(4000)["mu"].mean()
    assert abs(ahead.mean() - expected) < 5 * ahead.std() / np.sqrt(4000) + 0.02


def test_pointwise_log_likelihoods_and_export():
    posterior = fitted()
    draws = posterior.sample(50, rng_key=3)["mu"].astype(float)
    terms = np.log(WEIGHTS) + norm.logpdf(Y[:, None], draws[:, None, None] + SHIFTS)
    got = posterior.log_likelihood(50, rng_key=3)["y"]
    np.testing.assert_allclose(got, logsumexp(terms, axis=2), atol=1e-4)
    tree = posterior.to_datatree(num_draws=20)
    assert dict(tree["posterior"]["z"].sizes) == {"chain": 1, "draw": 20, "rows": 4}


def test_saved_and_loaded_without_its_data(tmp_path):
    path = tmp_path / "fit.vijax"
    fitted().save(path)
    with_data = vijax.load(path, mixture, Y).sample(10)
    np.testing.assert_array_equal(with_data["z"], fitted().sample(10)["z"])
    without = vijax.load(path, mixture).sample(10)
    assert without.keys() == {"mu"}  # states are sampled given the data


@pytest.mark.parametrize("guide", ["meanfield", "laplace", "lowrank"])
def test_any_guide_fits_it(guide):
    posterior = vijax.fit(mixture, Y, guide=guide, progress_bar=False)
    found = posterior.importance(4000, rng_key=1)
    assert abs(found.log_evidence - exact()[0]) < 5 * found.log_evidence_se + 1e-3


@pytest.mark.slow
def test_gradient_steps_on_minibatches_of_a_mixture():
    rng = np.random.default_rng(0)
    y = (rng.choice(SHIFTS, p=WEIGHTS, size=400) + 0.4 + rng.normal(size=400)).astype(np.float32)

    def model(y, size=None):
        mu = numpyro.sample("mu", dist.Normal(0.3, 1.0))
        with numpyro.plate("rows", len(y), subsample_size=size) as rows:
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(WEIGHTS)))
            numpyro.sample("y", dist.Normal(mu + jnp.asarray(SHIFTS)[z], 1.0), obs=y[rows])

    whole = vijax.fit(model, y, progress_bar=False).summary().loc["mu"]
    options = {"guide": "fullrank", "num_steps": 3000, "progress_bar": False}
    batches = vijax.fit(model, y, size=50, **options)
    part = batches.summary().loc["mu"]
    assert abs(part["mean"] - whole["mean"]) < 0.3 * whole["sd"]
    assert part["sd"] == pytest.approx(whole["sd"], rel=0.25)
    assert batches.sample(5)["z"].shape == (5, 400)


@pytest.mark.slow
def test_minibatches_of_a_mixture_that_is_written_for_all_rows():
    rng = np.random.default_rng(0)
    y = (rng.choice(SHIFTS, p=WEIGHTS, size=400) + 0.4 + rng.normal(size=400)).astype(np.float32)
    whole = vijax.fit(mixture, y, progress_bar=False).summary().loc["mu"]
    options = {"guide": "fullrank", "num_steps": 3000, "progress_bar": False}
    posterior = vijax.fit(mixture, y, batch_size=50, **options)
    part = posterior.summary().loc["mu"]
    assert abs(part["mean"] - whole["mean"]) < 0.3 * whole["sd"]
    assert part["sd"] == pytest.approx(whole["sd"], rel=0.25)
    draws = posterior.sample(200)
    assert draws["z"].shape == (200, 400)
    np.testing.assert_allclose(draws["center"], draws["mu"][:, None] + SHIFTS[draws["z"]], 1e-5)


def test_the_gradient_is_finite_where_a_state_has_probability_zero():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.3, 1.0))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(jnp.array([0.5, 0.5, 0.0])))
            numpyro.sample("y", dist.Normal(mu + jnp.asarray(SHIFTS)[z], 1.0), obs=y)

    target = vijax.fit(model, Y, guide="laplace", progress_bar=False)._result.target
    batch = fitted()._result.batch
    value, gradient = jax.value_and_grad(target.log_density)({"mu": jnp.array(0.8)}, batch)
    assert np.isfinite(value)
    assert np.isfinite(gradient["mu"])


@pytest.mark.parametrize("strategy", ["init_to_median", "init_to_uniform", "init_to_sample"])
def test_numpyro_strategies_initialize_it(strategy):
    init = getattr(numpyro.infer, strategy)()
    options = {"guide": "meanfield", "num_steps": 1500, "progress_bar": False}
    mean = vijax.fit(mixture, Y, init=init, **options).sample(4000)["mu"].mean()
    assert abs(mean - fitted().sample(4000)["mu"].mean()) < 0.1
