"""Building a target compiles nothing; equal models share a target, and data are arguments."""

import collections
import contextvars
import functools
import io
import os
import threading
from array import ArrayType

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from tests.model.zoo import CASES
from vijax.contracts import Batch
from vijax.model import build, split, unwrap
from vijax.model.tracing.supports import bijector
from vijax.runtime.errors import ModelError

_compilations = []


def _listen(event, duration, **_):
    if "backend_compile" in event:
        _compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


def make(model, *args, **kwargs):
    model, args, kwargs = unwrap(model, args, kwargs)
    arguments, data = split(model, args, kwargs)
    return build(model, arguments), Batch(data)


def evaluate(target, z, batch):
    return target.evaluate(z, batch, {}, {})


SIGMA = 1.0


def normal_mean(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(mu, SIGMA), obs=y)


def test_the_listener_counts_compilations():
    before = len(_compilations)
    jax.jit(lambda x: 3 * x + 1.25)(np.arange(7.0)).block_until_ready()
    assert len(_compilations) > before


@pytest.mark.parametrize("name", ["regression", "flax_batch_norm", "state_space", "subsampled"])
def test_building_compiles_nothing(name):
    case = CASES[name]

    def fresh(*args, **kwargs):  # in no cache, of build or of jax
        return case.model(*args, **kwargs)

    arguments, _ = split(case.model, case.args, case.kwargs)
    before = len(_compilations)
    build(fresh, arguments)
    assert len(_compilations) == before


@pytest.mark.parametrize("name", CASES)
def test_data_are_not_constants(name):
    case = CASES[name]
    target, batch = make(case.model, *case.args, **case.kwargs)
    start = jax.eval_shape(target.initialize, jax.random.key(0), batch)
    z = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}
    jaxpr = jax.make_jaxpr(target.evaluate)(z, batch, *start)
    for constant in jaxpr.consts:
        for name, array in batch.data.items():
            same = constant.shape == array.shape and array.size > 1
            assert not (same and np.array_equal(constant, array)), name


def test_new_data_changes_the_value_and_compiles_nothing():
    target, batch = make(normal_mean, np.zeros(5, np.float32))
    z = {"mu": jnp.array(0.5)}
    first = target.program(evaluate)(z, batch).log_density
    other, batch = make(normal_mean, np.full(5, 3.0, np.float32))
    before = len(_compilations)
    second = other.program(evaluate)(z, batch).log_density
    assert other is target
    assert len(_compilations) == before
    assert first != second


def test_other_shapes_and_static_values_make_another_target():
    def model(y, power):
        mu = numpyro.sample("mu", dist.Normal())
        numpyro.sample("y", dist.Normal(mu**power, 1.0), obs=y)

    one, _ = make(model, np.zeros(3, np.float32), 1)
    assert make(model, np.ones(3, np.float32), 1)[0] is one
    assert make(model, np.zeros(4, np.float32), 1)[0] is not one
    assert make(model, np.zeros(3, np.float32), 2)[0] is not one
    assert make(model, np.zeros(3, np.int32), 1)[0] is not one


def test_equal_closures_share_a_target():
    def make_model(scale):
        def model(y):
            mu = numpyro.sample("mu", dist.Normal(0.0, scale))
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

        return model

    y = np.zeros(3, np.float32)
    assert make(make_model(1.0), y)[0] is make(make_model(1.0), y)[0]
    assert make(make_model(1.0), y)[0] is not make(make_model(2.0), y)[0]


def test_a_changed_global_makes_another_target(monkeypatch):
    y = np.zeros(5, np.float32)
    z = {"mu": jnp.array(0.5)}
    target, batch = make(normal_mean, y)
    before = target.program(evaluate)(z, batch).log_density
    monkeypatch.setitem(globals(), "SIGMA", 3.0)
    target, batch = make(normal_mean, y)
    after = target.program(evaluate)(z, batch).log_density
    expected = dist.Normal(0.5, 3.0).log_prob(y).sum() + dist.Normal(0.0, 10.0).log_prob(0.5)
    np.testing.assert_allclose(after, expected, rtol=1e-5)
    assert before != after


def test_arguments_of_a_partial_are_data():
    y = np.zeros(3, np.float32)
    target, batch = make(functools.partial(normal_mean, y))
    assert set(batch.data) == {"y"}
    assert make(functools.partial(normal_mean, y + 1))[0] is target


def test_the_model_sees_arrays_only_as_tracers():
    seen = []

    def model(y, size):
        seen.append((isinstance(y, jax.core.Tracer), size))
        numpyro.sample("mu", dist.Normal())

    make(model, np.zeros(3), np.int64(3))
    assert seen == [(True, 3)]


def test_randomness_of_the_model_follows_the_batch_key():
    case = CASES["flax_dropout"]
    target, batch = make(case.model, *case.args)
    model, mutable = target.initialize(jax.random.key(0), batch)
    z = {"sigma": jnp.array(0.0)}
    values = [
        target.log_density(z, batch._replace(key=jax.random.key(k)), model, mutable)
        for k in (1, 2, 1)
    ]
    assert values[0] == values[2]
    assert values[0] != values[1]


@pytest.mark.parametrize("name", ["running_mean", "flax_batch_norm", "nnx_batch_norm_and_dropout"])
def test_mutable_state_is_updated_and_the_argument_unchanged(name):
    case = CASES[name]
    target, batch = make(case.model, *case.args)
    model, mutable = jax.jit(target.initialize)(jax.random.key(0), batch)
    before = jax.tree.map(lambda leaf: leaf, mutable)
    z = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}
    after = jax.jit(target.evaluate)(z, batch, model, mutable).mutable
    assert jax.tree.structure(after) == jax.tree.structure(mutable)
    data = [jax.tree.leaves(tree) for tree in (before, mutable, after)]
    data = [[jax.random.key_data(x) if _is_key(x) else x for x in leaves] for leaves in data]
    assert all(np.array_equal(a, b) for a, b in zip(data[0], data[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(data[0], data[2], strict=True))


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("name", ["params", "flax_network", "nnx_network", "param_in_scan"])
def test_params_are_trained_jointly(name):
    case = CASES[name]
    target, batch = make(case.model, *case.args)
    model, mutable = jax.jit(target.initialize)(jax.random.key(0), batch)
    z = {site.name: jnp.full(site.z_shape, 0.3) for site in target.space.sites}
    gradient = jax.jit(jax.grad(lambda m: target.log_density(z, batch, m, mutable)))(model)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.any(leaf != 0), jax.tree_util.keystr(path)


def test_initial_param_values_are_those_of_the_model():
    target, batch = make(CASES["params"].model, *CASES["params"].args)
    model, _ = target.initialize(jax.random.key(0), batch)
    constrained = target.constrain_params(model, batch, {})
    np.testing.assert_allclose(constrained["loc"], 0.5)
    np.testing.assert_allclose(constrained["scale"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(model["scale"], np.log(2.0), rtol=1e-6)
    target, batch = make(CASES["param_in_scan"].model, *CASES["param_in_scan"].args)
    np.testing.assert_allclose(target.initialize(jax.random.key(0), batch)[0]["drift"], 0.1)


def test_a_reversed_scan_reads_positions_not_iterations():
    # NumPyro's substitute gives the first value to the step that runs first, the last position
    case = CASES["reverse_scan"]
    target, batch = make(case.model, *case.args)
    z = {"level": jnp.linspace(-1.0, 1.0, 6)}
    np.testing.assert_allclose(
        target.constrain(z, batch, {}, {})["level"], np.exp(z["level"]), rtol=1e-6
    )


def test_observations_and_dims():
    target, batch = make(CASES["nested_plates"].model, *CASES["nested_plates"].args)
    assert target.structure.dims["a"] == ("rows", "cols")
    assert target.structure.dims["b"] == ("cols",)
    assert {n: p.size for n, p in target.subsampling.plates.items()} == {"rows": 3, "cols": 4}
    np.testing.assert_array_equal(target.observations(batch, {}, {})["y"], batch.data["y"])
    assert make(CASES["sample_shape"].model)[0].structure.observed == ()  # a factor is not data


def test_space_labels_and_plates_survive_do():
    target, _ = make(CASES["intervened"].model)
    theta = next(site for site in target.space.sites if site.name == "theta")
    assert [plate.name for plate in theta.plates] == ["n"]


def test_unconstrain_takes_some_sites_and_refuses_unknown_ones():
    target, batch = make(CASES["moving_support"].model)
    z = target.unconstrain({"low": -1}, batch, {}, {})
    assert list(z) == ["low"]
    assert z["low"] == -1.0
    with pytest.raises(ValueError, match=r"'lo'.*expected|expected some of the sites.*'lo'"):
        target.unconstrain({"lo": 1.0}, batch, {}, {})
    with pytest.raises(ValueError, match=r"site 'y': expected a value of shape \(2,\), got \(3,\)"):
        target.unconstrain({"y": np.zeros(3)}, batch, {}, {})


@pytest.mark.parametrize(
    ("support", "n"), [(dist.constraints.circular, 2), (dist.constraints.sphere, 2)]
)
def test_the_radius_of_a_direction_integrates_to_one(support, n):
    # integral over the plane of exp(log_det) = circumference: the evidence is unchanged
    grid = jnp.linspace(-6.0, 6.0, 801)
    points = jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, n)
    weights = jax.vmap(lambda z: jnp.exp(bijector(support).forward(z)[1]))(points + 1e-6)
    integral = weights.sum() * (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(integral, 2 * np.pi, rtol=1e-3)


def test_evidence_of_a_circular_model():
    def model():
        direction = numpyro.sample("v", dist.VonMises(0.5, 2.0))
        numpyro.factor("f", jnp.log(1.5 + jnp.sin(direction)))

    target, batch = make(model)
    grid = jnp.linspace(-5.0, 5.0, 501)
    points = jnp.stack(jnp.meshgrid(grid, grid), -1).reshape(-1, 2) + 1e-6
    density = jax.jit(jax.vmap(lambda z: jnp.exp(target.log_density({"v": z}, batch))))(points)
    angle = jnp.linspace(-jnp.pi, jnp.pi, 4001)[:-1]
    exact = jnp.mean(jnp.exp(dist.VonMises(0.5, 2.0).log_prob(angle)) * (1.5 + jnp.sin(angle)))
    np.testing.assert_allclose(
        density.sum() * (grid[1] - grid[0]) ** 2, exact * 2 * jnp.pi, rtol=1e-3
    )


class Window(collections.deque):
    """A container of C code with an empty `__dict__`."""


def _frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"y": [1.0]})
    return (lambda: frame["y"].iloc[0]), (lambda: frame.__setitem__("y", [5.0]))


def _environment():
    os.environ["VIJAX_TEST_LOC"] = "1.0"
    return (
        lambda: float(os.environ["VIJAX_TEST_LOC"]),
        lambda: os.environ.__setitem__("VIJAX_TEST_LOC", "5.0"),
    )


def _container(values):
    return (lambda: float(values[0])), (lambda: values.__setitem__(0, 5))


def _masked():
    values = np.ma.array([1.0, 2.0], mask=[False, False])
    return (lambda: float(values.filled(5.0)[0])), (lambda: values.__setitem__(0, np.ma.masked))


def _stream():
    stream = io.BytesIO(b"1")
    return (lambda: float(stream.getvalue())), (lambda: stream.getbuffer().__setitem__(0, ord("5")))


def _factory():
    table = collections.defaultdict(lambda: 1.0)
    return (
        lambda: table.copy()["key"],
        lambda: setattr(table, "default_factory", lambda: 5.0),
    )


def _variable():
    variable = contextvars.ContextVar("variable", default=1.0)
    return variable.get, (lambda: variable.set(5.0))


def _builtin_method():
    table = {"loc": 1.0}
    read = table.get
    return (lambda: read("loc")), (lambda: table.__setitem__("loc", 5.0))


READ = {
    "frame": _frame,
    "environment": _environment,
    "deque": lambda: _container(Window([1])),
    "array": lambda: _container(ArrayType("d", [1.0])),
    "bytearray": lambda: _container(bytearray(b"\1")),
    "memoryview": lambda: _container(memoryview(bytearray(b"\1"))),
    "masked array": _masked,
    "stream": _stream,
    "default factory": _factory,
    "context variable": _variable,
    "builtin method": _builtin_method,
}


@pytest.mark.parametrize("name", READ)
def test_what_a_model_reads_distinguishes_targets(name):
    read, change = READ[name]()

    def model():
        mu = numpyro.sample("mu", dist.Normal())
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=read())

    def log_density(target):
        return target.log_density({"mu": jnp.zeros(())}, Batch({}))

    one, _ = make(model)
    assert make(model)[0] is one
    before = log_density(one)
    change()
    other, _ = make(model)
    assert other is not one
    assert log_density(other) == pytest.approx(before - 12.0)  # (25 - 1) / 2


def test_a_file_read_by_a_library_distinguishes_targets(tmp_path):
    path = tmp_path / "loc.npy"

    def model(kind):
        mu = numpyro.sample("mu", dist.Normal())
        loc = np.load(path)
        if kind == "deterministic":
            numpyro.deterministic("loc", loc)
        elif kind == "factor":
            numpyro.factor("loc", loc)
        else:
            numpyro.sample("y", dist.Normal(loc, 1.0), obs=0.0)
        return mu

    for kind in ("deterministic", "factor", "observed"):
        np.save(path, np.float32(1.0))
        one, _ = make(model, kind)
        assert make(model, kind)[0] is one
        np.save(path, np.float32(2.0))
        assert make(model, kind)[0] is not one


def test_threads_trace_at_the_same_time():
    found = {}

    def trace(number):
        def model(y):
            loc = sum(numpyro.sample(f"z{number}_{i}", dist.Normal()) for i in range(20))
            numpyro.sample("y", dist.Normal(loc, 1.0), obs=y)

        found[number] = make(model, np.zeros(number + 1, np.float32))[0].space.names

    threads = [threading.Thread(target=trace, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: tuple(f"z{n}_{i}" for i in range(20)) for n in range(4)}


def test_predictions_follow_what_the_model_reads():
    values = Window([1.0])

    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal())
        numpyro.sample("y", dist.Normal(mu + 100 * values[0], 1.0), obs=y)

    posterior = vijax.fit(model, np.float32(100.0), guide="laplace", progress_bar=False)
    assert posterior.predict()["y"].mean() == pytest.approx(100.0, abs=1.0)
    values[0] = 2.0
    assert posterior.predict()["y"].mean() == pytest.approx(200.0, abs=1.0)


def test_latents_without_entries():
    def model():
        numpyro.sample("u", dist.Unit(0.5))

    with pytest.raises(ModelError, match=r"site 'u'.*entries.*shape \(0,\)"):
        build(model, split(model, (), {})[0])


def test_models_without_latents_but_with_parameters():
    def maximum_likelihood(y):
        numpyro.sample("y", dist.Normal(numpyro.param("a", 0.0), 1.0), obs=y)

    with pytest.raises(ModelError, match=r"param sites \['a'\].*maximum likelihood.*SVI"):
        build(maximum_likelihood, split(maximum_likelihood, (np.ones(3),), {})[0])

    def without_a_value():
        numpyro.sample("x", dist.Normal(numpyro.param("s"), 1.0))

    with pytest.raises(ModelError, match=r"param site without an initial value.*not shared"):
        build(without_a_value, split(without_a_value, (), {})[0])
