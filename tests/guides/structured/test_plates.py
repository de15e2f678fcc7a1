"""`Plates` with minibatches: blocks for the rows of subsampled plates."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.extend import core

import vijax
from tests.solvers.gaussians.test_tree import exact_globals, groups
from vijax import ModelError
from vijax.algorithms import Adam, Gradient
from vijax.contracts import Batch, Variables
from vijax.engine.loop import init_loop, run_steps
from vijax.engine.row_parameters import take
from vijax.guides import Plates
from vijax.guides.structured.plates import plates_affordable_on_batches
from vijax.model import batch_request, build, split
from vijax.objectives import ELBO
from vijax.solvers.gaussians.structured_conversion import gaussian_from_params

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 3)).astype(np.float32)
Y = (1 + rng.normal(size=(24, 1)) + 0.5 * X + 0.7 * rng.normal(size=X.shape)).astype(np.float32)
GRID = (rng.normal(size=(12, 1, 1)) + rng.normal(size=(12, 4, 3))).astype(np.float32)


def regression(x, y):
    """Slope and intercept covary differently in each row; two local latents per row."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", x.shape[0], dim=-2):
        level = numpyro.sample("level", dist.Normal(mu, 1.0))
        tilt = numpyro.sample("tilt", dist.Normal(0.0, 0.3))
        with numpyro.plate("repeats", x.shape[1], dim=-1):
            numpyro.sample("y", dist.Normal(level + (slope + tilt) * x, 0.7), obs=y)


def nested(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("groups", y.shape[0], dim=-3):
        group = numpyro.sample("group", dist.Normal(mu, 1.0))
        with numpyro.plate("members", y.shape[1], dim=-2):
            member = numpyro.sample("member", dist.Normal(group, 0.5))
            with numpyro.plate("repeats", y.shape[2], dim=-1):
                numpyro.sample("y", dist.Normal(member, 1.0), obs=y)


CASES = {
    "regression": (regression, (X, Y), {"rows": 6}),
    "nested": (nested, (GRID,), {"groups": 4}),
    "both plates": (nested, (GRID,), {"groups": 4, "members": 2}),
}


@functools.cache
def built(name):
    model, args, size = CASES[name]
    arguments, data = split(model, args, {})
    return build(model, arguments, batch_request(size, None)), Batch(data)


def perturbed_params(target, scale=0.3, seed=1):
    """Parameters of the guide, perturbed from the initial ones."""
    start = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}
    params = Plates(0.5).init(jax.random.key(0), target.space, start)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    noise = [np.asarray(scale * rng.normal(size=leaf.shape), np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise, strict=True)])


def parts(target, params):
    """The parameters and rows of every minibatch of an epoch, in order."""
    axes = Plates().row_axes(params, target.space, target.subsampled)
    blocks = [
        [
            {name: np.arange(start, start + size)}
            for start in range(0, target.subsampling.plates[name].size, size)
        ]
        for name, size in target.subsampled.items()
    ]
    for some in itertools.product(*blocks):
        index = {name: rows for one in some for name, rows in one.items()}
        yield take(params, axes, index), index


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_a_batch_are_those_of_its_rows(name):
    target, batch = built(name)
    guide, params = Plates(), perturbed_params(target)
    z = target.space.unravel(jnp.asarray(rng.normal(size=target.space.dim), jnp.float32))
    site_axes = {site.name: site.axes(target.subsampled) for site in target.space.sites}

    def densities(target, params, z, index):
        log_q = guide.log_prob(params, target.space, z, batch)
        log_p = target.log_density(z, batch._replace(index=index))
        return log_q, guide.entropy(params, target.space), log_p

    program = jax.jit(functools.partial(densities, target.on_batch))
    found = [
        program(some, take(z, site_axes, index), index) for some, index in parts(target, params)
    ]
    # rows have the same weight in the guide as in the model
    full = jax.jit(functools.partial(densities, target))(params, z, {})
    np.testing.assert_allclose(np.mean(found, axis=0), full, rtol=2e-5)


def exact(target, batch):
    """Mean and covariance of a Gaussian posterior, from its log density."""
    origin = jnp.zeros(target.space.dim)

    def log_density(vector):
        return target.log_density(target.space.unravel(vector), batch)

    gradient, hessian = jax.jit(lambda z: (jax.grad(log_density)(z), jax.hessian(log_density)(z)))(
        origin
    )
    covariance = np.linalg.inv(-np.asarray(hessian, float))
    return covariance @ np.asarray(gradient, float), covariance


@functools.cache
def fitted(name):
    model, args, size = CASES[name]
    return vijax.fit(model, *args, batch_size=size, progress_bar=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regression", "nested"])
def test_batches_reach_the_exact_posterior_of_a_linear_hierarchy(name):
    posterior = fitted(name)
    assert posterior.guide == Plates()
    assert posterior.converged
    mean, covariance = exact(*built(name))
    sd = np.sqrt(np.diag(covariance))
    found = gaussian_from_params(posterior.params, posterior.space)
    root = found.structure.draws(found.conditionals, np.eye(sd.size))
    found_sd = np.sqrt(np.diag(root.T @ root))
    correlation = root.T @ root / np.outer(found_sd, found_sd) - covariance / np.outer(sd, sd)
    # per-row parameters are not averaged, so they contain the noise of the last step size
    np.testing.assert_allclose((found.mean - mean) / sd, 0, atol=0.05)
    np.testing.assert_allclose(found_sd, sd, rtol=0.1)
    np.testing.assert_allclose(correlation, 0, atol=0.02)


@pytest.mark.slow
def test_draws_have_the_correlations_of_global_and_local_latents():
    posterior = fitted("nested")
    mean, covariance = exact(*built("nested"))
    sd, num = np.sqrt(np.diag(covariance)), 4000
    draws = posterior.sample(num)
    assert draws["member"].shape == (num, 12, 4, 1)
    assert list(draws)[:3] == list(posterior.space.names)
    flat = np.concatenate([draws[name].reshape(num, -1) for name in draws], axis=1)
    found = np.corrcoef(flat.T) - covariance / np.outer(sd, sd)
    assert np.abs(found).max() < 5 / np.sqrt(num) + 0.02
    np.testing.assert_allclose((flat.mean(0) - mean) / sd, 0, atol=5 / np.sqrt(num) + 0.05)


@pytest.mark.slow
def test_new_groups_are_drawn_given_the_global_latents():
    posterior, num = fitted("nested"), 4000
    new = np.zeros((5, 2, 1), np.float32)
    with pytest.raises(ModelError, match=r"site 'group'.*from_prior=\['group'\]"):
        posterior.predict(new, rng_key=1, num_draws=1)
    draws = posterior.predict(new, rng_key=1, num_draws=num, from_prior=["group", "member"])
    assert {name: x.shape[1:] for name, x in draws.items()} == {
        "group": (5, 1, 1),
        "member": (5, 2, 1),
        "y": (5, 2, 1),
    }
    variance = exact(*built("nested"))[1][0, 0] + np.array([1.0, 1.25, 2.25])
    for name, expected in zip(("group", "member", "y"), variance, strict=True):
        by_row = draws[name].reshape(num, -1).var(axis=0)
        np.testing.assert_allclose(by_row, expected, rtol=5 * np.sqrt(2 / num) + 0.05)
    known = posterior.predict(
        GRID, rng_key=2, num_draws=num, from_prior=["member"]
    )  # of the existing groups
    difference = known["member"].mean(axis=(0, 2)) - posterior.sample(num, rng_key=3)["group"].mean(
        axis=(0, 2)
    )
    np.testing.assert_allclose(difference, 0, atol=5 * np.sqrt((1 + 0.25 / 4) / num))
    with pytest.raises(ModelError, match=r"from_prior: expected a collection of some of the sites"):
        posterior.predict(new, rng_key=1, from_prior="group")


@pytest.mark.slow
def test_global_latents_keep_their_sd_with_many_groups_in_minibatches():
    """With independent rows the sd of `mu` is a seventh too small here, that of `tau` a third."""
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.3, 0.6, 1000).astype(np.float32)
    y = (1.5 + 0.7 * rng.normal(size=1000) + sd * rng.normal(size=1000)).astype(np.float32)
    posterior = vijax.fit(groups, y, sd, batch_size=100, progress_bar=False)
    assert posterior.guide == Plates()
    mean, exact_sd = exact_globals(y, sd)
    found = gaussian_from_params(posterior.params, posterior.space)
    np.testing.assert_allclose((found.mean[:2] - mean) / exact_sd, 0, atol=0.2)
    np.testing.assert_allclose(found.sd[:2], exact_sd, rtol=0.1)


def in_loops(jaxpr, inside=False):
    """The equations in the loop bodies of a jaxpr, inner jaxprs included."""
    for equation in jaxpr.eqns:
        inner = list(core.jaxprs_in_params(equation.params))
        for one in inner:
            yield from in_loops(one, inside or equation.primitive.name == "while")
        if inside and not inner:
            yield equation


def test_a_step_accesses_arrays_of_all_rows_only_by_gather_and_scatter():
    target, batch = built("regression")
    guide, algorithm = Plates(), Gradient(ELBO(), Adam(0.1))
    variables = jax.tree.map(lambda leaf: leaf[None], Variables(perturbed_params(target)))
    start = functools.partial(init_loop, target, guide, algorithm)
    loop = jax.eval_shape(start, variables, {}, jnp.ones(1), jax.random.key(0), batch)
    table = Batch({}, {"rows": np.zeros((512, 6), np.int32)})

    def steps(loop, batch, table):
        arguments = (jax.random.key(0), np.ones(1, bool), True, 0, 100, batch, table)
        return run_steps(target, guide, algorithm, False, 1, loop, *arguments)

    primitives = {
        equation.primitive.name
        for equation in in_loops(jax.make_jaxpr(steps)(loop, batch, table).jaxpr)
        if any(len(X) in value.aval.shape for value in [*equation.invars, *equation.outvars])
    }
    assert primitives == {"gather", "scatter"}


def test_the_automatic_guide_has_blocks_if_they_have_few_parameters():
    assert plates_affordable_on_batches(built("nested")[0].space, ["groups"])
    assert not plates_affordable_on_batches(
        built("nested")[0].space, ["members"]
    )  # groups stay dense
    assert not plates_affordable_on_batches(
        built("nested")[0].space.on_rows({"groups": 10_000}), ["groups"]
    )

    def wide(y):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([40]).to_event(1))
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(z + w.sum(), 1.0), obs=y)

    arguments, _ = split(wide, (X[:, 0],), {})
    assert not plates_affordable_on_batches(
        build(wide, arguments).space, ["rows"]
    )  # 41 parameters per z
