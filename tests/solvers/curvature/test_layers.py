"""Curvature by layers against brute force over rows, and against the dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx

import vijax
from vijax.contracts import Batch
from vijax.model import split_and_build
from vijax.solvers.curvature import dense, layers
from vijax.solvers.curvature.point import Point

RNG = np.random.default_rng(0)
ROWS = 5


class Dense(nnx.Module):
    """Two layers, the first of them called twice."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 3, rngs=rngs)
        self.out = nnx.Linear(3, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(jnp.tanh(self.hidden(x)))))


class Convolution(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (2,), strides=2, rngs=rngs)
        self.norm = nnx.LayerNorm(3, rngs=rngs)
        self.out = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.norm(self.conv(x))).mean(1))


class Merged(nnx.Module):
    """Positions are merged with rows, so that the first axis is not that of rows."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 2, rngs=rngs)
        self.out = nnx.Linear(2, 3, rngs=rngs)

    def __call__(self, x):
        hidden = jnp.tanh(self.hidden(x.reshape(-1, 2)))
        return self.out(hidden.reshape(len(x), -1, 2).sum(1))


class Recurrent(nnx.Module):
    """Its cell is called inside a loop."""

    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.SimpleCell(2, 3, rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.rnn(x)[:, -1])


NETS = {
    "Dense": (Dense, (3,)),
    "Convolution": (Convolution, (4, 2)),
    "Merged": (Merged, (3, 2)),
    "Recurrent": (Recurrent, (3, 2)),
}


def classes(logits, y):
    numpyro.sample("y", dist.Categorical(logits=logits), obs=y)


def numbers(mean, y):
    numpyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=jnp.zeros_like(mean))


class Case:
    def __init__(self, factory, shape, likelihood=classes):
        def model(x, y):
            outputs = vijax.nn.network("net", factory)(x)
            with numpyro.plate("rows", len(x)):
                likelihood(outputs, y)

        x = RNG.normal(size=(ROWS, *shape)).astype(np.float32)
        _, data, self.target = split_and_build(
            model, (x, np.zeros(ROWS, int)), {}, None, frozenset()
        )
        self.space = self.target.space
        z = self.space.unravel(jnp.asarray(RNG.normal(size=self.space.dim) * 0.7, jnp.float32))
        self.point = Point(z, Batch(data), {}, {}, jax.random.key(1))
        self.layers = layers.find_layers(self.target, self.space.names, self.point, by_row=True)

    def run(self, function, which):
        found = self.target.program(function, which)(self.point)
        return jax.tree.map(lambda x: np.asarray(x, float), found)

    def gauss_newton(self):
        return self.run(dense.gauss_newton, self.space.names)


@pytest.mark.parametrize(
    ("name", "likelihood"),
    [
        ("Convolution", classes),
        pytest.param("Dense", numbers, marks=pytest.mark.slow),
        pytest.param("Merged", classes, marks=pytest.mark.slow),
        pytest.param("Dense", classes, marks=pytest.mark.slow),
        pytest.param("Recurrent", classes, marks=pytest.mark.slow),
    ],
)
def test_diagonal_is_that_of_the_dense_matrix(name, likelihood):
    case = Case(*NETS[name], likelihood)
    expected = case.space.host_unravel(np.diag(case.gauss_newton()))
    found = case.run(layers.diagonal_sums, case.layers)
    for kernel, bias, inputs, _ in case.layers:
        matrix = expected[kernel].reshape(inputs, -1)
        matrix = np.concatenate([matrix, expected[bias][None]]) if bias else matrix
        np.testing.assert_allclose(found[kernel], matrix, rtol=1e-3, atol=1e-5)
    inside = {name for layer in case.layers for name in layer[:2]}
    rest = tuple(name for name in case.space.names if name not in inside)
    if rest:
        found = case.run(dense.coordinate_curvature, rest)
        joined = np.concatenate([expected[name].ravel() for name in rest])
        np.testing.assert_allclose(found, joined, rtol=1e-3, atol=1e-5)


def test_layers_inside_of_loops_are_left_to_coordinates():
    for name in ("Recurrent", "Merged"):
        assert [layer[0] for layer in Case(*NETS[name]).layers] == ["net/out/kernel"]
    found = Case(*NETS["Convolution"]).layers
    assert ("net/conv/kernel", "net/conv/bias", 4, 3) in found
    assert ("net/out/kernel", "net/out/bias", 3, 3) in found


def test_kronecker_sums_by_hand():
    """Of the convolution: positions are rows, and patches are its inputs."""
    case = Case(*NETS["Convolution"])
    z, batch = case.point[:2]
    found = case.run(layers.kronecker_sums, case.layers)["net/conv/kernel"]
    x = np.asarray(batch.data["x"], float)
    patches = np.concatenate([x.reshape(ROWS * 2, 4), np.ones((ROWS * 2, 1))], axis=1)
    np.testing.assert_allclose(found.inputs, patches.T @ patches, rtol=1e-4)
    assert found.rows == ROWS * 2

    def log_probs(outputs):
        """Of every class, given the outputs of the convolution of one row, `(2, 3)`."""
        centered = (outputs - outputs.mean(-1, keepdims=True)) / jnp.sqrt(
            outputs.var(-1, keepdims=True) + 1e-6
        )
        hidden = jnp.tanh(centered * z["net/norm/scale"] + z["net/norm/bias"]).mean(0)
        return jax.nn.log_softmax(hidden @ z["net/out/kernel"] + z["net/out/bias"])

    kernel = z["net/conv/kernel"].reshape(4, 3)
    outputs = x.reshape(ROWS, 2, 4) @ kernel + z["net/conv/bias"]
    values, scores = jax.jit(jax.vmap(lambda one: (log_probs(one), jax.jacrev(log_probs)(one))))(
        outputs
    )
    total = np.einsum("nk,nkti,nktj->ij", np.exp(values), scores, scores)
    np.testing.assert_allclose(found.outputs, total, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_many_coordinates_are_estimated_by_signs(monkeypatch):
    case = Case(*NETS["Dense"])
    expected = np.diag(case.gauss_newton())
    monkeypatch.setattr(dense, "_MOST_COLUMNS", 1)
    monkeypatch.setattr(dense, "_NUM_SIGNS", 4000)
    found = case.run(dense.coordinate_curvature, case.space.names)
    # squares of sums of random signs have a standard deviation below sqrt(2) of their mean
    np.testing.assert_allclose(found, expected, rtol=5 * np.sqrt(2 / 4000))


@pytest.mark.slow
def test_many_elements_of_a_row_are_summed_with_signs(monkeypatch):
    case = Case(*NETS["Dense"], numbers)
    expected = case.run(layers.kronecker_sums, case.layers)["net/out/kernel"].outputs
    monkeypatch.setattr(layers, "_MOST_ELEMENTS", 1)
    monkeypatch.setattr(layers, "_NUM_SIGNS", 2000)
    case.target.programs.compiled.clear()
    found = case.run(layers.kronecker_sums, case.layers)["net/out/kernel"].outputs
    scale = np.diag(expected).mean()
    np.testing.assert_allclose(found, expected, atol=5 * scale * np.sqrt(2 / 2000))
