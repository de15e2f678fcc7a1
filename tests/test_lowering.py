"""Every program that a fit or a posterior compiles lowers for GPU and TPU; no device is needed.

Guides have a law of their own, `tests.laws.lowers_for_accelerators`.
"""

import ast
import contextlib
import itertools
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx
from jax.scipy.special import ndtr
from numpyro.contrib.control_flow import scan
from numpyro.infer.autoguide import AutoNormal

import vijax
from tests.groups import Encoder, data, hierarchy
from tests.lowering import PLATFORMS, Recorder, lowers, nothing, recorded
from tests.targets import problem
from vijax import algorithms, guides, objectives
from vijax.algorithms import Gradient, Optimizer
from vijax.auto.centering import learn_centering
from vijax.auto.mode_search import prior_positions
from vijax.contracts import Batch, Variables
from vijax.contracts.kernel import Kernel
from vijax.engine.count_bounds import lower_bounds
from vijax.engine.initialization import origin
from vijax.engine.problem import Problem
from vijax.guides import flow
from vijax.model import check_data, split_and_build
from vijax.objectives.estimators import discrete
from vijax.posterior.relabeling import permuted
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import as_key
from vijax.solvers import names as solver_names
from vijax.solvers.block_updates import double_precision
from vijax.solvers.check_reading import check_reading
from vijax.solvers.coordinate_ascent import perturbed_start
from vijax.solvers.expectation_propagation import sweeps
from vijax.solvers.memoized import _updated
from vijax.solvers.rotation import rotated_elbo

PACKAGE = Path(vijax.__file__).parent
RNG = np.random.default_rng(0)
Y = RNG.normal(size=6).astype(np.float32)
REGRESSION = problem("regression")
SMALL = (REGRESSION.model, REGRESSION.args)


# --- models ----------------------------------------------------------------------------------


def chain(y):
    def step(before, y):
        now = numpyro.sample("x", dist.Normal(before, 0.5))
        numpyro.sample("y", dist.Normal(now, 1.0), obs=y)
        return now, None

    scan(step, 0.0, y)


def mixture(y):
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    with numpyro.plate("rows", len(y)):
        label = numpyro.sample("label", dist.Bernoulli(share))
        numpyro.sample("y", dist.Normal(2.0 * label - 1.0, 1.0), obs=y)


def switches(y):
    with numpyro.plate("rows", len(y)):
        on = numpyro.sample("on", dist.Bernoulli(0.4))
        numpyro.sample("y", dist.Normal(2.0 * on, 1.0), obs=y)


def counts(y):
    with numpyro.plate("rows", len(y)):
        n = numpyro.sample("n", dist.Poisson(3.0))
        numpyro.sample("y", dist.Binomial(n, 0.5), obs=y)


def with_params(y):
    """`param` sites and mutable state."""
    state = numpyro.primitives.mutable("state", {"mean": jnp.zeros(())})
    loc = numpyro.param("loc", 0.5)
    scale = numpyro.param("scale", 2.0, constraint=dist.constraints.positive)
    mu = numpyro.sample("mu", dist.Normal(loc, scale))
    state["mean"] = 0.9 * state["mean"] + 0.1 * y.mean()
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def levels(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(y)):
        level = numpyro.sample("level", dist.Normal(0.0, scale))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)


def levels_of_rows(y):
    """A conjugate model with a local latent variable."""
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        level = numpyro.sample("level", dist.Normal(loc, 1.0))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)


def dense(rngs):
    return nnx.Sequential(nnx.Conv(1, 2, (2,), rngs=rngs), nnx.Dropout(0.5, rngs=rngs))


def network(y):
    outputs = vijax.nn.network("net", dense)(jnp.reshape(y, (-1, 2, 1)))
    numpyro.sample("y", dist.Normal(outputs.mean((1, 2)), 1.0).to_event(1), obs=y[::2])


def masked(y, mask):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.handlers.mask(mask=mask):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def supports():
    """Supports with linear algebra in their bijections, densities with special functions."""
    numpyro.sample("simplex", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("matrix", dist.Wishart(4.0, jnp.eye(2)))
    shape = numpyro.sample("shape", dist.TruncatedNormal(2.0, 1.0, low=0.5))
    numpyro.sample("gamma", dist.Gamma(shape, 1.0))


class Slope(nnx.Module):
    """A linear encoder of one input."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(1, 1, rngs=rngs)

    def __call__(self, y):
        return self.layer(y[:, None])


# --- fits ------------------------------------------------------------------------------------


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def step(model, *args, **options):
    """A fit of one gradient step, without pilot runs."""
    return fit(model, *args, optimizer=optax.sgd(0.1), num_steps=1, **options)


def regression(**options):
    return fit(REGRESSION.model, *REGRESSION.args, **options)


def descent(objective, **options):
    return Gradient(objective, Optimizer(optax.adam(0.1)), **options)


def built(model, *args, sampled=frozenset()):
    arguments, values, target = split_and_build(model, args, {}, None, sampled)
    return target, arguments, Batch(values)


def traced_step(model, args, guide, algorithm):
    """One gradient step, traced on shapes only, without the loop around it."""
    target, arguments, batch = built(model, *args, sampled=guides.discrete_guide_sites(guide))
    guide = guides.resolve(guide, target, model, arguments)

    def run(key):
        variables = Variables(guide.init(key, target.space, origin(target.space), batch))
        state = algorithm.init(variables, {}, key, target, guide, batch)
        return algorithm.step(state, key, target, guide, batch)

    return jax.make_jaxpr(run)(as_key(0))


def use(posterior, *args):
    """The methods of a posterior that evaluate programs."""
    posterior.sample(20)
    posterior.predict(*args, num_draws=20)
    posterior.log_likelihood(20)
    posterior.to_datatree(20)
    return posterior


# --- parts, the simplest first ---------------------------------------------------------------

OBJECTIVES = {
    "ELBO": [objectives.ELBO(2, estimator=name) for name in ("entropy", "stl", "plain")]
    + [objectives.ELBO(2, draws=name) for name in ("latin_hypercube", "sobol")]
    + [objectives.ELBO(beta=0.5)],
    "IWAE": [objectives.IWAE(2), objectives.IWAE(2, "plain")],
    "Renyi": [objectives.Renyi(num_particles=2)],
    "CUBO": [objectives.CUBO(num_particles=2)],
    "ForwardKL": [objectives.ForwardKL(2)],
    "FreeBits": [objectives.FreeBits()],
    "ScoreELBO": [objectives.ScoreELBO(2)],
    "Tempered": [objectives.Tempered()],
    "FDivergence": [
        objectives.FDivergence(name, 2)
        for name in ("hellinger", "jensen_shannon", "total_variation")  # others have their parts
    ],
    "Stein": [],  # the objective of SVGD
}


@pytest.mark.lowering
def test_steps_of_all_objectives_and_algorithms_lower():
    assert {*OBJECTIVES, "discrete"} == {*objectives.__all__}
    for objective in itertools.chain(*OBJECTIVES.values()):
        lowers(repr(objective), traced_step(*SMALL, "meanfield", descent(objective)))
    for kernel in (algorithms.RBF(), algorithms.IMQ()):
        svgd = algorithms.SVGD(4, kernel=kernel)
        lowers(repr(svgd), traced_step(*SMALL, svgd.default_guide, svgd))
    sampler = algorithms.SGHMC(num_chains=2)
    lowers(repr(sampler), traced_step(*SMALL, guides.Particles(4), sampler))
    for guide in ("lowrank", "meanfield", "map"):
        lowers(f"SWAG {guide}", traced_step(*SMALL, guide, algorithms.SWAG()))
    for guide in ("meanfield", "fullrank"):
        natural = algorithms.NaturalGradient()
        lowers(f"{natural!r} {guide}", traced_step(*SMALL, guide, natural))
    lines = Gradient(objectives.ELBO(), Optimizer(optax.lbfgs()), precision="bfloat16")
    lowers("L-BFGS", traced_step(*SMALL, "fullrank", lines))


@pytest.mark.lowering
def test_steps_of_discrete_guides_lower():
    for name in discrete.NAMES:
        objective = objectives.ELBO(2, discrete=name)
        lowers(name, traced_step(switches, (Y,), "discrete", descent(objective)))
    elbo = descent(objectives.ELBO(2))
    for model, guide in (
        (mixture, {"label": "discrete", ...: "fullrank"}),
        (switches, guides.AmortizedDiscrete(Slope, "y")),
        (counts, "discrete"),
    ):
        lowers(repr(guide), traced_step(model, (Y,), guide, elbo))


def featured(rngs):
    """Of three inputs: location, log scale and features of a row."""
    return nnx.Linear(3, 5, rngs=rngs)


@pytest.mark.lowering
def test_steps_of_amortized_guides_lower():
    for guide in (
        guides.AmortizedFlow(featured, "y", num_features=3),
        guides.TopDown({"theta": Encoder}, "y"),
    ):
        algorithm = descent(objectives.ELBO(2))
        lowers(
            repr(guide),
            traced_step(hierarchy, (data(4),), {"theta": guide, ...: "fullrank"}, algorithm),
        )


def discrete_sites():
    use(fit(mixture, Y, guide="fullrank"), Y).discrete_probs(num_draws=20)  # marginalized
    target, arguments, batch = built(counts, np.arange(6), sampled="all")
    lower_bounds(target, batch, target.space.sites, {}, {})
    guide = guides.resolve("discrete", target, counts, arguments)
    counted = Problem(counts, arguments, target, guide, batch, as_key(0))
    prior_positions(counted, Variables(None), {}, as_key(1))


SOLVERS = {
    "pathfinder": "fullrank",
    "batch_and_match": "fullrank",
    "variational_newton": "fullrank",
    "fixed_draws": "meanfield",
    "laplace": "laplace",
    "mode": "map",
}


def solvers():
    others = {"structured_newton", "coordinate_ascent", "expectation_propagation"}
    assert {*SOLVERS, *others} == {*solver_names.NAMES}
    with mock.patch.object(Kernel, "is_costly", return_value=True):
        regression(guide="meanfield").covariance("linear_response")
    for name, guide in SOLVERS.items():
        regression(guide=guide, algorithm=name)
    fit(chain, Y, guide="markov")
    fit(hierarchy, data(4), guide="plates")


def many_data_sets():
    vijax.fit_many(REGRESSION.model, [REGRESSION.args] * 2, progress_bar=False).sample(10)


def flows():
    """Their layers are tested in tests/guides/flow/test_bijections.py."""
    regression(guide=guides.Flow(flow.Planar()))


BY_ROW = {"theta": "meanfield", ...: "fullrank"}
AMORTIZED = {"theta": guides.Amortized(Encoder, "y"), ...: "fullrank"}
BATCHES = {"batch_size": {"rows": 4}}


def minibatches():
    rows = data(12)
    amortized = step(hierarchy, rows, guide=AMORTIZED, **BATCHES)
    amortized.at(data(3)).sample(10)
    amortized.log_evidence_rows(num_draws=2)
    amortized.log_evidence_rows(num_draws=2, refine_steps=2)
    amortized.latents()
    mesh = jax.make_mesh((1,), ("rows",))
    fitted = step(hierarchy, rows, guide=BY_ROW, init=amortized, mesh=mesh, **BATCHES)
    steps, loop = fitted._result.engine.steps, fitted._result.run.loop
    steps.with_states(loop, steps.states(loop))


def product_of_normals(table):
    with numpyro.plate("row", 4):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("column", 3):
        v = numpyro.sample("v", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", 4, dim=-2), numpyro.plate("columns", 3):
        numpyro.sample("table", dist.Normal(u @ v.T, 1.0), obs=table)


def conjugate():
    # the numbers are not those of the model: programs are recorded, not run
    with mock.patch("vijax.solvers.coordinate_ascent.check_reading"):
        fit(levels_of_rows, Y, guide="conjugate")
        fit(levels_of_rows, Y, guide="conjugate", num_steps=10, **BATCHES)
        target, _, batch = built(product_of_normals, np.ones((4, 3)))
        guide = guides.resolve("conjugate", target)
        params = guide.init(as_key(0), target.space, origin(target.space), batch)
        rotated_elbo_of = guide.target.program(rotated_elbo, guide.plan)
        with jax.enable_x64(True):
            params, batch = double_precision((params, batch))
            rotated_elbo_of([np.eye(2)], params, batch)
            guide.target.program(perturbed_start, guide.plan, quick=True)(params, as_key(0))
            terms = {name: family.natural for name, family in params.items()}
            guide.target.program(_updated, guide.plan)(params, terms, terms, batch, 0.5, 1.0)


def probit(x, y):
    gain = numpyro.sample("gain", dist.HalfNormal(1.0))
    w = numpyro.sample("w", dist.Normal(0.0, gain).expand([x.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(probs=ndtr(x @ w)).to_event(1), obs=y)


def expectation_propagation():
    options = sweeps.Options(power=1.0, quadrature=4, tolerance=1e-8, damping=0.8)
    for shape in ((6, 2), (3, 5)):
        target, _, batch = built(probit, np.ones(shape, np.float32), np.ones(shape[0], int))
        plan, zeros = target.functions.projection_plan(()), np.zeros(shape[0])
        with jax.enable_x64(True):
            batch, z = double_precision((batch, {"gain": np.zeros(())}))
            terms = sweeps.Sites(zeros, zeros)
            where = target.program(sweeps.read_model, plan)(z, batch).support
            state = (z, terms, where, batch)
            target.program(sweeps.propagate, plan, options)(*state, 8, 0.5, 1.0)
            if shape == (3, 5):
                target.program(sweeps.evidence_slope, plan, options)(*state)


def posteriors():
    posterior = use(regression(guide="fullrank"), *REGRESSION.args)
    z = {name: value[:4] for name, value in posterior._result.assessment.draws.z.items()}
    permuted(posterior._result, z, (("beta", 0),), [np.tile([1, 0], (4, 1))])
    posterior.log_prob(posterior.median())
    posterior.predictor(returns="summary")(*REGRESSION.args)
    posterior.stein_discrepancy(20)
    export, _ = regression(guide="meanfield", init={"alpha": 0.0}).as_numpyro()
    export.sample_posterior(jax.random.key(0), sample_shape=(3,))
    step(SMALL[0], *SMALL[1], guide="fullrank", init=posterior)
    step(SMALL[0], *SMALL[1], guide=AutoNormal(SMALL[0])).guide_params  # noqa: B018


def models():
    fit(supports, guide="laplace")
    fit(with_params, Y, guide="map").model_params  # noqa: B018
    target, arguments, batch = built(masked, np.where(Y > 0, Y, np.nan), Y > 0)
    check_data(target, arguments, batch)
    target, arguments, batch = built(levels, Y)
    batch = batch._replace(centering={"level": jnp.zeros(len(Y))})
    guide = guides.FullRank()
    centered = Problem(levels, arguments, target, guide, batch, as_key(0))
    params = guide.init(as_key(0), target.space, origin(target.space))
    learn_centering(centered, Variables(params), {})
    target, _, batch = built(*SMALL[:1], *SMALL[1])
    with contextlib.suppress(GuideError):  # programs are recorded, not run
        check_reading(target, batch, as_key(0))
    with jax.enable_x64(True):
        regression(guide="laplace")


def networks():
    for noise in ("shared", "flipout"):
        step(network, Y, guide=guides.MeanField(noise=noise))
    fit(network, Y, algorithm="ivon", num_steps=1)


def diffusion(y):
    net = vijax.nn.network("net", lambda rngs: vijax.nn.MLP(2, 4, 1, rngs=rngs), prior=None)
    with numpyro.plate("rows", len(y)):
        vijax.nn.diffusion("y", net, y, schedule="learned")


def generative():
    fitted = step(diffusion, RNG.normal(size=(6, 2)), batch_size=3)
    fitted.bound(num_draws=2, ode_steps=2)
    fitted.generate(num_steps=2)
    step(coded, RNG.normal(size=(6, 2)), batch_size=3).bound(num_draws=2)


class Coder(nnx.Module):
    def __init__(self, rngs):
        self.quantizer = vijax.nn.VectorQuantizer(4, 2, rngs=rngs)
        self.linear = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, y):
        codes = self.quantizer(self.linear(y))
        return codes.values, codes


def coded(y):
    mean, codes = vijax.nn.network("coder", Coder, prior=None)(y)
    with numpyro.plate("rows", len(y)):
        vijax.nn.discrete_codes("codes", codes)
        numpyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


def curvature():
    def model(y):
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        outputs = vijax.nn.network("net", dense)(jnp.reshape(y, (-1, 2, 1)))
        numpyro.sample("y", dist.Normal(outputs.mean((1, 2)), sigma).to_event(1), obs=y[::2])

    for kind in ("ggn", "diagonal", "kronecker"):
        step(model, Y, guide=guides.Laplace(kind))


# Every program of the library, by a part that evaluates it.
PARTS = {
    discrete_sites: {
        "_bisect",
        "_discrete",
        "_log_likelihood",
        "_mean_probs",
        "_observations",
        "_predict",
        "prior_draws",
    },
    solvers: {"log_densities", "solver_kernel", "solver_paired_products", "solver_products"},
    many_data_sets: {"stacked_constrain", "stacked_kernel", "stacked_trajectories"},
    flows: {"descend", "pullback_kernel"},
    minibatches: {
        "_candidates",
        "_differences",
        "_draw",
        "_draw_block",
        "_encodings",
        "_initial_params",
        "_log_weights",
        "_replicated_variables_on_rows",
        "_row_params",
        "init_loop",
        "pack_states",
        "run_steps",
        "unpack_states",
        "unpack_variables",
    },
    conjugate: {
        "_solved",
        "sweep_many",
        "_updated",
        "elbo",
        "rotated_elbo",
        "run_steps",
        "perturbed_start",
    },
    expectation_propagation: {"evidence_slope", "propagate", "read_model"},
    networks: {"_starts", "run_steps"},
    generative: {"bound_parts", "generate_rows", "ode_log_densities", "run_steps"},
    curvature: {
        "coordinate_curvature",
        "diagonal_sums",
        "gauss_newton",
        "kronecker_sums",
        "log_density_and_gradient",
        "prior_curvature",
        "prior_hessian",
    },
    posteriors: {
        "_constrain",
        "_constrain_latent_sites",
        "_draws",
        "_guide_params",
        "_log_prob",
        "_permuted",
        "_row_differences",
        "_start",
        "_unconstrain",
        "predict_rows",
    },
    models: {
        "_compare",
        "_finite",
        "_initial_params",
        "_initialize",
        "_log_prior_sds",
        "_model_params",
        "recenter",
    },
}
# Functions compiled otherwise, which consist of what these programs consist of.
OTHERS = {
    "runtime/program.py": "Target.program",
    "fitting/initial_values.py": "strategies of NumPyro, draws from the prior",
    "guides/numpyro/export.py": "draws for NumPyro",
    "runtime/gathers.py": "a log density or predictions, where data have indices out of range",
    "posterior/serving.py": "predict_rows, in a file",
    "runtime/predictor.py": "a program from a file",
    "runtime/compilation.py": "whether the CPU compiler knows an option",
}


@pytest.mark.lowering
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_programs_lower(part):
    with recorded() as recorder:
        part()
    assert recorder.failures == []
    assert PARTS[part] <= recorder.programs


def test_no_program_is_left_out():
    named, others = set(), set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if ".program(" not in text and "jax.jit" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Call(func=ast.Attribute(attr="program"), args=[ast.Name(id=name), *_]):
                    named.add(name)
                case ast.Attribute(value=ast.Name(id="jax"), attr="jit"):
                    others.add(path.relative_to(PACKAGE).as_posix())
    named.remove("function")  # an argument of `vijax.auto.centering._blockwise`
    assert named <= set().union(*PARTS.values())
    assert others == OTHERS.keys()


def unsuited():
    """A density whose eigenvalues XLA computes on CPUs and NVIDIA GPUs only."""
    x = numpyro.sample("x", dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(2))
    values = jnp.linalg.eigvals(jax.lax.stop_gradient(x))
    numpyro.factor("stable", -jnp.abs(values).max())


@pytest.mark.parametrize("names", [set(), {"solver_kernel"}], ids=["program", "operation"])
def test_what_does_not_lower_is_found(names):
    with recorded(nothing()._replace(names=names)) as recorder:
        fit(unsuited, guide="map")
    assert recorder.failures[0].startswith("solver_kernel")
    assert all("'eig' not found for platform tpu" in line for line in recorder.failures)


def test_callbacks_are_found():
    """They need a host that waits for the device; for models with them there is `ScoreELBO`."""
    recorder = Recorder(nothing())

    def program(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float32), x)

    recorder.check("callback", jax.make_jaxpr(program)(1.0))
    assert len(recorder.failures) == len(PLATFORMS)
