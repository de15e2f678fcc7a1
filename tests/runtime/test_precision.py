"""Precision of matrix products: float32 or bfloat16, which operations, accuracy of the fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from jax import lax
from jax.extend import core
from numpyro.contrib.module import nnx_module, random_nnx_module

import vijax
from tests.lowering import recorded
from tests.targets import problem
from vijax.algorithms import SVGD, Adam, Gradient
from vijax.algorithms.gradient import GradientState
from vijax.contracts import Batch, LossContext, Target, Variables
from vijax.contracts.target import Programs
from vijax.guides import MeanField
from vijax.model import build, split
from vijax.objectives import ELBO
from vijax.runtime.precision import full_precision, mixed_precision

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 4)).astype(np.float32)
Y = (np.tanh(X @ rng.normal(size=4)) + 0.3 * rng.normal(size=200)).astype(np.float32)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.out = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))[..., 0]


def network(x, y):
    net = nnx_module("net", Net(nnx.Rngs(0)))
    head = random_nnx_module("head", nnx.Linear(4, 1, rngs=nnx.Rngs(1)), dist.Normal())
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(net(x) + head(x)[..., 0], 0.3), obs=y)


def regression(x, y):
    """A likelihood that contains a matrix product."""
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    cov = jnp.ones((len(x), 1))
    numpyro.sample("y", dist.LowRankMultivariateNormal(x @ w, cov, jnp.ones(len(x))), obs=y)


def bayesian(x, y):
    net = vijax.nn.network("net", Net)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(net(x), 0.3), obs=y)


def step_of(model, precision, guide=MeanField()):  # noqa: B008
    """The traced program of one gradient step, and of the same step written by hand."""
    arguments, data = split(model, (X, Y), {})
    target, batch = build(model, arguments), Batch(data)
    z = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}
    model_params, mutable = target.initialize(jax.random.key(0), batch)
    variables = Variables(guide.init(jax.random.key(0), target.space, z), model_params)
    algorithm = Gradient(ELBO(), Adam(0.1), precision=precision)
    state = algorithm.init(variables, mutable, jax.random.key(1), target, guide, batch)

    def step(state, batch):
        return algorithm.step(state, jax.random.key(1), target, guide, batch)

    def by_hand(state, batch):
        def loss_of(variables):
            key = jax.random.key(1)
            context = LossContext(state.mutable, key, target, guide, batch, state.phase)
            return ELBO()(variables, context)

        found, gradient = jax.value_and_grad(loss_of, has_aux=True)(state.variables)
        update, optimizer = optax.adam(0.1).update(gradient, state.optimizer, state.variables)
        update = jax.tree.map(lambda u: state.step_size * u, update)
        variables = optax.apply_updates(state.variables, update)
        return GradientState(variables, found[1], optimizer, *state[3:]), found[0]

    return jax.make_jaxpr(step)(state, batch), jax.make_jaxpr(by_hand)(state, batch)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def inputs(jaxpr, *names):
    """Names of the input dtypes of some primitives."""
    return {
        str(atom.aval.dtype)
        for equation in equations(jaxpr)
        if equation.primitive.name in names
        for atom in equation.invars
    }


def test_products_are_in_bfloat16_sums_and_parameters_are_not():
    closed, _ = step_of(network, "bfloat16")
    assert inputs(closed.jaxpr, "dot_general") == {"bfloat16"}  # including the backward pass
    products = [e for e in equations(closed.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) >= 3 + 4  # forward; backward in parameters and hidden layer
    assert "bfloat16" not in inputs(closed.jaxpr, "reduce_sum", "log", "exp", "sqrt", "div")
    state = [aval.dtype for aval in (*closed.in_avals, *closed.out_avals)]
    assert jnp.bfloat16 not in state


@pytest.mark.parametrize("noise", ["flipout", "local"])
def test_products_with_weights_of_each_row_are_in_bfloat16(noise):
    closed, _ = step_of(bayesian, "bfloat16", MeanField(noise=noise))
    assert inputs(closed.jaxpr, "dot_general") == {"bfloat16"}
    products = [e for e in equations(closed.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) >= 4 + 6  # both layers twice, but for gradients in the data
    assert "bfloat16" not in inputs(closed.jaxpr, "reduce_sum", "log", "exp", "sqrt", "div")


def test_densities_of_distributions_keep_their_precision():
    closed, _ = step_of(regression, "bfloat16")
    by_shape = {
        (tuple(e.invars[0].aval.shape), str(e.invars[0].aval.dtype))
        for e in equations(closed.jaxpr)
        if e.primitive.name == "dot_general" and e.outvars[0].aval.shape == (len(X),)
    }
    assert (X.shape, "bfloat16") in by_shape  # the mean, `x @ w`
    assert "float32" in inputs(closed.jaxpr, "dot_general")  # inside the likelihood


def test_without_the_option_a_step_equals_one_written_by_hand():
    closed, by_hand = step_of(network, None)
    assert str(closed) == str(by_hand)
    assert str(closed) != str(step_of(network, "bfloat16")[0])


def programs(x, w):
    """Products in all kinds of inner programs, and one in full precision."""
    hidden = jax.jit(lambda x: x @ w)(x)
    hidden, sums = lax.scan(lambda c, s: (jnp.tanh(c @ w) + s, c.sum()), hidden, jnp.arange(3.0))
    hidden = lax.cond(hidden.sum() > 0, lambda h: h @ w, lambda h: h @ w.T, hidden)
    hidden = jax.checkpoint(lambda h: jnp.sin(h @ w))(hidden)
    image = lax.conv(hidden[None, None], w[None, None, :2, :2], (1, 1), "SAME")
    with full_precision():
        kept = hidden @ w
    return {"image": image, "kept": kept, "sums": sums, "relu": jax.nn.relu(hidden)}


def test_inner_programs_are_converted():
    x, w = X[:5], rng.normal(size=(4, 4)).astype(np.float32)
    converted = mixed_precision(programs, "bfloat16")
    jaxpr = jax.make_jaxpr(converted)(x, w).jaxpr
    products = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
    dtypes = [str(e.invars[0].aval.dtype) for e in products]
    assert sorted(dtypes) == ["bfloat16"] * 5 + ["float32"]
    assert inputs(jaxpr, "conv_general_dilated") == {"bfloat16"}
    plain, found = jax.jit(programs)(x, w), jax.jit(converted)(x, w)
    for name in plain:
        assert found[name].dtype == plain[name].dtype == jnp.float32
        # eight bits per number, over up to six products in sequence
        scale = np.abs(plain[name]).max()
        np.testing.assert_allclose(found[name], plain[name], atol=10 * 2**-8 * scale)
    slopes = [
        jax.jit(jax.grad(lambda w, f=f: f(x, w)["sums"].sum()))(w) for f in (programs, converted)
    ]
    np.testing.assert_allclose(*slopes, atol=10 * 2**-8 * np.abs(slopes[0]).max())


def test_the_posterior_agrees_with_full_precision():
    def model(x, y):
        w = numpyro.sample("w", dist.Normal(jnp.zeros(4), 1.0).to_event(1))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)

    posterior = vijax.fit(model, X, Y, precision="bfloat16", guide="fullrank", progress_bar=False)
    assert posterior._result.engine.algorithm.precision == "bfloat16"
    precision = X.T @ X / 0.25 + np.eye(4)
    mean, sd = (
        np.linalg.solve(precision, X.T @ Y / 0.25),
        np.sqrt(np.diag(np.linalg.inv(precision))),
    )
    # x has a relative rounding error up to 2^-9, hence also the posterior mean
    np.testing.assert_allclose(posterior.params.loc, mean, atol=0.1 * sd.max() + 2**-8)
    draws = posterior.sample(4000, corrected=False)["w"]
    np.testing.assert_allclose(draws.std(axis=0), sd, rtol=5 / np.sqrt(2 * 4000) + 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, r"precision: expected None or one of \('bfloat16',\)"),
        ({"precision": "bfloat16", "algorithm": "pathfinder"}, "precision: expected gradient step"),
        (
            {"precision": "bfloat16", "algorithm": Gradient(ELBO(), Adam(0.1))},
            "precision: it belongs to the algorithm",
        ),
    ],
)
def test_unsupported_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        vijax.fit(regression, X, Y, **options)


def test_algorithms_check_the_precision():
    with pytest.raises(ValueError, match="precision: expected None or one of"):
        Gradient(ELBO(), Adam(0.1), precision="float16")
    assert SVGD(20, precision="bfloat16").num_particles == 20


@pytest.mark.slow
def test_the_precision_is_saved(tmp_path):
    options = {"precision": "bfloat16", "optimizer": optax.adam(0.01), "num_steps": 20}
    posterior = vijax.fit(network, X, Y, guide="meanfield", progress_bar=False, **options)
    posterior.save(tmp_path / "fit")
    again = vijax.load(tmp_path / "fit", network, X, Y, optimizer=optax.adam(0.01))
    assert again._result.engine.algorithm == posterior._result.engine.algorithm
    one, other = (p.resume(10, progress_bar=False).losses for p in (posterior, again))
    np.testing.assert_array_equal(one, other)


def products(**options):
    """Precisions of the matrix products in a program of a target, as it is traced anew."""
    target = dataclasses.replace(problem("regression").target, programs=Programs({}, {}))
    program = target.program(lambda target, x: jnp.sin(x) @ x, **options)
    jaxpr = program.trace(jnp.ones((2, 2))).jaxpr.jaxpr
    return {e.params["precision"] for e in jaxpr.eqns if e.primitive.name == "dot_general"}


def test_products_have_the_precision_of_float32_on_accelerators(monkeypatch):
    """There JAX's default is TF32 or bfloat16, too little for line searches and log weights."""
    full, default = {(lax.Precision.HIGHEST, lax.Precision.HIGHEST)}, {None}
    assert products() == default
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert products() == full
    assert products(float32=False) == default
    with jax.default_matmul_precision("default"):  # the user's choice
        assert products() != full


def test_only_gradient_steps_have_the_default_precision(monkeypatch):
    lower, original = set(), Target.program

    def program(target, function, *static, float32=True, **options):
        lower.update(() if float32 else {function.__name__})
        return original(target, function, *static, float32=float32, **options)

    monkeypatch.setattr(Target, "program", program)
    model, args = problem("regression").model, problem("regression").args
    with recorded() as recorder:
        vijax.fit(model, *args, guide="meanfield", num_steps=1, progress_bar=False)
    assert lower == {"run_steps"} < recorder.programs
