"""Gaussians structured by plates: the algebra, and hierarchies with known posteriors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from tests.solvers.problems import case
from tests.targets import problem
from vijax.auto.stages import CENTERING, PLATES
from vijax.guides import Plates
from vijax.guides.structured.plate_levels import (
    coordinate_indices,
    join_levels,
    levels,
    sharing_counts,
    split_levels,
)
from vijax.guides.structured.plates import plates_affordable
from vijax.runtime.errors import GuideError
from vijax.solvers import StructuredNewton
from vijax.solvers.gaussians.structured_conversion import gaussian_from_params, structured_to_params
from vijax.solvers.gaussians.tree import Tree


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def nested(y):
    """Two sites outside plates, nested plates, and a separate plate."""
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("schools", 3, dim=-1):
        b = numpyro.sample("b", dist.Normal(a[0], 1))
        with numpyro.plate("classes", 4, dim=-2):
            numpyro.sample("c", dist.Normal(b, 1))
            numpyro.sample("d", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("years", 5):
        numpyro.sample("e", dist.Normal(0, 1).expand([2]).to_event(1))
    numpyro.sample("m", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(a[1], 1), obs=y)


@functools.cache
def space():
    return case(nested, np.float32(0.0)).target.space


def random_precision():
    """A well-conditioned dense precision with this sparsity pattern."""
    tree, rng = Tree(space()), np.random.default_rng(0)
    mask = np.zeros((tree.dim, tree.dim), bool)
    for node in tree.nodes:
        for r, row in enumerate(node.coords):
            mask[np.ix_(row, row)] = True
            for lower, rows in node.descendants:
                selected = slice(None) if rows is None else rows == r
                below = tree.nodes[lower].coords[selected].ravel()
                mask[np.ix_(row, below)] = mask[np.ix_(below, row)] = True
    root = rng.normal(size=mask.shape) * mask
    dense = root + root.T
    return tree, dense + np.eye(tree.dim) * 0.6 * np.abs(dense).sum(axis=1).max()


def random_conditionals(tree, rng):
    _, plain = tree.eliminate(tree.diagonal(np.ones(tree.dim)), None)
    return [one._replace(gain=rng.normal(size=one.gain.shape)) for one in plain]


def test_levels_follow_the_plates():
    found = levels(space())
    names = [[site.name for site in level.sites] for level in found]
    assert names == [["a", "m"], ["b"], ["e"], ["c", "d"]]
    assert [level.parent for level in found] == [None, 0, 0, 1]
    assert [(level.rows, level.width) for level in found] == [(1, 3), (3, 1), (5, 2), (12, 3)]
    assert [level.ancestor_widths for level in found] == [(), (3,), (3,), (3, 1)]
    rows = [list(num) for num in sharing_counts(space())]
    assert rows == [[], [3] * 3, [5] * 3, [12, 12, 12, 4]]
    assert [list(num) for num in sharing_counts(space().on_rows({"classes": 2}))] == rows
    coords = np.concatenate([level.ravel() for level in coordinate_indices(space())])
    assert sorted(coords) == list(range(space().dim))


def test_split_levels_is_inverted_by_join_levels():
    labels = np.array(space().coordinates())
    rows = coordinate_indices(space())[3]
    # the row of class 2 in school 1, in the grid of classes and schools
    assert set(labels[rows[2 * 3 + 1]]) == {"c[2,1]", "d[2,1,0]", "d[2,1,1]"}
    z = space().unravel(jnp.arange(float(space().dim)))
    parts = split_levels(space(), z)
    for part, coords in zip(parts, coordinate_indices(space()), strict=True):
        np.testing.assert_array_equal(part, coords)
    again = join_levels(space(), parts)
    assert list(again) == list(space().names)
    jax.tree.map(np.testing.assert_array_equal, again, z)


def test_the_algebra_matches_the_dense_matrix():
    tree, dense = random_precision()
    rng = np.random.default_rng(1)
    blocks = tree.estimate_blocks(
        lambda vectors: vectors @ dense, 4, rng, random_conditionals(tree, rng)
    )
    kept, found = tree.eliminate(blocks, None)
    covariance, rhs = np.linalg.inv(dense), rng.normal(size=tree.dim)
    np.testing.assert_allclose(tree.solve(found, rhs), covariance @ rhs, atol=1e-12)
    np.testing.assert_allclose(tree.sds(found) ** 2, np.diag(covariance), rtol=1e-9)
    log_det = 0.5 * np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(tree.log_det(found), log_det)
    # the map from normals to draws is a root of the covariance
    root = tree.draws(found, np.eye(tree.dim))
    np.testing.assert_allclose(root.T @ root, covariance, atol=1e-12)
    np.testing.assert_allclose(tree.diagonal_of(kept), np.diag(dense), rtol=1e-9)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-9), kept, tree.blocks(found))


def crossed(y, sd):
    """Each observation depends on a row of each of two plates: not a Gaussian of the family."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("one", y.shape[0]):
        a = numpyro.sample("a", dist.Normal(mu, 1))
    with numpyro.plate("other", y.shape[1]):
        b = numpyro.sample("b", dist.Normal(0.5 * mu, 1))
    numpyro.sample("y", dist.Normal(a[:, None] + b, sd).to_event(2), obs=y)


def test_crossed_plates_reach_the_optimum_of_the_elbo():
    """The divergence from the exact posterior is stationary in every parameter of the guide."""
    y = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    solver = StructuredNewton(tolerance=1e-5)
    posterior = fit(crossed, y, np.float32(0.7), guide="plates", algorithm=solver)
    assert posterior.converged
    design = np.column_stack(
        [np.zeros(12), np.kron(np.eye(3), np.ones((4, 1))), np.tile(np.eye(4), (3, 1))]
    )
    prior = np.diag([1.0 + 3 + 4 * 0.25, *np.ones(7)])
    prior[0, 1:] = prior[1:, 0] = [-1.0] * 3 + [-0.5] * 4
    precision = prior + design.T @ design / 0.49
    found = gaussian_from_params(posterior.params, posterior.space)
    tree, dim = found.structure, 8

    def divergence(conditionals):
        """`KL(q || p)` up to a constant."""
        root = tree.draws(conditionals, np.eye(dim))
        return 0.5 * np.trace(precision @ root.T @ root) - tree.log_det(conditionals)

    def perturbed(by, rng):
        return [
            one._replace(
                gain=one.gain + by * rng.normal(size=one.gain.shape),
                covariance=one.covariance * np.exp(by * rng.normal(size=(len(one.gain), 1, 1))),
            )
            for one in found.conditionals
        ]

    for seed in range(5):
        up, down = (perturbed(by, np.random.default_rng(seed)) for by in (1e-4, -1e-4))
        assert abs(divergence(up) - divergence(down)) / 2e-4 < 1e-3
        away = perturbed(0.1, np.random.default_rng(seed))
        assert divergence(away) > divergence(found.conditionals) + 0.001
    np.testing.assert_allclose(
        found.mean, np.linalg.solve(precision, design.T @ y.ravel() / 0.49), atol=1e-4
    )


def test_random_signs_average_out_couplings_within_a_plate():
    tree, dense = random_precision()
    rng = np.random.default_rng(1)
    rows = tree.nodes[2].coords  # the years
    dense[rows[0, 0], rows[3, 1]] = dense[rows[3, 1], rows[0, 0]] = 1.0
    _, at = tree.eliminate(tree.diagonal(np.ones(tree.dim)), None)
    num = 400
    blocks = tree.estimate_blocks(lambda vectors: vectors @ dense, num, rng, at)
    error = blocks[2].diagonal - np.stack([dense[np.ix_(row, row)] for row in rows])
    assert 0 < np.abs(error).max() < 5 / np.sqrt(num)


def test_a_linear_gaussian_hierarchy_is_exact():
    exact = problem("hierarchy")
    posterior = fit(exact.model, *exact.args, guide="plates")
    found = gaussian_from_params(posterior.params, posterior.space)
    sd = np.sqrt(np.diag(exact.covariance))
    np.testing.assert_allclose((found.mean - exact.mean) / sd, 0, atol=1e-4)
    root = found.structure.draws(found.conditionals, np.eye(5))
    np.testing.assert_allclose(
        root.T @ root / np.outer(sd, sd), exact.covariance / np.outer(sd, sd), atol=1e-5
    )
    np.testing.assert_allclose(
        found.conditional_sd**-2, np.diag(np.linalg.inv(exact.covariance)), rtol=1e-5
    )
    np.testing.assert_allclose(posterior.elbo, exact.log_evidence, atol=1e-4)
    assert posterior.status == "certified"


def test_parameters_represent_the_gaussian():
    tree, dense = random_precision()
    guide, rng = Plates(), np.random.default_rng(2)
    z = space().unravel(jnp.zeros(tree.dim))
    params = guide.init(jax.random.key(0), space(), z)
    gaussian = gaussian_from_params(params, space())
    np.testing.assert_allclose(gaussian.sd, 0.1, rtol=1e-6)
    blocks = tree.estimate_blocks(lambda v: v @ dense, 2, rng, gaussian.conditionals)
    _, conditionals = tree.eliminate(blocks, None)
    gaussian = gaussian._replace(mean=rng.normal(size=tree.dim), conditionals=conditionals)
    params = structured_to_params(params, gaussian, space())
    again = gaussian_from_params(params, space())
    noise = rng.normal(size=(3, tree.dim))
    np.testing.assert_allclose(again.transform(noise), gaussian.transform(noise), atol=1e-5)
    # the guide's density on the device is that of the dense Gaussian, including nested rows
    draw = jax.jit(lambda key: guide.draw(params, space(), key, None))(jax.random.key(1))
    away = np.asarray(space().ravel(draw.z), float) - gaussian.mean
    expected = -0.5 * away @ dense @ away - gaussian.log_det - 0.5 * tree.dim * np.log(2 * np.pi)
    np.testing.assert_allclose(draw.log_q, expected, rtol=1e-4)
    density = jax.jit(lambda z: guide.log_prob(params, space(), z, None))
    np.testing.assert_allclose(density(draw.z), expected, rtol=1e-4)


def groups(y, sd):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    with numpyro.plate("groups", y.size):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sd), obs=y)


def exact_globals(y, sd):
    """Mean and sd of `(mu, log tau)`: by quadrature over `log tau`, `mu` in closed form."""
    y, sd = y.astype(float), sd.astype(float)
    log_tau = np.linspace(-0.8, 0.1, 2001)
    variance = np.exp(2 * log_tau)[:, None] + sd**2
    precision = (1 / variance).sum(1) + 1 / 25
    mean = (y / variance).sum(1) / precision
    square = (y**2 / variance).sum(1) - precision * mean**2
    log_density = -0.5 * (square + np.log(variance).sum(1) + np.log(precision))
    log_density += log_tau - np.exp(2 * log_tau) / 50
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    found = np.array([weights @ mean, weights @ log_tau])
    second_moments = [weights @ (mean**2 + 1 / precision), weights @ log_tau**2]
    return found, np.sqrt(second_moments - found**2)


@pytest.mark.slow
def test_many_groups_are_fitted_by_the_automatic_search():
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.1, 3.0, 600).astype(np.float32)
    y = (1.5 + 0.7 * rng.normal(size=600) + sd * rng.normal(size=600)).astype(np.float32)
    posterior = fit(groups, y, sd)
    assert posterior.guide == Plates()
    assert [attempt.stage for attempt in posterior.history] == [PLATES, CENTERING]
    assert posterior.status == "certified"
    mean, sds = exact_globals(y, sd)
    gaussian = gaussian_from_params(posterior.params, posterior.space)
    np.testing.assert_allclose((gaussian.mean[:2] - mean) / sds, 0, atol=0.1)
    np.testing.assert_allclose(gaussian.sd[:2], sds, rtol=0.05)


def test_a_model_without_plates_is_rejected():
    exact = problem("regression")
    with pytest.raises(
        GuideError, match=r"Plates: expected a site inside a numpyro.plate, got none"
    ):
        fit(exact.model, *exact.args, guide="plates")


def test_parameters_survive_saving_and_loading(tmp_path):
    """The first level has no ancestors: some of its parameters are empty."""
    exact = problem("hierarchy")
    posterior = fit(exact.model, *exact.args, guide="plates")
    posterior.save(tmp_path / "plates.vijax")
    again = vijax.load(tmp_path / "plates.vijax", exact.model, *exact.args)
    jax.tree.map(np.testing.assert_array_equal, again.params, posterior.params)


def wide(width):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("rows", 3):
        numpyro.sample("x", dist.Normal(mu, 1).expand([width]).to_event(1))


@pytest.mark.parametrize(("width", "suitable"), [(2, True), (200, False)])
def test_it_is_affordable_for_small_blocks(width, suitable):
    assert plates_affordable(case(wide, width).target.space) == suitable
    assert not plates_affordable(problem("regression").target.space)


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (lambda mu: jnp.where(mu < 5.0, jnp.nan, 0.0), "no draws of the start have a finite log"),
        (lambda mu: jnp.maximum(mu - 9.0, 0.0) ** 1.5, "second derivatives are not finite"),
    ],
)
def test_non_finite_values_are_reported(factor, reason):
    def fenced(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("rows", 2):
            numpyro.sample("x", dist.Normal(mu, 1))
        numpyro.factor("invalid", factor(mu) + y)

    problem_case = case(fenced, np.float32(0.0))
    solution = StructuredNewton().solve(
        jax.random.key(0),
        problem_case.target,
        Plates(),
        problem_case.variables(Plates()),
        problem_case.batch,
    )
    assert not solution.converged
    assert reason in solution.reason
