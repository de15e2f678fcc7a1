"""Properties that every bijection must satisfy. To add one add an entry to `BIJECTIONS`."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws import perturb
from tests.lowering import lowers
from vijax.guides import flow
from vijax.runtime.errors import GuideError

DIM = 3


def _nothing(name: str, leaf: np.ndarray) -> np.ndarray:
    return np.zeros(leaf.shape, bool)


def _lower(name, leaf):
    """Only the strict lower triangle is used."""
    ignored = ~np.tril(np.ones(leaf.shape, bool), -1)
    return ignored if "lower" in name else np.zeros(leaf.shape, bool)


def _triangles(name, leaf):
    if "upper" in name:
        return ~np.triu(np.ones(leaf.shape, bool), 1)
    return _lower(name, leaf)


def _sylvester(name, leaf):
    inside = "outer" in name or "inner" in name
    return ~np.triu(np.ones(leaf.shape, bool)) if inside else np.zeros(leaf.shape, bool)


def _masked(size, hidden=(16, 16)):
    def inert(name, leaf):
        if "weight" not in name:
            return np.zeros(leaf.shape, bool)
        masks = flow.conditioner.autoregressive_masks(DIM, hidden, size)
        return ~{mask.shape: mask for mask in masks}[leaf.shape].astype(bool)

    return inert


def _block(name, leaf):
    before = np.tril(np.ones((DIM, DIM), bool), -1)
    if name == ".inner":
        return ~np.broadcast_to(before[:, None, :], leaf.shape)
    if name == ".outer":
        return ~np.broadcast_to(before[:, :, None], leaf.shape)
    return np.zeros(leaf.shape, bool)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A bijection to test.

    Attributes:
        bijection: the bijection.
        inert: from parameter leaf name to a mask of entries without effect, by design.
        identity: largest initial difference from the identity; `inf` if it is not the identity.
        wide: scale of the perturbation of the parameters.
        round_trip: tolerance of `inverse(forward(x)) = x`.
    """

    bijection: flow.Bijection
    inert: Callable = _nothing
    identity: float = 1e-6
    wide: float = 0.3
    round_trip: float = 3e-5


_SPLINE = flow.Spline(bins=5, bound=3.0)
_NETS = dict(hidden=(16, 16))
BIJECTIONS: dict[str, Entry] = {
    "diagonal": Entry(flow.Diagonal()),
    "triangular": Entry(flow.Triangular(), _lower),
    "low_rank": Entry(flow.LowRankAffine(2)),
    "lu": Entry(flow.LU(), _triangles),
    "planar": Entry(flow.Planar(), wide=1.0),
    "radial": Entry(flow.Radial(), wide=1.0),
    "sylvester": Entry(flow.Sylvester(2), _sylvester, wide=1.0),
    "flip": Entry(flow.Flip(), identity=np.inf),
    "shuffle": Entry(flow.Shuffle(1), identity=np.inf),
    "coupling": Entry(flow.Coupling(**_NETS)),
    "spline_coupling": Entry(
        flow.Coupling(flow.Composed((_SPLINE, flow.Affine())), **_NETS), wide=0.15
    ),
    "marginal": Entry(flow.Marginal(_SPLINE)),
    "autoregressive": Entry(flow.Autoregressive(**_NETS), _masked(2)),
    "masked_autoregressive": Entry(flow.Invert(flow.Autoregressive(**_NETS)), _masked(2)),
    "spline_autoregressive": Entry(
        flow.Autoregressive(_SPLINE, **_NETS), _masked(_SPLINE.size), wide=0.15
    ),
    "block_neural": Entry(flow.BlockNeural(4), _block, identity=0.06, wide=1.0),
    "loft": Entry(flow.LOFT(0.5)),
    "heavy_tails": Entry(flow.HeavyTails(0.1), identity=0.5),
    "chain": Entry(flow.Chain((flow.Planar(), flow.Flip(), flow.Diagonal(), flow.Flip()))),
    "repeat": Entry(flow.Repeat(flow.Chain((flow.Coupling(**_NETS), flow.Flip())), 4)),
}
BIJECTIONS["loft"] = Entry(flow.LOFT(0.5), identity=np.inf)


@functools.cache
def case(name: str, dim: int = DIM):
    entry = BIJECTIONS[name]
    return entry, perturb(entry.bijection.init(jax.random.key(0), dim), entry.wide)


@functools.cache
def points(dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(32, dim)).astype(np.float32) * 1.5


every = pytest.mark.parametrize("name", BIJECTIONS)


@every
@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), DIM])
def test_round_trip(name, dim):
    entry, params = case(name, dim)
    f = entry.bijection

    def there_and_back(x):
        y, log_det = f.forward(params, x)
        again, back = f.inverse(params, y)
        return y, again, log_det, back

    program = jax.jit(jax.vmap(there_and_back))
    y, again, log_det, back = program(points(dim))
    lowers(name, program.trace(points(dim)).jaxpr)
    slack = entry.round_trip * np.maximum(1, np.abs(y).max())
    np.testing.assert_allclose(again, points(dim), atol=10 * slack)
    np.testing.assert_allclose(back, -log_det, atol=10 * slack + 1e-4)


@every
@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), DIM])
def test_log_det_is_that_of_the_jacobian(name, dim):
    entry, params = case(name, dim)
    f = entry.bijection

    def log_dets(x):
        jacobian = jax.jacfwd(lambda x: f.forward(params, x)[0])(x)
        return f.forward(params, x)[1], jnp.linalg.slogdet(jacobian)[1]

    found, expected = jax.jit(jax.vmap(log_dets))(points(dim))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


@every
def test_starts_at_the_identity(name):
    entry = BIJECTIONS[name]
    if entry.identity == np.inf:
        pytest.skip("not the identity, by design")
    params = entry.bijection.init(jax.random.key(0), DIM)
    y, log_det = jax.jit(jax.vmap(lambda x: entry.bijection.forward(params, x)))(points())
    near = np.abs(points()) < 2
    np.testing.assert_allclose(y[near], points()[near], atol=max(entry.identity, 3e-6))
    if entry.identity < 0.1:
        np.testing.assert_allclose(log_det, 0, atol=max(3 * entry.identity, 3e-6))


@every
def test_a_gradient_reaches_every_parameter(name):
    entry, params = case(name)

    def loss(params):
        y, log_det = jax.vmap(lambda x: entry.bijection.forward(params, x))(points())
        return jnp.mean(jnp.sum(y**3 + y**2, 1) - log_det)

    gradient = jax.jit(jax.grad(loss))
    lowers(name, gradient.trace(params).jaxpr)
    for path, leaf in jax.tree.leaves_with_path(gradient(params)):
        leaf_name = jax.tree_util.keystr(path)
        expected = ~entry.inert(leaf_name, np.asarray(leaf))
        np.testing.assert_array_equal(np.asarray(leaf) != 0, expected, err_msg=leaf_name)


@pytest.mark.slow
@every
def test_the_inverse_is_differentiable(name):
    """Its Jacobian is the inverse Jacobian, and the gradient of its log det is correct."""
    entry, params = case(name)
    f = entry.bijection

    def compare(x):
        y = jax.lax.stop_gradient(f.forward(params, x)[0])
        jacobian = jax.jacfwd(lambda x: f.forward(params, x)[0])(x)
        back = jax.jacrev(lambda y: f.inverse(params, y)[0])(y)
        slope = jax.grad(lambda y: f.inverse(params, y)[1])(y)
        expected = -jnp.linalg.solve(jacobian.T, jax.grad(lambda x: f.forward(params, x)[1])(x))
        return back @ jacobian, slope, expected

    product, slope, expected = jax.jit(jax.vmap(compare))(points()[:8])
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(DIM), product.shape), atol=3e-3)
    np.testing.assert_allclose(slope, expected, atol=5e-3 * max(1, np.abs(expected).max()))


@pytest.mark.slow
@every
def test_the_score_of_the_pushforward(name):
    """From the score of a standard normal at `x` to that of its pushforward at `y`."""
    entry, params = case(name)
    f = entry.bijection

    def compare(x):
        _y, log_det, score = f.forward_score(params, x, -x)
        jacobian = jax.jacfwd(lambda x: f.forward(params, x)[0])(x)
        slope = jax.grad(lambda x: f.forward(params, x)[1])(x)
        return log_det, f.forward(params, x)[1], score, jnp.linalg.solve(jacobian.T, -x - slope)

    log_det, expected_log_det, score, expected = jax.jit(jax.vmap(compare))(points()[:8])
    np.testing.assert_allclose(log_det, expected_log_det, atol=1e-4)
    np.testing.assert_allclose(score, expected, atol=5e-3 * max(1, np.abs(expected).max()))


@pytest.mark.slow
@every
def test_compiled_equals_eager(name):
    entry, params = case(name)
    y, log_det = jax.jit(jax.vmap(lambda x: entry.bijection.forward(params, x)))(points()[:2])
    for i in range(2):
        y_eager, log_det_eager = entry.bijection.forward(params, points()[i])
        np.testing.assert_allclose(y_eager, y[i], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(log_det_eager, log_det[i], rtol=1e-4, atol=1e-5)


@every
def test_is_configuration(name):
    f = BIJECTIONS[name].bijection
    names = {name: getattr(flow, name) for name in flow.__all__}
    assert eval(repr(f), names) == f
    assert hash(eval(repr(f), names)) == hash(f)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flow.Spline(bins=1), "bins: expected at least 2"),
        (lambda: flow.Spline(bound=0.0), "bound"),
        (lambda: flow.Affine(clamp=-1.0), "clamp"),
        (lambda: flow.Sylvester(0), "width"),
        (lambda: flow.BlockNeural(0), "width"),
        (lambda: flow.LowRankAffine(0), "rank"),
        (lambda: flow.LOFT(0.0), "threshold"),
        (lambda: flow.HeavyTails(0.0), "start"),
        (lambda: flow.Repeat(flow.Flip(), 0), "count"),
    ],
)
def test_invalid_options_raise_errors(make, message):
    with pytest.raises(GuideError, match=message):
        make()


def test_loft_keeps_extreme_points_finite():
    y, _ = flow.LOFT().forward((), jnp.asarray([1e30, -1e30, 5.0]))
    np.testing.assert_allclose(y, [169.1, -169.1, 5.0], rtol=1e-3)


def test_heavy_tails_have_the_specified_index():
    """The tail of `y = x exp(h x^2 / 2)` with `h = 1/2` decays like `y^-2`."""
    f = flow.HeavyTails(0.5)
    params = f.init(jax.random.key(0), 1)
    x = jnp.asarray([[4.0], [5.0]])
    y, _ = jax.vmap(lambda x: f.forward(params, x))(x)
    log_tail = jax.scipy.stats.norm.logsf(x)
    slope = (log_tail[1] - log_tail[0]) / (jnp.log(y[1]) - jnp.log(y[0]))
    np.testing.assert_allclose(slope, -2, atol=0.15)
