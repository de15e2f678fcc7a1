import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.solvers import problems
from vijax.contracts import Batch
from vijax.guides import Delta, FullRank, LowRank, MeanField
from vijax.model import build, from_log_density, split, unwrap
from vijax.solvers import (
    BatchAndMatch,
    FixedDraws,
    Kernel,
    LaplaceSolver,
    ModeSolver,
    Pathfinder,
    VariationalNewton,
)
from vijax.solvers.gaussians.conversion import location


@pytest.fixture
def compiled():
    """Names of what XLA compiles while a test runs."""
    names = []

    def listen(event, duration, **details):
        if event.endswith("backend_compile_duration"):
            names.append(details.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def exact(points, mean, precision):
    residual = points - mean
    gradient = -residual @ precision
    return 0.5 * np.sum(residual * gradient, axis=1), gradient


@pytest.mark.parametrize("num", [1, 15, 16, 17, 50])
def test_any_number_of_points_goes_through_one_program(num):
    known = problems.gaussian(3, 10.0)
    kernel = known.case.kernel()
    points = kernel.round(np.random.default_rng(0).normal(size=(num, 3)))
    log_density, gradient = kernel(points)
    expected = exact(points, known.mean, np.linalg.inv(known.covariance))
    assert log_density.dtype == gradient.dtype == np.float64
    np.testing.assert_allclose(log_density, expected[0], rtol=1e-4)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-3, atol=1e-4)
    assert kernel.calls == -(-num // kernel.block)
    assert kernel.points == num


def test_accelerators_evaluate_more_points_at_once(monkeypatch):
    def block(rows):
        batch = Batch({"x": np.zeros((rows, 11), np.float32)})
        return Kernel(problems.gaussian(3, 10.0).case.target, batch).block

    assert [block(rows) for rows in (100, 5000, 10**6)] == [64, 16, 16]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [block(rows) for rows in (100, 5000, 10**6)] == [64, 64, 16]
    for device in (jax.devices("cpu")[0], "cpu"):  # a fit that the user keeps on the CPU
        with jax.default_device(device):
            assert block(5000) == 16


def test_hessian_is_exact_and_its_program_is_made_on_demand():
    known = problems.gaussian(21, 100.0)  # a shape that no other test compiles for
    kernel = known.case.kernel()
    kernel(np.zeros((1, 21)))
    before = len(known.case.target.programs.compiled)
    hessian = kernel.hessian(np.ones(21))
    assert len(known.case.target.programs.compiled) == before + 1
    precision = np.linalg.inv(known.covariance)
    np.testing.assert_allclose(-hessian, precision, atol=1e-4 * np.abs(precision).max())
    vectors = np.random.default_rng(1).normal(size=(3, 21))
    expected = vectors @ precision
    products = kernel.products(np.ones(21), vectors)
    np.testing.assert_allclose(-products, expected, atol=1e-3 * np.abs(precision).max())
    paired = kernel.paired_products(np.ones((3, 21)), vectors)
    np.testing.assert_allclose(-paired, expected, atol=1e-3 * np.abs(precision).max())


def test_paired_products_take_each_point_with_its_own_vector():
    kernel = problems.logistic(dim=4).kernel()
    points, vectors = np.random.default_rng(0).normal(size=(2, 20, 4))
    expected = [kernel.products(p, v[None])[0] for p, v in zip(points, vectors, strict=True)]
    np.testing.assert_allclose(
        kernel.paired_products(points, vectors), expected, rtol=1e-4, atol=1e-3
    )


def test_non_finite_results_are_data():
    kernel = problems.fenced().kernel()
    log_density, gradient = kernel(
        np.array([[0.0, 0, 0], [-2, 0, 0], [np.inf, 0, 0], [1e300, 0, 0]])
    )
    assert np.isfinite(log_density[0])
    assert np.isfinite(gradient[0]).all()
    assert (log_density[1:] == -np.inf).all()


def test_joint_points_hold_the_param_sites():
    y = np.array([1.0, 2.0, 4.0], np.float32)
    case = problems.case(problems.param_model, y)
    model = {"shift": jnp.asarray(0.25)}
    kernel = Kernel(case.target, case.batch, model, joint=True)
    assert kernel.dim == 2
    point = kernel.pack(np.array([0.5]))
    np.testing.assert_array_equal(point, [0.5, 0.25])
    _, gradient = kernel(point[None])
    residual = np.sum(y - 0.75)
    np.testing.assert_allclose(gradient[0], [residual - 0.5, residual], rtol=1e-6)
    location, moved = kernel.unpack(np.array([3.0, 4.0]))
    np.testing.assert_array_equal(location, [3.0])
    assert float(moved["shift"]) == 4.0
    assert moved["shift"].dtype == model["shift"].dtype
    assert [kernel.label(i) for i in range(2)] == ["z", "shift"]
    apart = Kernel(case.target, case.batch, model)
    np.testing.assert_allclose(apart(np.array([[0.5]]))[1][0], [residual - 0.5], rtol=1e-6)


SOLVERS = {
    "pathfinder": (Pathfinder(), FullRank(), {"solver_kernel"}),
    "batch_and_match": (BatchAndMatch(), FullRank(), {"solver_kernel"}),
    "variational_newton": (VariationalNewton(), FullRank(), {"solver_kernel"}),
    "low_rank": (BatchAndMatch(), LowRank(rank=2), {"solver_kernel"}),
    "mode": (ModeSolver(), Delta(), {"solver_kernel"}),
    "fixed_draws": (FixedDraws(), MeanField(), {"solver_kernel"}),
    "laplace": (LaplaceSolver(), FullRank(), {"solver_kernel", "solver_products"}),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solve_compiles_its_kernel_and_a_second_one_nothing(name, compiled):
    solver, guide, expected = SOLVERS[name]
    rng = np.random.default_rng(0)
    # a shape of its own, so that no other test has compiled for it
    rows = 60 + list(SOLVERS).index(name)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    first = problems.case(problems.logistic_model, x, (x[:, 0] > 0.3).astype(np.float32))
    second = problems.case(problems.logistic_model, x + 0.1, (x[:, 1] > 0).astype(np.float32))
    key = jax.random.key(1)
    variables = first.variables(guide)
    jax.random.key_data(key)

    compiled.clear()
    one = solver.solve(key, first.target, guide, variables, first.batch)
    assert {program.__name__ for program in first.target.programs.compiled.values()} == expected
    assert len(compiled) == len(expected), compiled
    assert all(program._cache_size() == 1 for program in first.target.programs.compiled.values())

    compiled.clear()
    two = solver.solve(key, second.target, guide, variables, second.batch)
    assert second.target is first.target
    assert compiled == []
    # the data is an argument: it changed the answer
    before, after = (location(s.variables.guide, first.target.space) for s in (one, two))
    assert np.abs(after - before).max() > 0.1


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_hashable_and_repeatable(name):
    solver, guide, _ = SOLVERS[name]
    assert hash(solver) == hash(type(solver)())
    assert solver == type(solver)()
    case = problems.logistic(dim=3)
    variables = case.variables(guide)
    key = jax.random.key(3)
    one, two = (solver.solve(key, case.target, guide, variables, case.batch) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one.variables, two.variables)
    assert one.reason == two.reason
    assert one.converged
    assert one.evaluations == two.evaluations > 0


def test_products_of_a_model_with_reverse_mode_only():
    """As `odeint`: Hessian-vector products are finite differences of the gradient."""

    @jax.custom_vjp
    def log_cosh(x):
        return jnp.log(jnp.cosh(x))

    log_cosh.defvjp(lambda x: (log_cosh(x), x), lambda x, g: (g * jnp.tanh(x),))

    def kernel(function):
        def log_density(values):
            x = values["x"]
            return -function(x).sum() - 0.5 * jnp.sum((x - x[::-1] / 3) ** 2)

        model, args, kwargs = unwrap(from_log_density(log_density, {"x": (3,)}), (), {})
        arguments, data = split(model, args, kwargs)
        return Kernel(build(model, arguments), Batch(data))

    reverse, both = kernel(log_cosh), kernel(lambda x: jnp.log(jnp.cosh(x)))
    point = np.array([0.3, -1.2, 40.0])
    np.testing.assert_allclose(reverse.hessian(point), both.hessian(point), atol=3e-3)
    points, vectors = np.random.default_rng(0).normal(size=(2, 5, 3))
    vectors[0] = 0.0  # differences of its gradient are, too
    np.testing.assert_allclose(
        reverse.paired_products(points, 1e3 * vectors),
        both.paired_products(points, 1e3 * vectors),
        atol=3.0,
    )
