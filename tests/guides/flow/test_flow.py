"""The guide that puts a flow on a Gaussian, and the solver that fits it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from tests.laws import perturb
from tests.targets import problem
from vijax.contracts import Batch, DensityGuide, Variables
from vijax.contracts.kernel import Kernel
from vijax.diagnostics.pullback import TransportedKernel
from vijax.guides import Flow, FullRank, LowRank, MeanField, compose, flow
from vijax.guides.flow.base import color, whiten
from vijax.model import build, split
from vijax.runtime.errors import GuideError
from vijax.solvers import FlowDescent, default_solver

_NEAR = {"bnaf": 0.1, "heavy": 0.05}  # recipes that are not quite the identity at the start


def banana():
    x = numpyro.sample("x", dist.Normal(1.0, 10.0**0.5))
    numpyro.sample("y", dist.Normal(x**2, 0.1**0.5))


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def state(guide, space, seed=0, moved=True):
    z = space.unravel(jnp.zeros(space.dim))
    params = guide.init(jax.random.key(seed), space, z)
    return perturb(params) if moved else params


@pytest.mark.slow
@pytest.mark.parametrize("name", flow.ARCHITECTURES)
def test_recipes_start_as_their_base(name):
    space = problem("regression").target.space
    guide = Flow(name)
    params = state(guide, space, moved=False)
    noise = np.random.default_rng(0).normal(size=(50, space.dim)).astype(np.float32)
    z, _ = jax.jit(jax.vmap(lambda e: guide.transport(params, space, e)))(noise)
    scale = FullRank().init_scale
    np.testing.assert_allclose(z, scale * noise, atol=scale * _NEAR.get(name, 1e-4))


@pytest.mark.parametrize(
    "layer",
    [
        flow.Coupling(),
        pytest.param(flow.Autoregressive(), marks=pytest.mark.slow),
        pytest.param(flow.BlockNeural(), marks=pytest.mark.slow),
    ],
)
def test_the_path_gradient_is_the_one_of_the_density_held_fixed(layer):
    """Also where the inverse is not cheap: the score comes forwards."""
    where = problem("regression")
    space, batch = where.target.space, Batch({})
    guide = Flow(flow.Chain((layer, flow.Flip(), layer)))
    params = state(guide, space)

    def along(params, key):
        draw = guide.draw(params, space, key, batch)
        return guide.path_log_q(params, space, key, draw, batch)

    def held(params, key):
        draw = guide.draw(params, space, key, batch)
        return guide.log_prob(jax.lax.stop_gradient(params), space, draw.z, batch)

    found, expected = (jax.jit(jax.value_and_grad(f)) for f in (along, held))
    for seed in range(3):
        (one, slopes), (other, others) = (
            f(params, jax.random.key(seed)) for f in (found, expected)
        )
        np.testing.assert_allclose(one, other, rtol=1e-3)
        scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(others))
        for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(others), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3 * scale)


def test_host_draws_have_their_density():
    space = problem("regression").target.space
    guide = Flow(flow.Coupling())
    params = state(guide, space)
    made = guide.host_draws(params, space, np.random.default_rng(0), 1500)
    assert made.points.shape == (1500, 3)
    again = guide.host_log_prob(params, space, made.points)
    np.testing.assert_allclose(again, made.log_q, atol=1e-4)


@pytest.mark.slow
def test_a_banana_is_bent():
    posterior = fit(banana, guide="flow", rng_key=1)
    assert posterior.guide == Flow()
    assert -0.1 < posterior.elbo < 0.01
    assert posterior.converged
    draws = posterior.sample(0, 4000)
    x, y = draws["x"].astype(float), draws["y"].astype(float)
    assert abs(x.mean() - 1) < 0.3
    np.testing.assert_allclose(x.std(), 10**0.5, rtol=0.1)
    np.testing.assert_allclose((y - x**2).std(), 0.1**0.5, rtol=0.2)


def test_chains_run_in_the_flows_own_coordinates():
    """There a target that the flow fits is a standard normal, and its gradient is known."""
    where = problem("regression")
    guide, space = Flow("planar"), where.target.space
    params = state(guide, space)
    kernel = TransportedKernel(where.target, guide, Variables(params), {}, where.batch)
    noise = np.random.default_rng(0).normal(size=(20, 3))
    value, gradient = kernel(noise)
    made = guide.host_transport(params, space, noise)
    np.testing.assert_allclose(kernel.place(noise), made.points)
    log_p = Kernel(where.target, where.batch).log_density(made.points)
    expected = log_p - made.log_q - 0.5 * np.sum(noise**2, 1)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)
    step = 1e-2 * np.eye(3)[0]
    slope = (kernel(noise + step)[0] - kernel(noise - step)[0]) / 2e-2
    np.testing.assert_allclose(gradient[:, 0], slope, rtol=0.02, atol=0.05 * np.abs(slope).max())


@pytest.mark.slow
def test_a_gaussian_stays_what_it_is():
    where = problem("regression")
    posterior = fit(where.model, *where.args, guide="flow")
    assert posterior.status == "certified"
    np.testing.assert_allclose(posterior.elbo, where.log_evidence, atol=0.01)


@pytest.mark.slow
def test_one_dimension_is_enough():
    where = problem("gamma_poisson")
    plain = fit(where.model, *where.args, guide="fullrank")
    posterior = fit(where.model, *where.args, guide="nsf")
    assert posterior.elbo > plain.elbo - 0.01
    np.testing.assert_allclose(posterior.elbo, where.log_evidence, atol=0.02)


@pytest.mark.slow
def test_gradient_steps_average_many_draws():
    where = problem("regression")
    posterior = fit(where.model, *where.args, guide=Flow("planar"), num_steps=200)
    assert posterior._result.engine.algorithm.objective.num_particles == Flow.num_particles


def test_the_base_follows_the_dimension():
    assert Flow().base_for(10) == FullRank()
    assert Flow().base_for(2000) == LowRank()
    assert Flow("radial", base=MeanField()).base_for(10) == MeanField()
    assert isinstance(default_solver(Flow(), 10), FlowDescent)


def _start(key, dim):
    return {"loc": jnp.zeros(dim), "log_scale": jnp.zeros(dim)}


def _sample(params, key):
    e = jax.random.normal(key, params["loc"].shape)
    z = params["loc"] + jnp.exp(params["log_scale"]) * e
    return z, _density(params, z)


def _density(params, z):
    return jnp.sum(jax.scipy.stats.norm.logpdf(z, params["loc"], jnp.exp(params["log_scale"])))


@pytest.mark.parametrize("density", [None, _density])
def test_a_flow_from_elsewhere_is_fitted(density):
    where = problem("normal_mean")
    guide = flow.from_functions(_start, _sample, density)
    assert guide == flow.from_functions(_start, _sample, density)
    assert isinstance(guide, DensityGuide) == (density is not None)
    posterior = fit(where.model, *where.args, guide=guide)
    np.testing.assert_allclose(posterior.elbo, where.log_evidence, atol=0.01)
    assert posterior.status == "certified"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flow("realnpv"), "Did you mean 'realnvp'"),
        (lambda: Flow(3), "layers: expected a Bijection"),
        (lambda: Flow(base=flow.Flip()), "base: expected a Gaussian"),
        (lambda: FlowDescent(num_draws=3), "num_draws: expected an even number"),
        (lambda: FlowDescent(num_steps=0), "num_steps"),
        (lambda: FlowDescent(rate=0.0), "rate"),
    ],
)
def test_options_that_make_no_sense(make, message):
    with pytest.raises(GuideError, match=message):
        make()


def test_a_low_rank_base_has_its_own_covariance():
    space, base = problem("hierarchy").target.space, LowRank(rank=3)
    params = state(Flow("planar", base), space)
    factor = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    factor[:, 1] = 0  # a direction that a fit had no use for
    held = params.base._replace(factor=jnp.asarray(factor), log_scale=jnp.linspace(-1.0, 1.0, 5))
    root = np.asarray(jax.jit(jax.vmap(lambda x: color(held, space, x)[0]))(jnp.eye(5)), float)
    root -= np.asarray(held.loc)
    np.testing.assert_allclose(root.T @ root, base.covariance(held, space), rtol=1e-5, atol=1e-5)
    x = jnp.arange(5.0)
    z, log_det = color(held, space, x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(root)[1], rtol=1e-5)
    back, inverse = whiten(held, space, z)
    np.testing.assert_allclose(back, x, atol=1e-5)
    np.testing.assert_allclose(inverse, -log_det)


def bent():
    """A thousand coordinates, half of them bent by the other half; the evidence is one."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([500]).to_event(1))
    numpyro.sample("y", dist.Normal(0.5 * x**2, 0.7).to_event(1))


def straight():
    numpyro.sample("x", dist.Normal(0.0, 1.0).expand([1000]).to_event(1))


@pytest.mark.slow
@pytest.mark.parametrize("model", [bent, straight])
def test_a_thousand_dimensions_are_no_trouble(model):
    """Where a flow helps it gains; where it does not it says so, and is its base."""
    arguments, data = split(model, (), {})
    target, guide = build(model, arguments), Flow()
    params = jax.jit(lambda: guide.init(jax.random.key(0), target.space, _origin(target.space)))()
    flat = params.base._replace(
        factor=jnp.zeros_like(params.base.factor), log_scale=jnp.zeros(1000)
    )
    start = Variables(params._replace(base=flat))
    solver = FlowDescent(num_draws=16, num_steps=100, max_cycles=1)
    solution = solver.solve(jax.random.key(1), target, guide, start, Batch(data))
    assert np.isfinite(solution.losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(solution.variables))
    if model is straight:
        assert "no better than its base, which is kept" in solution.reason
        assert solution.variables.guide is start.guide
    else:
        assert np.mean(solution.losses[-10:]) < np.mean(solution.losses[:10]) - 50


def _origin(space):
    return space.unravel(jnp.zeros(space.dim))


def test_a_base_must_be_one_to_one():
    space = problem("regression").target.space
    apart = compose({"alpha": FullRank(), "beta": FullRank()}, space)
    guide = Flow("planar", base=apart)
    params = state(guide, space)
    with pytest.raises(GuideError, match="base: expected"):
        guide.transport(params, space, jnp.zeros(3))


def test_the_solver_wants_a_flow():
    where = problem("regression")
    with pytest.raises(GuideError, match="guide: expected a Flow"):
        fit(where.model, *where.args, guide="fullrank", algorithm=FlowDescent())
