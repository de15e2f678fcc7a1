"""Components whose order does not change the density: found, and labeled alike in all draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from tests.posteriors import replaced
from vijax.contracts import Batch, Variables
from vijax.diagnostics.importance import Draws
from vijax.model import split_and_build
from vijax.posterior.components import Components
from vijax.posterior.label_switching import exchangeable, relabel
from vijax.posterior.relabeling import permuted
from vijax.runtime.errors import GuideError

RNG = np.random.default_rng(0)
LOCATIONS = np.array([-4.0, 0.0, 4.0])
LABELS = RNG.integers(0, 3, 60)
Y = (LOCATIONS[LABELS] + 0.5 * RNG.normal(size=60)).astype(np.float32)


def mixture(y, num=3, location=None):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(num)))
    with numpyro.plate("components", num):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0) if location is None else location)
    sigma = numpyro.sample("sigma", dist.HalfNormal(jnp.ones(num)).to_event(1))
    numpyro.sample("other", dist.Normal(jnp.arange(float(num)), 1.0).to_event(1))
    with numpyro.plate("rows", len(y)):
        k = numpyro.sample("k", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(mu[k], sigma[k]), obs=y)


def ordered(y):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    base, to_ordered = dist.Normal(0, 5).expand([3]).to_event(1), dist.transforms.OrderedTransform()
    mu = numpyro.sample("mu", dist.TransformedDistribution(base, to_ordered))
    with numpyro.plate("rows", len(y)):
        k = numpyro.sample("k", dist.Categorical(w))
        numpyro.sample("y", dist.Normal(mu[k], 0.5), obs=y)


def same_family(y):
    """A mixture distribution without a discrete site, of vectors with as many entries."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros((2, 2)), 5.0).to_event(2))
    of_components = dist.Normal(mu, jnp.array([1.0, 2.0])).to_event(1)
    with numpyro.plate("rows", len(y) // 2):
        mixed = dist.MixtureSameFamily(dist.Categorical(w), of_components)
        numpyro.sample("y", mixed, obs=y.reshape(-1, 2))


def hidden_markov(y):
    start = numpyro.sample("start", dist.Dirichlet(jnp.ones(2)))
    moves = numpyro.sample("moves", dist.Dirichlet(jnp.ones((2, 2)) + jnp.eye(2)).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 5.0).to_event(1))

    def step(state, y):
        state = numpyro.sample("state", dist.Categorical(moves[state]))
        numpyro.sample("y", dist.Normal(mu[state], 1.0), obs=y)
        return state, None

    scan(step, numpyro.sample("first", dist.Categorical(start)), y)


class Fitted:
    """What the search for exchangeable components needs of a fit, at draws of our own."""

    def __init__(self, model, *args):
        _, data, self.target = split_and_build(model, args, {}, None)
        self.batch, self.variables, self.mutable = Batch(data), Variables({}), {}
        self.relabeling, self.missing = (), ()
        points = 0.7 * jax.random.normal(jax.random.key(0), (8, self.target.space.dim))
        draws = Draws(jax.vmap(self.target.space.unravel)(points), np.zeros(8), np.zeros(8))
        self.assessment = type("", (), {"draws": jax.device_get(draws)})


def found(model, *args):
    return exchangeable(Fitted(model, *args))


def test_what_is_permuted_together_is_found():
    axes = (("w", 0), ("mu", 0), ("sigma", 0))  # not `other`, whose prior has an order
    assert found(mixture, Y, 2) == (Components(2, axes),)
    assert found(same_family, Y) == (Components(2, (("w", 0), ("mu", 0))),)


@pytest.mark.slow
def test_states_of_a_chain_are_permuted_with_rows_and_columns_of_its_matrix():
    moves = (("start", 0), ("moves", 0), ("moves", 1), ("mu", 0))
    assert found(hidden_markov, Y) == (Components(2, moves),)


def test_components_that_differ_are_not_exchangeable():
    fitted = Fitted(ordered, Y)
    assert exchangeable(fitted) == ()
    with pytest.raises(GuideError, match="relabel: expected a model with components of a discrete"):
        relabel(fitted, jax.random.key(0))
    assert found(mixture, Y, 3, dist.Normal(jnp.array([0.0, 1.0, 0.0]), 5.0)) == ()


@pytest.fixture(scope="module")
def one_mode():
    """The mode of the labels -4, 0, 4 alone."""
    init = {"w": np.ones(3) / 3, "mu": LOCATIONS, "sigma": np.full(3, 0.5), "other": np.arange(3.0)}
    return vijax.fit(mixture, Y, guide="laplace", init=init, progress_bar=False)


def test_draws_of_all_orders_are_labeled_alike(one_mode):
    result = one_mode._result
    z = result.assessment.draws.z
    z = {name: value[:600] for name, value in z.items()}
    axes = (("w", 0), ("mu", 0), ("sigma", 0))
    order = np.array([RNG.permutation(3) for _ in range(600)])
    switched, _ = permuted(result, z, axes, [order] * 3)
    assessment = result.assessment._replace(chain_states=switched)
    posterior = replaced(one_mode, assessment=assessment)
    mixed = posterior.sample(600, corrected=True)["mu"]
    np.testing.assert_allclose(mixed.mean(0), LOCATIONS.mean(), atol=0.6)

    alike = posterior.relabel()
    draws = alike.sample(600, corrected=True)
    rank = np.argsort(draws["mu"].mean(0))
    expected = one_mode.sample(4000)
    for name in ("w", "mu", "sigma"):
        sd = expected[name].std(0)
        assert (abs(draws[name].mean(0)[rank] - expected[name].mean(0)) < 0.3 * sd).all()
        np.testing.assert_allclose(draws[name].std(0)[rank], sd, rtol=0.25)
    np.testing.assert_array_equal(np.argsort(draws["mu"], axis=1), np.tile(rank, (600, 1)))
    # the discrete values of the rows have the same labels
    agree = rank[LABELS] == draws["k"]
    assert agree.mean() > 0.98
    summary = alike.summary("mu", num_draws=500)
    np.testing.assert_allclose(np.sort(summary["mean"]), LOCATIONS, atol=0.5)
    assert "components of w, mu, sigma are relabeled" in str(summary)
    with pytest.raises(GuideError, match=r"before relabel\(\)"):
        alike.log_prob({name: draws[name] for name in one_mode.median()})


def test_relabeling_is_saved(one_mode, tmp_path):
    alike = one_mode.relabel()
    alike.save(tmp_path / "fit")
    again = vijax.load(tmp_path / "fit", mixture, Y)
    np.testing.assert_array_equal(again.sample(50)["mu"], alike.sample(50)["mu"])
    (relabeling,) = again._result.relabeling
    assert relabeling.components == Components(3, (("w", 0), ("mu", 0), ("sigma", 0)))


def test_label_switching_is_reported(one_mode):
    report = one_mode.report()
    text = "label switching: components of w, mu, sigma are exchangeable"
    assert report.startswith(f"status: {one_mode.status} ({text})")
    assert "posterior.relabel()" in report.splitlines()[-1]
    assert text in str(one_mode.summary())
    alike = one_mode.relabel().report()
    assert "components of w, mu, sigma are relabeled" in alike
    assert "posterior.relabel()" not in alike


@pytest.mark.slow
def test_an_automatic_fit_of_three_components():
    posterior = vijax.fit(mixture, Y, progress_bar=False)
    means = posterior.sample(4000)["mu"].mean(0)
    assert np.ptp(means) < 1.0
    alike = posterior.relabel()
    assert (np.sort(alike.sample(4000)["mu"].mean(0)) - LOCATIONS < 0.5).all()
    predicted = alike.predict(num_draws=1000)["y"].mean()
    assert predicted == pytest.approx(Y.mean(), abs=0.5)
