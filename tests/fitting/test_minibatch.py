"""Minibatch fits: per-row parameters, and the same results as on full data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from tests.groups import PRECISION, data, groups, hierarchy
from vijax import GuideError
from vijax.contracts import Batch
from vijax.engine.row_parameters import (
    pack,
    put_packed,
    shared,
    take,
    take_packed,
    unpack,
    variable_axes,
)
from vijax.guides import Delta, MeanField
from vijax.model import batch_request, build, split
from vijax.objectives import ELBO

ROWS = 60
rng = np.random.default_rng(1)
Y = data(ROWS)


def subsampled(y):
    with numpyro.plate("rows", ROWS, subsample_size=12, dim=-2) as rows:
        theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
        with numpyro.plate("repeats", y.shape[1], dim=-1):
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y[rows])


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


SPLIT = {"theta": "meanfield", ...: "fullrank"}


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def subsampled_target(size=12):
    arguments, data = split(hierarchy, (Y,), {})
    return build(hierarchy, arguments, batch_request({"rows": size}, None)), Batch(data)


def params_on_rows(target, guide, params, rows):
    axes = guide.row_axes(params, target.space, target.subsampled)
    return take(params, axes, {"rows": rows})


@pytest.mark.parametrize("estimator", ["entropy", "plain"])
def test_the_average_loss_over_all_batches_is_the_full_loss(estimator):
    arguments, data = split(hierarchy, (Y[:6],), {})
    target, batch = build(hierarchy, arguments, batch_request({"rows": 2}, None)), Batch(data)
    guide = MeanField(init_scale=1e-4)  # so narrow that Monte Carlo noise is negligible
    start = {s.name: jnp.full(s.z_shape, 0.5) for s in target.space.sites}
    params = guide.init(jax.random.key(0), target.space, start)
    objective = ELBO(estimator=estimator)

    def loss(target, params, batch):
        variables = vijax.contracts.Variables(params)
        key = jax.random.key(1)
        setting = vijax.contracts.LossContext({}, key, target, guide, batch, jnp.zeros(()))
        return objective(variables, setting)[0]

    whole = loss(target, params, batch)
    sets = np.array(list(itertools.combinations(range(6), 2)))
    values = [
        loss(
            target.on_batch,
            params_on_rows(target, guide, params, rows),
            Batch(data, {"rows": rows}),
        )
        for rows in sets
    ]
    # "plain" has the noise of `log q`, with sd sqrt(dim / 2)
    tolerance = 1e-3 if estimator == "entropy" else 5 * np.sqrt(7 / 2) * 3 / np.sqrt(len(sets))
    assert abs(np.mean(values) - whole) < tolerance * (1 if estimator == "plain" else abs(whole))


def test_guide_densities_are_rescaled_like_the_model():
    target, batch = subsampled_target(12)
    guide = MeanField()
    start = {s.name: jnp.zeros(s.z_shape) for s in target.space.sites}
    params = guide.init(jax.random.key(0), target.space, start)
    params = params._replace(
        log_scale={n: jnp.linspace(-1.0, 1.0, x.size).reshape(x.shape) for n, x in start.items()}
    )
    blocks = np.arange(ROWS).reshape(-1, 12)
    parts = [params_on_rows(target, guide, params, rows) for rows in blocks]
    space = target.on_batch.space
    entropies = [guide.entropy(part, space) for part in parts]
    np.testing.assert_allclose(np.mean(entropies), guide.entropy(params, target.space), rtol=1e-5)
    z = {n: x + 0.3 for n, x in start.items()}
    densities = [
        guide.log_prob(part, space, z | {"theta": z["theta"][rows]}, batch)
        for part, rows in zip(parts, blocks, strict=True)
    ]
    np.testing.assert_allclose(
        np.mean(densities), guide.log_prob(params, target.space, z, batch), rtol=1e-5
    )


def test_gathered_rows_are_scattered_to_the_same_rows():
    target, _ = subsampled_target()
    params = MeanField().init(
        jax.random.key(0), target.space, {s.name: jnp.zeros(s.z_shape) for s in target.space.sites}
    )
    axes = MeanField().row_axes(params, target.space, target.subsampled)
    rows = np.array([5, 2, 40])
    packed = pack(params, axes)
    assert packed.blocks["rows float32"].shape == (ROWS, 2)
    for one, other in zip(
        jax.tree.leaves(unpack(packed, axes)), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    part = jax.tree.map(lambda leaf: leaf + 1, take_packed(packed, axes, {"rows": rows}))
    after = unpack(put_packed(packed, part, axes, {"rows": rows}), axes)
    expected = np.zeros((ROWS, 1))
    expected[rows] = 1
    np.testing.assert_array_equal(after.loc["theta"], expected)
    assert float(after.loc["mu"]) == 1
    assert shared(params, axes).loc == {"mu": params.loc["mu"], "theta": None}


def test_rows_of_two_plates_are_gathered_and_scattered():
    leaf = jnp.zeros((4, 3, 2))
    axes = vijax.contracts.Axes((("a", 0), ("b", 1)))
    index = {"a": np.array([3, 1]), "b": np.array([2])}
    part = take(leaf, axes, index)
    assert part.shape == (2, 1, 2)
    packed = pack(leaf, axes)
    np.testing.assert_array_equal(take_packed(packed, axes, index), part)
    after = np.asarray(unpack(put_packed(packed, part + 1, axes, index), axes))
    assert after.sum() == 4
    assert (after[[1, 3], 2] == 1).all()


def test_a_step_updates_only_the_parameters_of_its_rows():
    options = {"guide": SPLIT, "optimizer": optax.adam(0.1), "num_steps": 1}
    fitted = fit(hierarchy, Y, batch_size={"rows": 12}, **options)
    rows = fitted._result.engine.problem.schedule.index(0)["rows"]
    local = fitted.params[1]
    moved = np.flatnonzero(np.asarray(local.loc["theta"])[:, 0] != 0)
    assert set(moved) == set(rows.tolist())
    (block,) = fitted._result.run.loop.state.blocks.values()  # loc, log sd and two moments of each
    assert block.shape == (1, ROWS, 6)
    moments = np.asarray(block)[0, :, 2:]
    assert set(np.flatnonzero(moments.any(axis=1))) == set(rows.tolist())


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (groups, {"batch_size": {"rows": 12}}),
        pytest.param(subsampled, {}, marks=pytest.mark.slow),
    ],
)
def test_local_latent_variables_reach_their_exact_posterior(model, options):
    posterior = fit(model, Y, **options)
    assert posterior.converged
    params = posterior.params
    mean, sd = Y.sum(1) / PRECISION, PRECISION**-0.5
    np.testing.assert_allclose(params.loc["theta"][:, 0], mean, atol=0.15 * sd)
    np.testing.assert_allclose(np.exp(params.log_scale["theta"]), sd, rtol=0.15)
    error = (np.asarray(params.loc["theta"])[:, 0] - mean) / sd
    assert np.sqrt(np.mean(error**2)) < 0.05
    draws = posterior.sample(500)["theta"]
    assert draws.shape == (500, ROWS, 1)


def test_point_masses_of_local_variables_reach_the_mode():
    posterior = fit(groups, Y, batch_size={"rows": 12}, guide=Delta())
    mode = Y.sum(1) / PRECISION
    np.testing.assert_allclose(posterior.params.loc["theta"][:, 0], mode, atol=0.02)


@pytest.mark.slow
def test_resumed_fits_equal_uninterrupted_ones_saved_or_not(tmp_path):
    options = {"batch_size": {"rows": 7}, "optimizer": optax.adam(0.05)}
    whole = fit(hierarchy, Y, num_steps=300, **options)
    first = fit(hierarchy, Y, num_steps=100, **options)
    first.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", hierarchy, Y, optimizer=optax.adam(0.05))
    for again in (first, loaded):
        resumed = again.resume(200, progress_bar=False)
        for one, other in zip(
            jax.tree.leaves(resumed._result.run.loop.state),
            jax.tree.leaves(whole._result.run.loop.state),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)


def test_minibatches_reach_the_full_data_posterior():
    x = rng.normal(size=(500, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -0.5, 0.2]) + rng.normal(size=500)).astype(np.float32)
    posterior = fit(regression, x, y, batch_size=50)
    precision = x.T @ x + np.eye(3)
    mean, sd = np.linalg.solve(precision, x.T @ y), np.sqrt(np.diag(np.linalg.inv(precision)))
    assert posterior.status in ("certified", "corrected")
    draws = posterior.sample(4000)["w"]
    np.testing.assert_allclose(
        draws.mean(0), mean, atol=5 * sd.max() / np.sqrt(1000) + 0.03 * sd.max()
    )
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.08)
    evidence = -0.5 * (
        500 * np.log(2 * np.pi) + np.linalg.slogdet(precision)[1] + y @ y - mean @ precision @ mean
    )
    found = posterior.importance(rng_key=1)
    assert abs(found.log_evidence - evidence) < 5 * found.log_evidence_se + 0.01
    # new rows
    new, seen = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    density = posterior.log_predictive_density(new, seen, rng_key=2, num_draws=4000)["y"]
    variance = 1 + np.einsum("ij,jk,ik->i", new, np.linalg.inv(precision), new)
    exact = -0.5 * (np.log(2 * np.pi * variance) + (seen - new @ mean) ** 2 / variance)
    np.testing.assert_allclose(density, exact, atol=0.02)


def test_a_guide_without_per_row_parameters_is_rejected():
    with pytest.raises(
        GuideError, match=r"per-row parameters for site 'theta'.*'meanfield', \.\.\.: 'fullrank'"
    ):
        fit(hierarchy, Y, batch_size={"rows": 12}, guide="fullrank")


def test_an_optimizer_without_per_row_state_is_rejected():
    with pytest.raises(TypeError, match="optimizer: expected one with separate state"):
        fit(groups, Y, batch_size={"rows": 12}, optimizer=optax.lbfgs(), num_steps=2)


def test_the_axes_of_a_composition_are_those_of_its_parts():
    options = {"guide": SPLIT, "num_steps": 1, "optimizer": optax.sgd(0.0)}
    posterior = fit(hierarchy, Y, batch_size={"rows": 12}, **options)
    axes = variable_axes(
        posterior.guide,
        posterior._result.variables,
        posterior.space,
        posterior._result.target.subsampled,
    )
    assert axes.guide[1].loc["theta"].pairs == (("rows", 0),)
    assert all(not one.pairs for one in jax.tree.leaves(axes.guide[0]))
