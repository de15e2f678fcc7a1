"""Posteriors on which a status was wrong: `certified` and `corrected` hold or are not given."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

import vijax

RNG = np.random.default_rng(0)
TWO_GROUPS = np.concatenate([RNG.normal(-3, 1, 120), RNG.normal(2, 1, 80)]).astype(np.float32)
X = RNG.uniform(0, 1, 60).astype(np.float32)
STEEP = (3 + 20 * X + 0.2 * RNG.normal(size=60)).astype(np.float32)
COUNTS = RNG.poisson(3e5, 20).astype(np.float32)
REAL = dist.ImproperUniform(constraints.real, (), ())


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def mixture(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
    w = numpyro.sample("w", dist.Beta(2, 2))
    with numpyro.plate("n", y.shape[0]):
        components = dist.Categorical(jnp.stack([w, 1 - w])), dist.Normal(mu, 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(*components), obs=y)


def share_of_order(posterior):
    mu = np.asarray(posterior.sample(4000)["mu"])
    return np.mean(mu[:, 0] < mu[:, 1])


@pytest.mark.parametrize(
    "options",
    [
        {"guide": "laplace"},
        {"guide": "fullrank", "batch_size": 50, "num_steps": 500},
    ],
    ids=str,
)
def test_a_named_guide_at_one_of_two_modes_is_not_trusted(options):
    posterior = fit(mixture, TWO_GROUPS, **options)
    assert posterior.status == "approximate"
    assert "separate modes were found" in posterior.report()


def test_the_default_fit_on_minibatches_has_both_modes():
    posterior = fit(mixture, TWO_GROUPS, batch_size=50)
    assert posterior.status in ("certified", "corrected")
    assert abs(share_of_order(posterior) - 0.5) < 0.05


def test_modes_that_were_not_searched_for_are_said_to_be_so(monkeypatch):
    monkeypatch.setattr("vijax.auto.mode_search._MAX_DIM", 2)
    posterior = fit(mixture, TWO_GROUPS, guide="laplace")
    assert posterior.status == "approximate"
    assert "other modes were not searched for: more than 2 dimensions" in posterior.report()


def two_normals(first, second, prior, shape=()):
    """Equal masses at two normal distributions, as a factor on a normal prior."""

    def model():
        x = numpyro.sample("x", prior.expand(shape).to_event(len(shape)))
        one, other = (q.log_prob(x).sum() for q in (first, second))
        numpyro.factor("target", jnp.logaddexp(one, other) - jnp.log(2.0) - prior.log_prob(x).sum())

    return model


FAR = two_normals(dist.Normal(30.0, 3.0), dist.Normal(90.0, 3.0), dist.Normal(50.0, 50.0))
NARROW = two_normals(dist.Normal(0.0, 0.1), dist.Normal(0.0, 1.0), dist.Normal(0.0, 1.0), (10,))


@pytest.mark.parametrize("key", [0, 1])
def test_modes_far_from_the_origin_are_found_from_the_prior(key):
    posterior = fit(FAR, rng_key=key)
    assert posterior.status in ("certified", "corrected")
    assert abs(np.mean(posterior.sample(4000)["x"] > 60) - 0.5) < 0.04
    assert abs(posterior.log_evidence().value) < 0.02


def test_a_narrow_mode_inside_of_a_broad_one_is_found():
    posterior = fit(NARROW)
    inside = np.abs(posterior.sample(4000)["x"]).max(axis=1) < 0.45
    assert abs(inside.mean() - 0.5) < 0.05
    assert abs(posterior.log_evidence().value) < 0.02


def regression(x, y=None):
    w = numpyro.sample("w", dist.Exponential(5.0))
    b = numpyro.sample("b", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.HalfNormal(10))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(b + w * x, s), obs=y)


@pytest.mark.parametrize("key", [0, 2])
def test_the_steep_mode_far_out_in_the_prior_wins(key):
    posterior = fit(regression, X, STEEP, rng_key=key)
    assert abs(posterior.elbo + 100) < 5
    assert abs(posterior.sample(1000)["w"].mean() - 20) < 0.5


def flat():
    numpyro.sample("x", REAL)


def ridge():
    a, b = numpyro.sample("a", REAL), numpyro.sample("b", REAL)
    numpyro.sample("y", dist.Normal(a + b, 1), obs=jnp.ones(3))


def separated():
    x = np.linspace(-2, 2, 40, dtype=np.float32)
    b = numpyro.sample("b", REAL)
    numpyro.sample("y", dist.Bernoulli(logits=b * x), obs=x > 0)


@pytest.mark.parametrize(
    ("model", "direction"),
    [(flat, "x up"), (ridge, "a"), (separated, "b up")],
)
def test_improper_posteriors_fail_by_name(model, direction):
    posterior = fit(model)
    assert posterior.status == "failed"
    assert "the posterior is improper" in posterior.report()
    assert direction in posterior.report()


@pytest.mark.parametrize(
    "prior",
    [dist.Cauchy(0, 1), dist.Gamma(0.01, 0.01), dist.HalfCauchy(1), dist.Beta(0.5, 0.5)],
    ids=lambda prior: type(prior).__name__,
)
def test_heavy_tails_are_not_improper(prior):
    def flat_times_density():  # sites with a proper prior are not looked at
        x = numpyro.sample("x", dist.ImproperUniform(prior.support, (), ()))
        numpyro.factor("density", prior.log_prob(x))

    posterior = fit(flat_times_density)
    assert posterior._result.target.structure.improper == ("x",)
    assert "improper" not in posterior.report()


def counts(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1e-5))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def test_rounding_of_large_counts_is_in_the_error_of_the_evidence():
    y = COUNTS.astype(float)
    alpha, beta = 2.0 + y.sum(), 1e-5 + len(y)
    exact = 2 * np.log(1e-5) - gammaln(2.0) + gammaln(alpha) - alpha * np.log(beta)
    exact -= gammaln(y + 1).sum()
    found = fit(counts, COUNTS).log_evidence()
    assert abs(found.value - exact) < 3 * found.se
    assert found.se < 3


def test_the_evidence_of_a_corrected_fit_is_that_of_the_posterior():
    """A product of two normals: a cross, whose arms a mixture of normals does not reach."""
    y = np.array([0.55, 0.1, 0.6, 0.3, -0.2], np.float32)

    def product(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a * b, 0.5), obs=y)

    a, b = np.meshgrid(*[np.linspace(-7, 7, 701)] * 2)
    log_joint = norm.logpdf(a) + norm.logpdf(b)
    log_joint += sum(norm.logpdf(one, a * b, 0.5) for one in y)
    exact = logsumexp(log_joint) + 2 * np.log(14 / 700)
    posterior = fit(product, y)
    assert posterior.status == "corrected"
    found = posterior.log_evidence()
    assert abs(found.value - exact) < 4 * found.se
    assert found.se < 0.03
    assert f"{found.value:.3f}" in posterior.report()
