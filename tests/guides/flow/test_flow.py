"""The `Flow` guide, and the solver that fits it."""

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
from vijax.diagnostics.pullback import PullbackKernel
from vijax.guides import Flow, FullRank, LowRank, MeanField, compose, flow
from vijax.guides.flow.base import color, whiten
from vijax.model import build, split
from vijax.runtime.errors import GuideError
from vijax.solvers import FlowDescent, default_solver

_NEAR = {
    "bnaf": 0.1,
    "heavy": 0.05,
}  # architectures that are only approximately the identity at the start


def banana():
    x = numpyro.sample("x", dist.Normal(1.0, 10.0**0.5))
    numpyro.sample("y", dist.Normal(x**2, 0.1**0.5))


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def parameters(guide, space, seed=0, perturbed=True):
    z = space.unravel(jnp.zeros(space.dim))
    params = guide.init(jax.random.key(seed), space, z)
    return perturb(params) if perturbed else params


@pytest.mark.slow
@pytest.mark.parametrize("name", flow.ARCHITECTURES)
def test_architectures_start_at_their_base(name):
    space = problem("regression").target.space
    guide = Flow(name)
    params = parameters(guide, space, perturbed=False)
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
def test_the_path_gradient_is_that_of_the_density_at_fixed_parameters(layer):
    """Also for layers without a cheap inverse: the score is computed in the forward pass."""
    space, batch = problem("regression").target.space, Batch({})
    guide = Flow(flow.Chain((layer, flow.Flip(), layer)))
    params = parameters(guide, space)

    def path(params, key):
        draw = guide.draw(params, space, key, batch)
        return guide.path_log_q(params, space, key, draw, batch)

    def fixed(params, key):
        draw = guide.draw(params, space, key, batch)
        return guide.log_prob(jax.lax.stop_gradient(params), space, draw.z, batch)

    found, expected = (jax.jit(jax.value_and_grad(f)) for f in (path, fixed))
    for seed in range(3):
        (value, gradient), (exact, exact_gradient) = (
            f(params, jax.random.key(seed)) for f in (found, expected)
        )
        np.testing.assert_allclose(value, exact, rtol=1e-3)
        scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(exact_gradient))
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact_gradient), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3 * scale)


def test_host_draws_and_host_log_prob_agree():
    space = problem("regression").target.space
    guide = Flow(flow.Coupling())
    params = parameters(guide, space)
    draws = guide.host_draws(params, space, np.random.default_rng(0), 1500)
    assert draws.points.shape == (1500, 3)
    log_prob = guide.host_log_prob(params, space, draws.points)
    np.testing.assert_allclose(log_prob, draws.log_q, atol=1e-4)


@pytest.mark.slow
def test_a_banana_distribution_is_fitted():
    posterior = fit(banana, guide="flow", rng_key=1)
    assert posterior.guide == Flow()
    assert -0.1 < posterior.elbo < 0.01
    assert posterior.converged
    draws = posterior.sample(4000)
    x, y = draws["x"].astype(float), draws["y"].astype(float)
    assert abs(x.mean() - 1) < 0.3
    np.testing.assert_allclose(x.std(), 10**0.5, rtol=0.1)
    np.testing.assert_allclose((y - x**2).std(), 0.1**0.5, rtol=0.2)


def test_chains_run_in_the_noise_coordinates_of_the_flow():
    """In these a target that the flow fits is a standard normal."""
    p = problem("regression")
    guide, space = Flow("planar"), p.target.space
    params = parameters(guide, space)
    kernel = PullbackKernel(p.target, guide, Variables(params), {}, p.batch)
    noise = np.random.default_rng(0).normal(size=(20, 3))
    value, gradient = kernel(noise)
    image = guide.host_transport(params, space, noise)
    np.testing.assert_allclose(kernel.transport(noise), image.points)
    log_p = Kernel(p.target, p.batch).log_density(image.points)
    expected = log_p - image.log_q - 0.5 * np.sum(noise**2, 1)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)
    step = 1e-2 * np.eye(3)[0]
    slope = (kernel(noise + step)[0] - kernel(noise - step)[0]) / 2e-2
    np.testing.assert_allclose(gradient[:, 0], slope, rtol=0.02, atol=0.05 * np.abs(slope).max())


@pytest.mark.slow
def test_a_gaussian_target_keeps_its_evidence():
    p = problem("regression")
    posterior = fit(p.model, *p.args, guide="flow")
    assert posterior.status == "certified"
    np.testing.assert_allclose(posterior.elbo, p.log_evidence, atol=0.01)


@pytest.mark.slow
def test_a_flow_in_one_dimension():
    p = problem("gamma_poisson")
    gaussian = fit(p.model, *p.args, guide="fullrank")
    posterior = fit(p.model, *p.args, guide="nsf")
    assert posterior.elbo > gaussian.elbo - 0.01
    np.testing.assert_allclose(posterior.elbo, p.log_evidence, atol=0.02)


@pytest.mark.slow
def test_gradient_steps_average_many_draws():
    p = problem("regression")
    posterior = fit(p.model, *p.args, guide=Flow("planar"), num_steps=200)
    assert posterior._result.engine.algorithm.objective.num_particles == Flow.num_particles


def test_the_default_base_depends_on_the_dimension():
    assert Flow().base_for(10) == FullRank()
    assert Flow().base_for(2000) == LowRank()
    assert Flow("radial", base=MeanField()).base_for(10) == MeanField()
    assert isinstance(default_solver(Flow(), 10), FlowDescent)


def _init_params(key, dim):
    return {"loc": jnp.zeros(dim), "log_scale": jnp.zeros(dim)}


def _sample(params, key):
    e = jax.random.normal(key, params["loc"].shape)
    z = params["loc"] + jnp.exp(params["log_scale"]) * e
    return z, _density(params, z)


def _density(params, z):
    return jnp.sum(jax.scipy.stats.norm.logpdf(z, params["loc"], jnp.exp(params["log_scale"])))


@pytest.mark.parametrize("density", [None, _density])
def test_a_flow_from_functions_is_fitted(density):
    p = problem("normal_mean")
    guide = flow.from_functions(_init_params, _sample, density)
    assert guide == flow.from_functions(_init_params, _sample, density)
    assert isinstance(guide, DensityGuide) == (density is not None)
    posterior = fit(p.model, *p.args, guide=guide)
    np.testing.assert_allclose(posterior.elbo, p.log_evidence, atol=0.01)
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
def test_invalid_options_raise_errors(make, message):
    with pytest.raises(GuideError, match=message):
        make()


def test_coloring_gives_the_covariance_of_a_low_rank_base():
    space, base = problem("hierarchy").target.space, LowRank(rank=3)
    params = parameters(Flow("planar", base), space)
    factor = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    factor[:, 1] = 0  # an unused direction
    base_params = params.base._replace(
        factor=jnp.asarray(factor), log_scale=jnp.linspace(-1.0, 1.0, 5)
    )
    root = np.asarray(
        jax.jit(jax.vmap(lambda x: color(base_params, space, x)[0]))(jnp.eye(5)), float
    )
    root -= np.asarray(base_params.loc)
    np.testing.assert_allclose(
        root.T @ root, base.covariance(base_params, space), rtol=1e-5, atol=1e-5
    )
    x = jnp.arange(5.0)
    z, log_det = color(base_params, space, x)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(root)[1], rtol=1e-5)
    back, inverse = whiten(base_params, space, z)
    np.testing.assert_allclose(back, x, atol=1e-5)
    np.testing.assert_allclose(inverse, -log_det)


def nonlinear():
    """A thousand coordinates, half of them nonlinear in the other half; the evidence is one."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([500]).to_event(1))
    numpyro.sample("y", dist.Normal(0.5 * x**2, 0.7).to_event(1))


def gaussian():
    numpyro.sample("x", dist.Normal(0.0, 1.0).expand([1000]).to_event(1))


@pytest.mark.slow
@pytest.mark.parametrize("model", [nonlinear, gaussian])
def test_a_thousand_dimensions(model):
    """The flow improves on its base for a nonlinear target, and returns it for a Gaussian one."""
    arguments, data = split(model, (), {})
    target, guide = build(model, arguments), Flow()
    params = jax.jit(lambda: guide.init(jax.random.key(0), target.space, _origin(target.space)))()
    base_params = params.base._replace(
        factor=jnp.zeros_like(params.base.factor), log_scale=jnp.zeros(1000)
    )
    start = Variables(params._replace(base=base_params))
    solver = FlowDescent(num_draws=16, num_steps=100, max_cycles=1)
    solution = solver.solve(jax.random.key(1), target, guide, start, Batch(data))
    assert np.isfinite(solution.losses).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(solution.variables))
    if model is gaussian:
        assert "no better than its base, which is kept" in solution.reason
        assert solution.variables.guide is start.guide
    else:
        assert np.mean(solution.losses[-10:]) < np.mean(solution.losses[:10]) - 50


def _origin(space):
    return space.unravel(jnp.zeros(space.dim))


def test_a_composite_base_raises_an_error():
    space = problem("regression").target.space
    composite = compose({"alpha": FullRank(), "beta": FullRank()}, space)
    guide = Flow("planar", base=composite)
    params = parameters(guide, space)
    with pytest.raises(GuideError, match="base: expected"):
        guide.transport(params, space, jnp.zeros(3))


def test_the_solver_requires_a_flow():
    p = problem("regression")
    with pytest.raises(GuideError, match="guide: expected a Flow"):
        fit(p.model, *p.args, guide="fullrank", algorithm=FlowDescent())
