"""A small model for every NumPyro feature and support; the laws in test_laws.py hold for each.

To add one, decorate it with `@case(arguments...)`. Cases say how their log density is checked:

- `"numpyro"`: it equals `-numpyro.infer.util.potential_energy`;
- `"autodiff"`: it equals NumPyro's log density of the constrained values plus `log |dx/dz|` by
  automatic differentiation, where NumPyro's Jacobian is wrong or the bijection is not NumPyro's;
- a function `(x, z, *args, **kwargs) -> log density`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.contrib.module import (
    flax_module,
    nnx_module,
    random_flax_module,
    random_nnx_module,
)
from numpyro.distributions import constraints, transforms
from numpyro.infer.reparam import CircularReparam, LocScaleReparam, TransformReparam
from numpyro.primitives import mutable

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 2)).astype(np.float32)
Y = RNG.normal(size=6).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    reference: str | Callable[..., Any] = "numpyro"
    scale: float = 0.7  # sd of the unconstrained points at which the laws are tested


CASES: dict[str, Case] = {}


def add(name: str, model: Callable[..., Any], *args: Any, **options: Any) -> None:
    CASES[name] = Case(name, model, args, **options)


def case(*args: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(model: Callable[..., Any]) -> Callable[..., Any]:
        add(model.__name__, model, *args, **options)
        return model

    return register


# --- plates, factors, handlers ---------------------------------------------------------------


@case(X, kwargs={"y": Y})
def regression(x, y=None):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    numpyro.deterministic("mean", x @ w)
    with numpyro.plate("n", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ w, sigma), obs=y)


@case(RNG.normal(size=(3, 4)).astype(np.float32))
def nested_plates(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("cols", 4, dim=-1):
        b = numpyro.sample("b", dist.StudentT(4.0, mu, 1.0))
        with numpyro.plate("rows", 3, dim=-2):
            a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
            numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


@case()
def plate_stack():
    with numpyro.plate_stack("p", [2, 3]):
        numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))


@case()
def sample_shape():
    x = numpyro.sample("x", dist.Gamma(2.0, 1.0), sample_shape=(3,))
    numpyro.sample("w", dist.Dirichlet(jnp.ones(3)), sample_shape=(2,))
    numpyro.factor("f", -jnp.sum(x**2))


@case()
def delta_sites():
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Delta(2.0 * a, log_density=-1.0))
    with numpyro.plate("n", 3):
        c = numpyro.sample("c", dist.Delta(1.5))
        numpyro.sample("d", dist.Normal(b + c, 1.0))


@case(np.array([True, False, True]), reference="autodiff")
def masked_and_scaled(mask):
    with handlers.mask(mask=mask), handlers.scale(scale=3.0):
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0).expand([3]))
    numpyro.factor("proper", -jnp.sum(a))
    with handlers.scale(scale=0.5), numpyro.plate("n", 2):
        numpyro.sample("b", dist.LogNormal(a.sum(), 1.0))


def _obs_mask_density(x, z, y, mask):
    prior = dist.Gamma(x["mu"], 1.0)
    latent = prior.log_prob(x["y_unobserved"]).sum() + jnp.log(x["y_unobserved"]).sum()
    return (
        dist.LogNormal().log_prob(x["mu"])
        + jnp.log(x["mu"])
        + jnp.where(mask, prior.log_prob(jnp.where(mask, y, 1.0)), 0.0).sum()
        + latent
    )


@case(
    np.array([1.0, np.nan, 0.5], np.float32),
    np.array([True, False, True]),
    reference=_obs_mask_density,
)
def obs_mask(y, mask):
    mu = numpyro.sample("mu", dist.LogNormal())
    with numpyro.plate("n", 3):
        numpyro.sample("y", dist.Gamma(mu, 1.0), obs=y, obs_mask=mask)


@case(
    np.array([1.0, np.nan, 0.5], np.float32),
    np.array([True, False, True]),
    reference=_obs_mask_density,
)
def obs_mask_without_plate(y, mask):
    mu = numpyro.sample("mu", dist.LogNormal())
    numpyro.sample("y", dist.Gamma(mu, 1.0), obs=y, obs_mask=mask)


def _funnel():
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    with numpyro.plate("n", 3):
        numpyro.sample("theta", dist.Normal(1.0, tau))
    numpyro.sample(
        "t", dist.TransformedDistribution(dist.Normal(), transforms.AffineTransform(tau, 2.0))
    )


add(
    "reparam",
    handlers.reparam(_funnel, config={"theta": LocScaleReparam(0.0), "t": TransformReparam()}),
)
add("conditioned", handlers.condition(_funnel, data={"tau": jnp.array(0.5)}))
add("substituted", handlers.substitute(_funnel, data={"tau": jnp.array(0.5)}))
add("seeded", handlers.seed(_funnel, 0))
add("intervened", handlers.do(_funnel, data={"tau": jnp.array(0.5)}))
add("traced_by_the_user", handlers.trace(_funnel))
add("partial_blocked", handlers.block(_funnel, hide=["nothing"]))


@case()
def lifted():
    def inner():
        scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
        numpyro.sample("x", dist.Normal(0.0, scale))

    handlers.lift(inner, prior={"scale": dist.Gamma(2.0, 1.0)})()


@case(Y)
def scoped(y):
    def part(y):
        s = numpyro.sample("s", dist.HalfNormal())
        with numpyro.plate("n", len(y)):
            numpyro.sample("y", dist.Normal(0.0, s), obs=y)

    handlers.scope(part, prefix="a")(y)
    handlers.scope(part, prefix="b", divider=".")(y)


@case()
def circular_reparam():
    with handlers.reparam(config={"v": CircularReparam()}):
        v = numpyro.sample("v", dist.VonMises(0.0, 2.0))
    numpyro.factor("tail", -0.1 * v**2)


@case(kwargs={"y": Y, "flag": True, "how": "square", "nothing": None, "size": 3})
def static_arguments(y, flag, how, nothing, size, default=2.0):
    assert flag is True
    assert nothing is None
    power = {"square": 2, "cube": 3}[how]
    with numpyro.plate("k", size):
        w = numpyro.sample("w", dist.Normal(0.0, default))
    numpyro.sample("y", dist.Normal(jnp.sum(w**power), 1.0), obs=y)


@case({"x": [X[:, 0], (X[:, 1], None)], "y": Y}, 1)
def pytree_arguments(tables, column):
    (x0, (x1, nothing)) = tables["x"]
    assert nothing is None
    w = numpyro.sample("w", dist.Normal())
    numpyro.sample("y", dist.Normal(w * (x0, x1)[column], 1.0), obs=tables["y"])


@case(jax.random.key(3))
def key_argument(key):
    noise = jax.random.normal(key, (2,))
    numpyro.sample("x", dist.Normal(noise, 1.0))


@case(dist.Normal(jnp.zeros(2), 1.0))
def distribution_argument(prior):
    numpyro.sample("x", prior)


class CallableModel:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, y):
        mu = numpyro.sample("mu", dist.Normal(0.0, self.scale))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def method(self, y):
        self(y)


add("callable_object", CallableModel(2.0), Y)
add("bound_method", CallableModel(2.0).method, Y)


@case()
def private_randomness():
    with handlers.block():
        numpyro.sample("hidden", dist.Normal())
    numpyro.sample("x", dist.Normal())


# --- supports --------------------------------------------------------------------------------

_PD = jnp.array([[2.0, 0.3], [0.3, 1.0]])

for _name, _prior in {
    "real": dist.Normal(0.0, 1.0).expand([2, 3]),
    "positive": dist.InverseGamma(2.0, 1.0).expand([3]),
    "half_cauchy": dist.HalfCauchy(2.0),
    "unit_interval": dist.Beta(2.0, 3.0).expand([2]),
    "interval": dist.Uniform(-1.0, jnp.array([1.0, 2.0])),
    "truncated": dist.TruncatedNormal(jnp.zeros(2), 1.0, low=-1.0, high=jnp.array([0.5, 2.0])),
    "less_than": dist.TruncatedNormal(0.0, 1.0, high=1.5),
    "greater_than": dist.Pareto(2.0, jnp.array([1.0, 1.5])),
    "independent": dist.Gamma(jnp.full((2, 3), 2.0), 1.0).to_event(1),
    "independent_interval": dist.Uniform(jnp.zeros((2, 1)), jnp.ones(3)).to_event(2),
    "simplex": dist.Dirichlet(jnp.ones((2, 3))),
    "simplex_large": dist.Dirichlet(jnp.full(12, 0.5)),
    "ordered": dist.TransformedDistribution(
        dist.Normal(jnp.zeros(3), 1.0).to_event(1), transforms.OrderedTransform()
    ),
    "simplex_to_ordered": dist.TransformedDistribution(
        dist.Dirichlet(jnp.ones(3)), transforms.SimplexToOrderedTransform(0.0)
    ),
    "positive_ordered": dist.ImproperUniform(constraints.positive_ordered_vector, (), (3,)),
    "corr_cholesky": dist.LKJCholesky(3, 2.0),
    "corr_matrix": dist.LKJ(3, 2.0),
    "wishart": dist.Wishart(4.0, _PD),
    "wishart_cholesky": dist.WishartCholesky(4.0, _PD),
    "inverse_wishart": dist.InverseWishart(5.0, _PD),
    "positive_definite": dist.ImproperUniform(constraints.positive_definite, (2,), (2, 2)),
    "lower_cholesky": dist.ImproperUniform(constraints.lower_cholesky, (), (3, 3)),
    "scaled_unit_lower_cholesky": dist.ImproperUniform(
        constraints.scaled_unit_lower_cholesky, (), (3, 3)
    ),
    "softplus_lower_cholesky": dist.ImproperUniform(
        constraints.softplus_lower_cholesky, (), (2, 2)
    ),
    "softplus_positive": dist.ImproperUniform(constraints.softplus_positive, (2,), ()),
    "zero_sum": dist.ZeroSumNormal(1.0, event_shape=(4,)),
    "zero_sum_2d": dist.ZeroSumNormal(1.0, event_shape=(3, 4)),
    "l1_ball": dist.ImproperUniform(constraints.l1_ball, (), (3,)),
    "nonnegative": dist.ImproperUniform(constraints.nonnegative, (2,), ()),
    "open_interval": dist.ImproperUniform(constraints.open_interval(-1.0, 3.0), (2,), ()),
    "greater_than_eq": dist.ImproperUniform(constraints.greater_than_eq(2.0), (2,), ()),
    "less_than_eq": dist.ImproperUniform(constraints.less_than_eq(2.0), (), (2,)),
    "matrix_normal": dist.MatrixNormal(jnp.zeros((2, 2)), jnp.eye(2), jnp.eye(2)),
    "random_walk": dist.GaussianRandomWalk(1.0, num_steps=4),
    "mixture": dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.ones(2) / 2), dist.Normal(jnp.array([-1.0, 2.0]), 1.0)
    ),
    "mixture_positive": dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.ones(2) / 2), dist.Gamma(jnp.array([1.0, 2.0]), 1.0)
    ),
    "transformed": dist.TransformedDistribution(
        dist.Gamma(2.0, 1.0), [transforms.PowerTransform(0.5), transforms.AffineTransform(1.0, 2.0)]
    ),
    "relaxed_bernoulli": dist.RelaxedBernoulliLogits(1.0, jnp.zeros(2)),
    "log_uniform": dist.LogUniform(0.5, 4.0),
    "low_rank_normal": dist.LowRankMultivariateNormal(jnp.zeros(3), jnp.ones((3, 1)), jnp.ones(3)),
    "kumaraswamy": dist.Kumaraswamy(2.0, 3.0),
    "copula": dist.GaussianCopulaBeta(
        jnp.full(2, 2.0), jnp.full(2, 3.0), correlation_matrix=jnp.array([[1, 0.3], [0.3, 1]])
    ),
    "doubly_truncated_power_law": dist.DoublyTruncatedPowerLaw(-1.5, 1.0, 3.0),
}.items():

    def _prior_only(prior=_prior):
        numpyro.sample("x", prior)

    add(f"support_{_name}", _prior_only)


def _direction_density(log_prob):
    """Log density of the direction plus that of the radius, see `vijax.model.tracing.supports`."""

    def reference(x, z):
        square = jnp.sum(z["x"] ** 2, -1)
        n, k = z["x"].shape[-1], 4.0
        r = jnp.linspace(1e-4, 8.0, 20001)
        kernel = r ** (n - 1 + k) * jnp.exp(-k * r**2 / 2)
        log_normalizer = jnp.log(jnp.trapezoid(kernel, r))
        radial = k * (jnp.log(square) - square) / 2 - log_normalizer
        return jnp.sum(log_prob(x["x"])) + jnp.sum(radial)

    return reference


def _sphere_prior(shape):
    return dist.ImproperUniform(constraints.sphere, shape, (3,))


@case(reference=_direction_density(lambda x: 2.0 * jnp.cos(x) - jnp.log(2 * jnp.pi * 2.2795853)))
def circle():
    with numpyro.plate("n", 3):
        numpyro.sample("x", dist.VonMises(0.0, 2.0))


@case(reference=_direction_density(dist.SineBivariateVonMises(0.0, 0.0, 2.0, 2.0, 0.5).log_prob))
def torus():
    numpyro.sample("x", dist.SineBivariateVonMises(0.0, 0.0, 2.0, 2.0, 0.5))


@case(reference=_direction_density(lambda x: jnp.zeros(2)))
def sphere():
    numpyro.sample("x", _sphere_prior((2,)))


@case(reference=_direction_density(dist.ProjectedNormal(jnp.array([1.0, 0.0, 0.5])).log_prob))
def projected_normal():
    numpyro.sample("x", dist.ProjectedNormal(jnp.array([1.0, 0.0, 0.5])))


@case(reference=lambda x, z: jnp.sum(dist.Normal().log_prob(z["x"])))
def complex_numbers():
    x = numpyro.sample("x", dist.ImproperUniform(constraints.complex, (2,), ()))
    numpyro.factor("f", jnp.sum(dist.Normal().log_prob(x.real) + dist.Normal().log_prob(x.imag)))


# --- supports that depend on latents ------------------------------------------------------------


@case(reference="autodiff")
def moving_support():
    low = numpyro.sample("low", dist.Normal())
    width = numpyro.sample("width", dist.LogNormal())
    numpyro.sample("x", dist.Uniform(low, low + width))
    with numpyro.plate("n", 2):
        numpyro.sample("y", dist.TruncatedNormal(0.0, 1.0, low=low))


@case(reference="autodiff")
def moving_improper_support():
    low = numpyro.sample("low", dist.Normal())
    numpyro.sample("x", dist.ImproperUniform(constraints.greater_than(low), (3,), ()))
    numpyro.sample("y", dist.ImproperUniform(constraints.interval(low, low + 2.0), (), (2,)))


@case(Y, reference="autodiff")
def moving_support_in_scan(y):
    top = numpyro.sample("top", dist.LogNormal())

    def step(previous, y):
        x = numpyro.sample("x", dist.TruncatedNormal(previous, 1.0, low=0.0, high=1.0 + top))
        v = numpyro.sample("v", dist.ImproperUniform(constraints.less_than(x), (), ()))
        numpyro.factor("tail", -0.5 * (v - x) ** 2)
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        return x, x

    scan(step, jnp.array(0.5), y)


# --- control flow ----------------------------------------------------------------------------


@case(kwargs={"y": Y})
def state_space(y=None, length=6):
    decay = numpyro.sample("decay", dist.Uniform(0.0, 1.0))

    def step(level, y):
        level = numpyro.sample("level", dist.Normal(decay * level, 1.0))
        numpyro.deterministic("twice", 2.0 * level)
        y = numpyro.sample("y", dist.Normal(level, 0.5), obs=y)
        return level, y

    scan(step, jnp.array(0.0), y, length=length)


def _reverse_density(x, z, y):
    after = jnp.append(x["level"][1:], 0.0)
    level = dist.LogNormal(after, 1.0).log_prob(x["level"]) + jnp.log(x["level"])
    return (level + dist.Normal(x["level"], 0.5).log_prob(y)).sum()


@case(Y, reference=_reverse_density)
def reverse_scan(y):
    def step(after, y):
        level = numpyro.sample("level", dist.LogNormal(after, 1.0))
        numpyro.sample("y", dist.Normal(level, 0.5), obs=y)
        return level, None

    scan(step, jnp.array(0.0), y, reverse=True)


@case(RNG.normal(size=(3, 3)).astype(np.float32), reference="autodiff")
def plate_in_scan(y):
    scale = numpyro.sample("scale", dist.HalfNormal())

    def step(level, y):
        with numpyro.plate("n", 3):  # as many as there are steps: axes must not be mixed up
            drift = numpyro.sample("drift", dist.Normal(0.0, scale))
            shape = numpyro.sample("shape", dist.Gamma(2.0, scale))
            level = numpyro.sample(
                "level",
                dist.TransformedDistribution(
                    dist.Normal(jnp.zeros(3), 1.0), transforms.AffineTransform(scale, 1.0)
                ),
            )
            numpyro.sample("y", dist.Normal(level + drift + shape, 0.5), obs=y)
        return level, None

    scan(step, jnp.zeros(3), y)


@case(RNG.normal(size=(4, 2)).astype(np.float32), np.array([True, True, False, True]))
def events_and_masks_in_scan(y, mask):
    def step(carry, xs):
        y, m = xs
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        with handlers.mask(mask=m), handlers.scale(scale=2.0):
            numpyro.sample("y", dist.Normal(w[:2], 1.0).to_event(1), obs=y)
        return carry, None

    scan(step, jnp.array(0.0), (y, mask))


def _obs_mask_in_scan_density(x, z, y, mask):
    prior = dist.Normal(0.0, 2.0)
    observed = jnp.where(mask, prior.log_prob(jnp.where(mask, y, 0.0)), 0.0)
    return observed.sum() + prior.log_prob(x["y_unobserved"]).sum()


@case(
    np.array([1.0, np.nan, 0.5], np.float32),
    np.array([True, False, True]),
    reference=_obs_mask_in_scan_density,
)
def obs_mask_in_scan(y, mask):
    def step(carry, xs):
        y, m = xs
        numpyro.sample("y", dist.Normal(0.0, 2.0), obs=y, obs_mask=m)
        return carry, None

    scan(step, jnp.array(0.0), (y, mask))


def _scoped_scan_density(x, z, y):
    level = x["a/level"]
    before = jnp.append(0.0, level[:-1])
    return (dist.Normal(before, 1.0).log_prob(level) + dist.Normal(level, 1.0).log_prob(y)).sum()


@case(Y, reference=_scoped_scan_density)
def scoped_scan(y):
    def step(level, y):
        level = numpyro.sample("level", dist.Normal(level, 1.0))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)
        return level, None

    with handlers.scope(prefix="a"):
        scan(step, jnp.array(0.0), y)


def _nested_scan_density(x, z, y):
    inner = dist.LogNormal(x["row"][:, None], 1.0).log_prob(x["cell"]) + jnp.log(x["cell"])
    likelihood = dist.Normal(x["cell"], 1.0).log_prob(y)
    return dist.Normal().log_prob(x["row"]).sum() + (inner + likelihood).sum()


@case(RNG.normal(size=(2, 3)).astype(np.float32), reference=_nested_scan_density)
def nested_scan(y):
    def outer(carry, row):
        r = numpyro.sample("row", dist.Normal())

        def inner(carry, cell):
            c = numpyro.sample("cell", dist.LogNormal(r, 1.0))
            numpyro.sample("y", dist.Normal(c, 1.0), obs=cell)
            return carry, None

        scan(inner, jnp.array(0.0), row)
        return carry, None

    scan(outer, jnp.array(0.0), y)


@case(Y)
def conditioned_scan(y):
    def step(level, y):
        level = numpyro.sample("level", dist.Normal(level, 1.0))
        other = numpyro.sample("other", dist.Normal(level, 1.0))
        return level, other

    with handlers.condition(data={"other": y}):
        scan(step, jnp.array(0.0), None, length=6)


@case(reference="autodiff")
def branches():
    switch = numpyro.sample("switch", dist.Normal())

    def high(_):
        return numpyro.sample("x", dist.TruncatedNormal(2.0, 1.0, low=1.0))

    def low(_):
        return numpyro.sample("x", dist.TruncatedNormal(-2.0, 0.5, low=-3.0))

    numpyro.deterministic("twice", 2.0 * cond(switch > 0, high, low, None))


@case(Y, reference="autodiff")
def branches_in_scan(y):
    def step(level, y):
        def up(level):
            return numpyro.sample("x", dist.LogNormal(level, 1.0))

        def down(level):
            return numpyro.sample("x", dist.LogNormal(-level, 0.5))

        x = cond(y > 0, up, down, level)
        return x, None

    scan(step, jnp.array(0.3), y)


# --- param, mutable, networks ----------------------------------------------------------------


@case(Y)
def params(y):
    loc = numpyro.param("loc", 0.5)
    scale = numpyro.param("scale", jnp.array(2.0), constraint=constraints.positive)
    weights = numpyro.param("weights", lambda key: jax.random.normal(key, (2,)))
    mu = numpyro.sample("mu", dist.Normal(loc, scale))
    numpyro.sample("y", dist.Normal(mu + weights.sum(), 1.0), obs=y)


@case(Y, reference="autodiff")
def param_in_scan(y):
    def step(level, y):
        drift = numpyro.param("drift", 0.1)
        level = numpyro.sample("level", dist.Normal(level + drift, 1.0))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)
        return level, None

    scan(step, jnp.array(0.0), y)


@case(Y)
def running_mean(y):
    state = mutable("state", {"mean": jnp.zeros(()), "calls": jnp.zeros((), jnp.int32)})
    mu = numpyro.sample("mu", dist.Normal(state["mean"], 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    state["mean"] = 0.9 * state["mean"] + 0.1 * y.mean()
    state["calls"] = state["calls"] + 1


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(3)(x)))[..., 0]


class BatchNormNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=False)(x))[..., 0]


class DropoutNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.Dropout(0.5, deterministic=False)(x))[..., 0]


def _network(net, x, y):
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.Normal(net(x), sigma), obs=y)


@case(X, Y)
def flax_network(x, y):
    _network(flax_module("net", Net(), input_shape=(1, 2)), x, y)


@case(X, Y)
def flax_batch_norm(x, y):
    net = flax_module("net", BatchNormNet(), mutable=["batch_stats"], input_shape=(1, 2))
    _network(net, x, y)


@case(X, Y)
def flax_dropout(x, y):
    net = flax_module("net", DropoutNet(), apply_rng=["dropout"], input_shape=(1, 2))
    key = numpyro.prng_key()
    _network(lambda x: net(x, rngs={"dropout": key}), x, y)


@case(X, Y)
def flax_bayesian(x, y):
    _network(random_flax_module("net", Net(), dist.Normal(), input_shape=(1, 2)), x, y)


@case(X, Y)
def nnx_network(x, y):
    _network(lambda x: nnx_module("net", nnx.Linear(2, 1, rngs=nnx.Rngs(0)))(x)[..., 0], x, y)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.linear = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return self.linear(self.dropout(self.norm(x)))[..., 0]


NNX_NET = NnxNet(nnx.Rngs(0))


@case(X, Y)
def nnx_batch_norm_and_dropout(x, y):
    _network(nnx_module("net", NNX_NET), x, y)


@case(X, Y)
def nnx_bayesian(x, y):
    net = random_nnx_module("net", nnx.Linear(2, 1, rngs=nnx.Rngs(0)), dist.Normal())
    _network(lambda x: net(x)[..., 0], x, y)


# --- subsampling -----------------------------------------------------------------------------


def _subsampled_density(x, z, features, y):
    likelihood = dist.Normal(features @ x["w"], 1.0).log_prob(y)
    return dist.Normal().log_prob(x["w"]).sum() + likelihood.sum()


@case(X, Y, reference=_subsampled_density)
def subsampled(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", 6, subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(x[rows] @ w, 1.0), obs=numpyro.subsample(y, event_dim=0))


@case(X[:2], Y[:2])
def one_batch_of_rows(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("n", 6, subsample_size=2):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)
