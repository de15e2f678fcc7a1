"""Models as they are read: against the oracle, the models' own densities, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.special import gammaln

import vijax
from tests.conjugacy.cases import AUGMENTED, CASES, CLOSED_FORMS, FALSE_FRIENDS
from tests.conjugacy.random_models import random_case
from tests.conjugacy.reading import both, family_of, read
from vijax.contracts.conjugate import Comparison
from vijax.model.conjugacy import log_joint
from vijax.runtime.errors import GuideError
from vijax.solvers.check_reading import check_reading

QUICK = (  # the rest of the cases takes a minute
    "level and slope",
    "normal mean and precision, one block",
    "products of normal variables",
    "Gaussian mixture",
)
CHECKED = ("groups by index", "probit regression")
BOUNDS = ("logistic regression", "horseshoe regression", "additive Poisson rates")
ALL = CASES | AUGMENTED


def quick(names, chosen):
    return [n if n in chosen else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", quick(CASES, QUICK))
def test_expected_log_joint_density(name):
    """Equal to an average over points that have the same mean parameters."""
    found, oracle = both(CASES[name])
    assert found == pytest.approx(oracle, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_site_a_block(name):
    found, oracle = both(CASES[name], joint=False)
    assert found == pytest.approx(oracle, rel=1e-6)


@pytest.mark.parametrize("name", quick(AUGMENTED, BOUNDS))
def test_bounds_with_further_latents(name):
    found, bound = both(AUGMENTED[name])
    assert found == pytest.approx(bound, rel=1e-6)


AUGMENTATIONS = {
    "logistic regression": ("y: Polya-Gamma variables",),
    "horseshoe regression": ("scale: half-Cauchy by an auxiliary gamma variable",),
    "additive Poisson rates": ("y: the part of each term of a sum",),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_plan_names_further_variables(name):
    case = AUGMENTED[name]
    with jax.enable_x64(True):
        assert read(case.model, case.args).plan.augmented == AUGMENTATIONS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_families(name):
    """Of sites that are blocks of their own."""
    case = ALL[name]
    with jax.enable_x64(True):
        _, plan, _ = read(case.model, case.args, joint=False)
    wanted = {}
    for sites, family in case.families.items():
        joint = isinstance(sites, tuple) and len(sites) > 1
        if not joint:
            wanted[sites] = family
    found = {block.name: family_of(block) for block in plan.blocks}
    normal = {"Normal", "MultivariateNormal"}
    for site, family in wanted.items():
        alike = found[site].name == family.name or {found[site].name, family.name} == normal
        assert alike, (site, found[site])
        assert found[site].power == family.power


@pytest.mark.parametrize("name", FALSE_FRIENDS)
def test_false_friends_are_refused(name):
    friend = FALSE_FRIENDS[name]
    with jax.enable_x64(True), pytest.raises(GuideError) as error:
        read(friend.model, friend.args)
    reason = str(error.value).split("Fit other")[0]
    for word in friend.words:
        assert word in reason


def log_linear(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(x @ w)), obs=y)


def test_quadrature():
    """`E exp(eta) = exp(mean + variance / 2)`; without it the model is refused."""
    x, y = np.asarray([[0.4, -1.1], [1.3, 0.2], [-0.7, 0.9]]), np.asarray([2, 0, 3])
    mean, covariance = np.asarray([0.3, -0.5]), np.asarray([[0.4, 0.1], [0.1, 0.3]])
    with jax.enable_x64(True):
        with pytest.raises(GuideError, match="'rate' of site 'y' depends on exp"):
            read(log_linear, (x, y))
        target, plan, batch = read(log_linear, (x, y), quadrature=True)
        of = {"w": {"mean": mean, "covariance": covariance}}
        found = float(target.functions.expected_log_joint(plan, of, batch))
        check_reading(target, batch, jax.random.key(0))
    eta, variance = x @ mean, np.einsum("ni,ij,nj->n", x, covariance, x)
    rows = y * eta - np.exp(eta + variance / 2) - gammaln(y + 1)
    prior = -0.5 * (mean @ mean + np.trace(covariance)) - np.log(2 * np.pi)
    assert plan.quadrature == ("y",)
    assert found == pytest.approx(rows.sum() + prior, rel=1e-9)


def seeds(slow):
    return [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, slow))]


@pytest.mark.parametrize("seed", seeds(80))
def test_random_models(seed):
    """Refused, or equal to the oracle."""
    case = random_case(seed)
    try:
        with jax.enable_x64(True):
            read(case.model, case.args, joint=False)
    except GuideError:
        return
    found, oracle = both(case, joint=False)
    assert found == pytest.approx(oracle, rel=1e-6)


@pytest.mark.parametrize("name", quick(ALL, CHECKED))
def test_the_reading_is_checked_by_numbers(name):
    """At points, the expected log density of each site is the model's own."""
    case = ALL[name]
    with jax.enable_x64(True):
        target, _, batch = read(case.model, case.args)
        check_reading(target, batch, jax.random.key(0))


def chain(y, seen):
    """A hidden Markov model, steps at its end without observations."""
    with numpyro.plate("states", 2):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))

    def step(before, row):
        y, seen = row
        with numpyro.handlers.mask(mask=seen):
            now = numpyro.sample("z", dist.Categorical(p[before]))
            numpyro.sample("y", dist.Normal(mu[now], 1.0), obs=y)
        return now, None

    scan(step, 0, (y, seen))


@pytest.mark.parametrize("seen", [[True, True, True], [True, True, False]], ids=["all", "padded"])
def test_hidden_markov_models(seen):
    with jax.enable_x64(True):
        target, plan, batch = read(chain, (np.asarray([0.3, 1.9, -0.4]), np.asarray(seen)))
        assert [block.kind for block in plan.blocks] == ["normal", "dirichlet"]
        check_reading(target, batch, jax.random.key(0))


def test_the_density_of_the_reading_is_that_of_the_model():
    """Priors and Jacobians included, whose sites are the same."""
    args = np.asarray([0.3, 1.9, -0.4]), np.asarray([True, True, True])
    with jax.enable_x64(True):
        target, _, batch = read(chain, args)
        z = {site.name: 0.3 * jnp.ones(site.z_shape) for site in target.space.sites}
        functions = target.functions
        own, found = (
            jax.jit(lambda z, f=f: f(z, batch, {}, {}).log_density)(z)
            for f in (functions.evaluate, functions.conjugate_evaluate)
        )
    assert float(found) == pytest.approx(float(own), rel=1e-9)


def long_chain(y):
    """Two series of hidden states; each step has a further latent site."""
    with numpyro.plate("states", 2):
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))

    def step(before, row):
        with numpyro.plate("series", 2):
            now = numpyro.sample("z", dist.Categorical(p[before]))
            level = numpyro.sample("level", dist.Normal(mu[now], 1.0))
            numpyro.sample("y", dist.Normal(level, 1.0), obs=row)
        return now, None

    scan(step, jnp.zeros(2, int), y)


@pytest.mark.slow
def test_long_chains_are_checked_on_some_steps(monkeypatch):
    """A misread step is found nevertheless."""
    y = np.random.default_rng(0).normal(size=(600, 2))
    with jax.enable_x64(True):
        target, _, batch = read(long_chain, (y[:500],))
        check_reading(target, batch, jax.random.key(0))
        shapes = []

        def misread(expectation, fn, arguments, value, row=log_joint._row):
            found = row(expectation, fn, arguments, value)
            shapes.append(found.shape)
            return found + 1e-4 * (found.shape == (256, 2))

        monkeypatch.setattr(log_joint, "_row", misread)
        target, _, batch = read(long_chain, (y,))
        with pytest.raises(GuideError, match="'level, z'"):
            check_reading(target, batch, jax.random.key(0))
    assert (256, 2) in shapes


def excess_zeros(y):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    gate = numpyro.sample("gate", dist.Beta(1.0, 2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.ZeroInflatedPoisson(gate, rate), obs=y)


def test_excess_zeros():
    y = np.asarray([0, 2, 0, 5])
    of = {
        "rate": {"value": 2.3, "log": 0.6},
        "gate": {"log": -1.2, "log1m": -0.5},
    }
    with jax.enable_x64(True):
        target, plan, batch = read(excess_zeros, (y,))
        found = target.functions.expected_log_joint(plan, of, batch)
        check_reading(target, batch, jax.random.key(0))
    assert plan.augmented == ("y: which zeros are excess",)
    inside = y * 0.6 - 2.3 - gammaln(y + 1) - 0.5
    rows = np.where(y == 0, np.logaddexp(-1.2, inside), inside)
    prior = (0.6 - 2.3) + (np.log(2.0) - 0.5)
    assert float(found) == pytest.approx(rows.sum() + prior, rel=1e-9)


def unnormalized(y):
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Categorical(2.0 * p), obs=y)


def two_factors(y):
    """A product of gamma variables, as in Poisson factorization: no probabilities."""
    u = numpyro.sample("u", dist.Gamma(2.0, 1.0).expand([3, 2]).to_event(2))
    v = numpyro.sample("v", dist.Gamma(2.0, 1.0).expand([2, 4]).to_event(2))
    numpyro.sample("y", dist.Multinomial(5, probs=u @ v).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "y"), [(unnormalized, [0, 2, 1, 1]), (two_factors, [[1, 2, 0, 2]] * 3)]
)
def test_probabilities_add_up_to_one(model, y):
    with pytest.raises(GuideError, match="probs of site 'y' that add up to one"):
        vijax.fit(model, np.asarray(y), guide="conjugate")


def test_a_wrong_reading_is_found():
    with jax.enable_x64(True):
        target, _, batch = read(unnormalized, (np.asarray([0, 2, 1, 1]),))
        wrong = target.functions._replace(
            compare_reading=lambda z, batch, names: Comparison(
                {
                    name: (own, read + (name == "y"))
                    for name, (own, read) in (
                        target.functions.compare_reading(z, batch).log_densities.items()
                    )
                },
                {},
            )
        )
        with pytest.raises(GuideError, match="'y'"):
            check_reading(
                type(target)(**{**vars(target), "functions": wrong}), batch, jax.random.key(0)
            )


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_fits_of_closed_forms(name):
    """The ELBO is the evidence, so that the posterior is exact."""
    case = CLOSED_FORMS[name]
    posterior = vijax.fit(case.model, *case.args, guide="conjugate")
    assert posterior.elbo == pytest.approx(case.exact.log_evidence, rel=1e-6)
