"""Properties that every guide must satisfy. To add a guide add one entry to `GUIDES`.

A law is a function of a `Case` that checks one property, against a closed form or a Monte Carlo
average, the latter within five standard errors; keys are fixed.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import autoguide

from tests.lowering import lowers
from tests.targets import Problem, problem
from vijax.contracts import DensityGuide, EntropyGuide, GaussianGuide, Guide, NormalNoiseGuide
from vijax.guides import (
    ASVI,
    Delta,
    Flow,
    FullRank,
    LowRank,
    Markov,
    MeanField,
    Mixture,
    Plates,
    flow,
    resolve,
)
from vijax.runtime.keys import Normals

NUM_DRAWS = 8192


@dataclasses.dataclass(frozen=True)
class Entry:
    """A guide to test.

    Attributes:
        make: from problem to guide, with an initial scale (0.9) that covers the posterior.
        inert: from parameter leaf name to a mask of entries without effect, by design.
        point: whether some coordinate is a point mass.
        single: whether it supports a model with one coordinate.
        eager: whether it is also run without `jit`, which takes seconds for autoguides.
        target: name of the problem on which it is tested.
    """

    make: Callable[[Problem], Guide]
    inert: Callable[[str, np.ndarray], np.ndarray] = lambda name, leaf: np.zeros(leaf.shape, bool)
    point: bool = False
    single: bool = True
    eager: bool = True
    target: str = "regression"


def _native(guide) -> Callable[[Problem], Guide]:
    return lambda p: resolve(guide, p.target)


def _numpyro(kind, **options) -> Callable[[Problem], Guide]:
    return lambda p: resolve(kind(p.model, **options), p.target, p.model, p.arguments)


def _function(p: Problem) -> Guide:
    """A guide function: each site normal, with a mean linear in the preceding site."""
    means = p.target.space.host_unravel(np.asarray(p.z_mean))
    sites = tuple((site.name, site.event_dim) for site in p.target.space.sites)

    def guide_function(*args):
        previous = None
        for name, event_dim in sites:
            loc = numpyro.param(f"{name}_loc", means[name])
            scale = numpyro.param(f"{name}_scale", 0.9, constraint=dist.constraints.positive)
            if previous is not None:
                loc = loc + numpyro.param(f"{name}_slope", 0.2) * previous
            normal = dist.Normal(loc, scale).to_event(event_dim)
            previous = jnp.mean(numpyro.sample(name, normal))

    return resolve(guide_function, p.target, p.model, p.arguments)


def _upper(name: str, leaf: np.ndarray) -> np.ndarray:
    """`lower` of `FullRankParams` and others: only the strict lower triangle is used."""
    return (
        ~np.tril(np.ones(leaf.shape, bool), -1) if "lower" in name else np.zeros(leaf.shape, bool)
    )


def _first_gain(name: str, leaf: np.ndarray) -> np.ndarray:
    """`MarkovParams` of width one: the first gain, and all of `lower`, are ignored."""
    ignored = np.zeros(leaf.shape, bool)
    if leaf.ndim == 3:
        ignored[: 1 if "gain" in name else len(leaf)] = True
    return ignored


def _flow(layer: flow.Bijection, base: Guide | None = None) -> Flow:
    return Flow(flow.Repeat(flow.Chain((layer, flow.Flip())), 2), base or FullRank(0.9))


_SPLIT = {"beta": LowRank(rank=1, init_scale=0.9), ...: MeanField(0.9)}
_ALONG = {"beta": Markov(0.9), ...: MeanField(0.9)}
_PARTLY = {"alpha": Delta(), "beta": FullRank(0.9)}

GUIDES: dict[str, Entry] = {
    "meanfield": Entry(_native(MeanField(0.9))),
    "fullrank": Entry(_native(FullRank(0.9)), inert=_upper),
    "lowrank": Entry(_native(LowRank(init_scale=0.9))),
    "delta": Entry(_native(Delta()), point=True),
    "asvi": Entry(
        _native(ASVI(0.9)),
        # the weight of a standard normal prior has no effect
        inert=lambda name, leaf: np.full(leaf.shape, "logits['mu']" in name),
        target="hierarchy",
        eager=False,
    ),
    "mixture": Entry(
        _native(Mixture((FullRank(0.9), MeanField(0.9)))),
        inert=lambda name, leaf: np.full(leaf.shape, "logits" in name) | _upper(name, leaf),
        eager=False,
    ),
    "flow": Entry(_native(_flow(flow.Coupling(flow.Affine(0.5), (8,)))), inert=_upper, eager=False),
    "flow_spline": Entry(
        _native(_flow(flow.Coupling(flow.Spline(4), (8,)))), inert=_upper, eager=False
    ),
    "flow_meanfield": Entry(_native(_flow(flow.Planar(), MeanField(0.9))), eager=False),
    "flow_lowrank": Entry(
        _native(_flow(flow.Planar(), LowRank(rank=2, init_scale=0.9))), single=False, eager=False
    ),
    "flow_invert": Entry(_native(_flow(flow.Invert(flow.Planar()))), inert=_upper, eager=False),
    "plates": Entry(_native(Plates(0.9)), inert=_upper, single=False, target="hierarchy"),
    "composite": Entry(_native(_SPLIT), single=False),
    "composite_markov": Entry(_native(_ALONG), inert=_first_gain, single=False),
    "composite_delta": Entry(_native(_PARTLY), inert=_upper, point=True, single=False),
    "function": Entry(_function),
    "AutoNormal": Entry(_numpyro(autoguide.AutoNormal, init_scale=0.9)),
    "AutoMultivariateNormal": Entry(
        _numpyro(autoguide.AutoMultivariateNormal, init_scale=0.9), eager=False
    ),
    "AutoLowRank": Entry(
        _numpyro(autoguide.AutoLowRankMultivariateNormal, init_scale=0.9), eager=False
    ),
    "AutoDAIS": Entry(_numpyro(autoguide.AutoDAIS, init_scale=0.9, K=2), eager=False),
    "AutoDelta": Entry(_numpyro(autoguide.AutoDelta), point=True),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A guide at fixed parameters, different from the initial ones, on the problem of its entry."""

    name: str
    problem: Problem
    guide: Guide
    params: object
    inert: Callable

    @functools.cached_property
    def sample(self) -> Callable:
        """`(params, keys) -> (vectors, log_q, log_p)`, compiled once for all laws."""

        def sample_one(params, key):
            target, batch = self.problem.target, self.problem.batch
            draw = self.guide.draw(params, target.space, key, batch)
            log_p = target.log_density(draw.z, batch)
            return target.space.ravel(draw.z), draw.log_q, log_p

        return jax.jit(jax.vmap(sample_one, in_axes=(None, 0)))

    @functools.cached_property
    def gradient(self) -> Callable:
        """`params -> gradient` of an ELBO of sixteen draws, compiled once for all laws."""

        def elbo(params):
            _, log_q, log_p = self.sample(params, keys(3, 16))
            return jnp.mean(log_p - log_q)

        return jax.jit(jax.grad(elbo))

    @functools.cached_property
    def draws(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        vectors, log_q, log_p = self.sample(self.params, keys(1, NUM_DRAWS))
        return np.asarray(vectors, float), np.asarray(log_q, float), np.asarray(log_p, float)

    def log_prob(self, vector) -> jax.Array:
        space, batch = self.problem.target.space, self.problem.batch
        return self.guide.log_prob(self.params, space, space.unravel(vector), batch)


def keys(seed: int, num: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), num)


@functools.cache
def case(name: str, target: str | None = None) -> Case:
    entry = GUIDES[name]
    case_problem = problem(target or entry.target)
    guide, space = entry.make(case_problem), case_problem.target.space
    location = space.unravel(jnp.asarray(case_problem.z_mean, jnp.float32))
    params = guide.init(jax.random.key(0), space, location)
    return Case(name, case_problem, guide, perturb(params), entry.inert)


def perturb(params, scale: float = 0.1):
    """Parameters perturbed in every coordinate, so that no law holds by symmetry.

    Low-rank factors are perturbed more, because their effect near zero is too small to detect.
    """
    leaves, treedef = jax.tree.flatten_with_path(params)
    perturbed = []
    for (path, leaf), key in zip(leaves, keys(2, len(leaves)), strict=True):
        factor = 8 if "factor" in jax.tree_util.keystr(path) else 1
        perturbed.append(leaf + factor * scale * jax.random.normal(key, leaf.shape, leaf.dtype))
    return jax.tree.unflatten(treedef, perturbed)


def assert_mean(samples, expected, floor=1e-5):
    """Asserts that the mean over the first axis is `expected` within five standard errors."""
    samples = np.asarray(samples, float)
    error = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    difference = np.abs(samples.mean(axis=0) - expected)
    assert np.all(difference < 5 * error + floor), (difference / (error + 1e-30)).max()


def draw_density_equals_log_prob(c: Case):
    vectors, log_q, _ = c.draws
    log_prob = jax.jit(jax.vmap(c.log_prob))(jnp.asarray(vectors[:64], jnp.float32))
    np.testing.assert_allclose(log_prob, log_q[:64], rtol=1e-5, atol=2e-5)


def density_integrates_to_one(c: Case):
    univariate = case(c.name, "normal_mean")
    grid = jnp.linspace(-12.0, 12.0, 6001)[:, None]
    density = np.exp(np.asarray(jax.jit(jax.vmap(univariate.log_prob))(grid), float))
    np.testing.assert_allclose(np.trapezoid(density, np.asarray(grid[:, 0], float)), 1, rtol=1e-4)


def gradient_reaches_every_parameter(c: Case):
    for path, leaf in jax.tree.leaves_with_path(c.gradient(c.params)):
        name = jax.tree_util.keystr(path)
        reached, inert = np.asarray(leaf) != 0, c.inert(name, np.asarray(leaf))
        np.testing.assert_array_equal(reached, ~inert, err_msg=name)


def lowers_for_accelerators(c: Case):
    """All of its operations, gradients included; see `tests.test_lowering`."""
    space, start = c.problem.target.space, jnp.asarray(c.problem.z_mean, jnp.float32)
    lowers(c.name, c.gradient.trace(c.params).jaxpr)
    if isinstance(c.guide, DensityGuide):
        density = jax.grad(
            lambda params, z: dataclasses.replace(c, params=params).log_prob(z), argnums=(0, 1)
        )
        lowers(c.name, jax.make_jaxpr(density)(c.params, start))
    if isinstance(c.guide, EntropyGuide):
        entropy = jax.grad(lambda params: c.guide.entropy(params, space))
        lowers(c.name, jax.make_jaxpr(entropy)(c.params))


def compiled_equals_eager(c: Case):
    space, batch = c.problem.target.space, c.problem.batch
    vectors, log_q, _ = c.draws
    for i, key in enumerate(keys(1, NUM_DRAWS)[:2]):
        draw = c.guide.draw(c.params, space, key, batch)
        np.testing.assert_allclose(space.ravel(draw.z), vectors[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(draw.log_q, log_q[i], rtol=1e-4, atol=1e-4)


def draw_depends_on_the_key_only(c: Case):
    vectors, _, _ = c.draws
    again, _, _ = c.sample(c.params, keys(1, NUM_DRAWS))
    np.testing.assert_array_equal(vectors, again)
    assert np.all(vectors[0] != vectors[1])


def draw_is_a_function_of_its_normals(c: Case):
    """Given the normals of a key instead of the key, draw and density are the same."""
    space, batch = c.problem.target.space, c.problem.batch
    key, num = keys(1, 1)[0], c.guide.num_normals(c.params, space)
    given = Normals(jax.random.normal(key, (num,)))
    from_key, from_normals = (c.guide.draw(c.params, space, k, batch) for k in (key, given))
    np.testing.assert_allclose(space.ravel(from_key.z), space.ravel(from_normals.z), rtol=1e-6)
    np.testing.assert_allclose(from_key.log_q, from_normals.log_q, rtol=1e-6)
    path = c.guide.path_log_q(c.params, space, given, from_normals, batch)
    np.testing.assert_allclose(path, from_key.log_q, rtol=1e-4, atol=1e-4)


def entropy_is_exact(c: Case):
    _, log_q, _ = c.draws
    assert_mean(-log_q, c.guide.entropy(c.params, c.problem.target.space))


def moments_are_exact(c: Case):
    vectors, _, _ = c.draws
    space = c.problem.target.space
    mean = np.asarray(c.guide.mean(c.params, space), float)
    covariance = np.asarray(c.guide.covariance(c.params, space), float)
    centered = vectors - mean
    assert_mean(vectors, mean)
    assert_mean(centered[:, :, None] * centered[:, None, :], covariance)


def mean_weight_is_the_evidence(c: Case):
    """`E[exp(log_p - log_q)] = Z`, augmented guides included."""
    _, log_q, log_p = c.draws
    assert_mean(np.exp(log_p - log_q - c.problem.log_evidence), 1.0)


def is_configuration(c: Case):
    """Frozen, hashable, and equal when constructed again."""
    again = GUIDES[c.name].make(c.problem)
    assert again == c.guide
    assert hash(again) == hash(c.guide)
    field = dataclasses.fields(c.guide)[0].name if dataclasses.fields(c.guide) else "anything"
    try:
        setattr(c.guide, field, 1)
    except dataclasses.FrozenInstanceError:
        return
    raise AssertionError(f"{c.guide} is not frozen")


def keeps_double_precision(c: Case):
    with jax.enable_x64(True):
        double = build_double(c.problem)
        guide = GUIDES[c.name].make(double)
        space = double.target.space
        location = space.unravel(jnp.asarray(c.problem.z_mean))
        params = guide.init(jax.random.key(0), space, location)
        draw = jax.eval_shape(
            lambda params, key: guide.draw(params, space, key, double.batch),
            params,
            jax.random.key(0),
        )
        for leaf in jax.tree.leaves((params, draw)):
            assert leaf.dtype == np.float64


def build_double(p: Problem) -> Problem:
    return dataclasses.replace(p, args=tuple(np.asarray(a, float) for a in p.args))


LAWS: dict[Callable[[Case], None], type[Guide]] = {
    draw_density_equals_log_prob: DensityGuide,
    density_integrates_to_one: DensityGuide,
    gradient_reaches_every_parameter: Guide,
    lowers_for_accelerators: Guide,
    compiled_equals_eager: Guide,
    draw_depends_on_the_key_only: Guide,
    draw_is_a_function_of_its_normals: NormalNoiseGuide,
    entropy_is_exact: EntropyGuide,
    moments_are_exact: GaussianGuide,
    mean_weight_is_the_evidence: Guide,
    is_configuration: Guide,
    keeps_double_precision: Guide,
}


def laws_of(name: str) -> list[Callable[[Case], None]]:
    """The laws that apply to a guide, by its contract and the options of its entry."""
    entry = GUIDES[name]
    guide = entry.make(problem(entry.target))
    excluded = {draw_depends_on_the_key_only, mean_weight_is_the_evidence} if entry.point else set()
    if not entry.single:
        excluded.add(density_integrates_to_one)
    if not entry.eager:
        excluded.add(compiled_equals_eager)
    return [law for law, kind in LAWS.items() if isinstance(guide, kind) and law not in excluded]
