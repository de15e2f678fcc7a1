"""Coordinate ascent: known sequences, closed forms, monotone ELBOs, and what options do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special

import vijax
from vijax.contracts import Batch, Variables
from vijax.engine.initialization import origin
from vijax.fitting.conjugate import pays_conjugate
from vijax.guides import Conjugate, resolve
from vijax.model import split_and_build
from vijax.solvers import CoordinateAscent

QUIET = {"progress_bar": False}


def normal(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1000.0))
    tau = numpyro.sample("tau", dist.Gamma(1e-6, 1e-6))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1 / jnp.sqrt(tau)), obs=y)


def elbos(model, *data, guide="conjugate", **options):
    """The ELBO after each sweep, by the solver alone: no status."""
    start = options.pop("init", {})
    _, arrays, target = split_and_build(model, data, {}, None, frozenset())
    bound = resolve(guide, target)
    batch, target = Batch(arrays), bound.target
    z = dict(origin(target.space))
    z |= target.unconstrain({k: jnp.asarray(v, float) for k, v in start.items()}, batch, {}, {})
    params = bound.init(jax.random.key(0), target.space, z, batch)
    solution = CoordinateAscent(**options).solve(
        jax.random.key(0), target, bound, Variables(params), batch
    )
    return -np.array(solution.losses), solution


def test_the_published_sequence_of_a_normal_with_unknown_mean_and_precision():
    """BayesPy's documentation prints these ELBOs of its quick start."""
    y = np.random.RandomState(1).normal(5.0, 10.0, size=10)
    start = {"mu": 0.0, "tau": 1.0}
    with jax.enable_x64(True):
        found, _ = elbos(normal, y, init=start, num_restarts=0, tolerance=1e-9)
    expected = [-60.20956, -58.20527, -58.20290, -58.20288]
    np.testing.assert_allclose(found[:4], expected, atol=5e-6)


def test_one_block_is_the_posterior_and_its_evidence():
    """Beta-binomial: the ELBO is the log evidence, in double precision also by default."""

    def model(k):
        p = numpyro.sample("p", dist.Beta(2.0, 3.0))
        numpyro.sample("k", dist.Binomial(20, p), obs=k)

    found, solution = elbos(model, np.float32(7.0))
    choose = special.gammaln(21) - special.gammaln(8) - special.gammaln(14)
    exact = choose + special.betaln(2 + 7, 3 + 13) - special.betaln(2, 3)
    np.testing.assert_allclose(found[-1], exact, atol=1e-9)
    family = solution.variables.guide["p"]
    np.testing.assert_allclose([family.a, family.b], [9.0, 16.0], rtol=1e-6)


@functools.cache
def clusters():
    rng = np.random.default_rng(0)
    centers = np.array([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
    return (centers[rng.integers(0, 3, 200)] + rng.normal(size=(200, 2))).astype(np.float32)


def mixture(x, size):
    dim = x.shape[1]
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(size)))
    with numpyro.plate("components", size):
        precision = numpyro.sample("precision", dist.Wishart(dim + 1.0, scale_matrix=jnp.eye(dim)))
        mean = numpyro.sample(
            "mean", dist.MultivariateNormal(jnp.zeros(dim), precision_matrix=0.05 * precision)
        )
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("x", dist.MultivariateNormal(mean[z], precision_matrix=precision[z]), obs=x)


@pytest.mark.slow
def test_a_mixture_is_found_from_perturbed_starts_and_its_elbo_never_falls():
    found, solution = elbos(mixture, clusters(), 3, num_restarts=3)
    assert solution.converged
    assert (np.diff(found) >= -1e-8 * np.abs(found[1:])).all()
    (name,) = (name for name in solution.variables.guide if name.startswith("mean"))
    means = np.array(sorted(np.asarray(solution.variables.guide[name].mean).tolist()))
    # 67 rows for each component: standard errors of 0.12
    np.testing.assert_allclose(means, [[-4, 0], [0, 5], [4, 0]], atol=0.6)


@pytest.mark.slow
def test_rotations_converge_where_plain_ascent_does_not():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 12)) + 0.2 * rng.normal(size=(40, 12))

    def model(table):
        tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
        alpha = numpyro.sample("alpha", dist.Gamma(1e-2, 1e-2).expand([3]).to_event(1))
        with numpyro.plate("row", 40):
            u = numpyro.sample("u", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with numpyro.plate("column", 12):
            v = numpyro.sample("v", dist.Normal(0.0, 1 / jnp.sqrt(alpha)).to_event(1))
        with numpyro.plate("rows", 40, dim=-2), numpyro.plate("columns", 12):
            numpyro.sample("table", dist.Normal(u @ v.T, 1 / jnp.sqrt(tau)), obs=table)

    data = (table.astype(np.float32),)
    options = {"num_restarts": 1, "max_sweeps": 40}
    with_rotations, solution = elbos(model, *data, **options)
    without, _ = elbos(model, *data, **options, rotate=False, tolerance=0.0)
    assert solution.converged
    assert with_rotations[-1] > without[-1] + 1.0
    assert (np.diff(with_rotations) >= -1e-8 * np.abs(with_rotations[1:])).all()


def test_options_of_gradient_steps_are_refused():
    y = np.array([1.0, 2.0, 3.0], np.float32)
    with pytest.raises(ValueError, match="num_particles: expected None with guide='conjugate'"):
        vijax.fit(normal, y, guide="conjugate", num_particles=4, **QUIET)
    with pytest.raises(vijax.GuideError, match="expected guide='conjugate' for coordinate ascent"):
        vijax.fit(normal, y, guide="meanfield", algorithm="coordinate_ascent", **QUIET)


def test_a_fit_has_the_exact_elbo_a_plan_and_can_be_saved(tmp_path):
    y = np.random.default_rng(0).normal(1.0, 2.0, size=40).astype(np.float32)
    posterior = vijax.fit(normal, y, guide=Conjugate(joint=False), **QUIET)
    assert posterior.elbo_se == 0.0
    assert posterior.elbo == -posterior.losses[-1]
    assert posterior.diagnostics.plan == ("mu: normal, update 1 of 2", "tau: gamma, update 2 of 2")
    assert posterior.status in ("certified", "corrected")
    posterior.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", normal)
    own, again = (one.sample(100, corrected=False)["mu"] for one in (posterior, loaded))
    np.testing.assert_array_equal(own, again)
    params = posterior.guide_params
    assert params["mu"]["mean"] == pytest.approx(own.mean(), abs=float(own.std()) / 2)
    assert params["tau"].keys() == {"concentration", "rate"}
    remedy = r"coordinate ascent.*fit\(\.\.\., guide=Conjugate\(joint=False.*, init=posterior\)"
    with pytest.raises(vijax.VijaxError, match=remedy):
        posterior.resume(10)


def test_many_labels_are_fitted_in_closed_form_by_default():
    """Beyond 65,536 rows times values, unless a `param` site or the model forbids it."""

    def model(y, scale=None):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(4)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([4]).to_event(1))
        sd = numpyro.param("sd", 1.0) if scale == "param" else 1.0
        sd = jnp.exp(0.1 * mu[0]) if scale == "latent" else sd
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(weights))
            numpyro.sample("y", dist.Normal(mu[z], sd), obs=y)

    def pays(rows, *arguments):
        y = np.zeros(rows, np.float32)
        _, arrays, target = split_and_build(model, (y, *arguments), {}, None, frozenset())
        return pays_conjugate(target, Batch(arrays), jax.random.key(0))

    assert pays(20_000)
    assert not pays(2_000)
    assert not pays(20_000, "param")
    assert not pays(20_000, "latent")


def test_steps_are_shortened_where_coupled_elements_are_updated_at_once(monkeypatch):
    """Too many elements for one dense block: independent, and a full step would overshoot."""
    from vijax.model.conjugacy import blocks

    monkeypatch.setattr(blocks, "MAX_DENSE", 2)
    x = np.linspace(0.5, 1.5, 24).reshape(4, 6).astype(np.float32)  # nearly collinear columns

    def coupled(x):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
        with numpyro.plate("rows", 4):
            numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=jnp.ones(4))

    found, solution = elbos(coupled, x, tolerance=1e-11)
    assert solution.variables.guide["w"].mean.shape == (6,)
    assert solution.converged
    assert (np.diff(found) >= -1e-8 * np.abs(found[1:])).all()
    precision = np.eye(6) + x.T @ x  # the optimum of independent normals has the exact mean
    exact = np.linalg.solve(precision, x.T @ np.ones(4))
    np.testing.assert_allclose(solution.variables.guide["w"].mean, exact, atol=5e-3)


def test_conjugate_groups_of_a_mapping_are_one_guide():
    _, _, target = split_and_build(normal, (np.ones(3, np.float32),), {}, None, frozenset())
    one = resolve("conjugate", target)
    assert resolve({"mu": "conjugate", ...: Conjugate()}, target) == one


@pytest.mark.slow
def test_starts_are_tried_on_some_of_many_rows(monkeypatch):
    """Rows are sorted: the first of them would show one component."""
    y = np.sort(np.concatenate([np.random.default_rng(0).normal(m, 1.0, 500) for m in (-4, 0, 5)]))

    def model(y):
        with numpyro.plate("components", 3):
            mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    plain, _ = elbos(model, y)
    monkeypatch.setattr("vijax.model.conjugacy.row_blocks._ELEMENTS", 300)
    monkeypatch.setattr("vijax.model.conjugacy.row_blocks._SAMPLE", 100)
    monkeypatch.setattr("vijax.solvers.coordinate_ascent._MANY_ENTRIES", 1)
    ours, solution = elbos(model, y)
    assert solution.converged
    assert ours[-1] == pytest.approx(plain[-1], abs=1e-3)
    assert ours[0] != plain[0]
    assert ours[-1] - ours[0] < 10  # a fifteenth of the rows is nearly enough
