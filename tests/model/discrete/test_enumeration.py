"""Discrete sites: marginalized as by brute force, and sampled from their exact conditional."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density
from scipy.special import logsumexp

from vijax.contracts import Batch
from vijax.contracts.kernel import Kernel
from vijax.model import build, split
from vijax.runtime.errors import ModelError

RNG = np.random.default_rng(3)
Y = RNG.normal(size=4).astype(np.float32)
GRID = RNG.normal(size=(3, 2)).astype(np.float32)
SERIES = RNG.normal(size=5).astype(np.float32)
PANEL = RNG.normal(size=(4, 2)).astype(np.float32)
WEIGHTS = jnp.array([0.2, 0.5, 0.3])
SHIFTS = jnp.array([-1.0, 0.4, 1.5])
STEPS = jnp.array([[0.7, 0.2, 0.1], [0.15, 0.6, 0.25], [0.3, 0.3, 0.4]])
QUICK = {"xla_backend_optimization_level": 0}  # the code runs once


def level():
    return numpyro.sample("mu", dist.Normal(0.3, 1.0))


def categorical(name, probs=WEIGHTS):
    return numpyro.sample(name, dist.Categorical(probs))


def outside_plates(y):
    mu = level()
    z = categorical("z")
    numpyro.sample("y", dist.Normal(mu + SHIFTS[z], 1.0), obs=y)  # its rows are in no plate


def in_a_plate(y):
    mu = level()
    with numpyro.plate("rows", len(y)):
        z = categorical("z")
        numpyro.sample("y", dist.Normal(mu + SHIFTS[z], 1.0), obs=y)


def with_a_common_parent(y):
    mu = level()
    kind = numpyro.sample("kind", dist.Bernoulli(jax.nn.sigmoid(mu)))
    with numpyro.plate("rows", len(y)):
        z = categorical("z", STEPS[kind])
        numpyro.sample("y", dist.Normal(SHIFTS[z] * (1 + kind), 1.0), obs=y)
    numpyro.sample("sum", dist.Normal(kind * mu, 1.0), obs=0.3)


def hierarchy_of_sites(y):
    mu = level()
    with numpyro.plate("rows", len(y)):
        first = categorical("first")
        second = categorical("second", STEPS[first])
        third = numpyro.sample("third", dist.Binomial(2, jax.nn.sigmoid(mu + SHIFTS[second])))
        numpyro.sample("y", dist.Normal(mu + SHIFTS[first] * third, 1.0), obs=y)


def nested_plates(y):
    mu = level()
    with numpyro.plate("columns", 2, dim=-1):
        outer = categorical("outer")
        with numpyro.plate("rows", 3, dim=-2):
            inner = numpyro.sample("inner", dist.Bernoulli(0.2 + 0.3 * outer))
            numpyro.sample("y", dist.Normal(mu + SHIFTS[outer] * inner, 1.0), obs=y)


def separate_plates(y):
    mu = level()
    with numpyro.plate("rows", 3, dim=-2):
        a = numpyro.sample("a", dist.DiscreteUniform(2, 4))
        numpyro.sample("u", dist.Normal(mu * a, 1.0), obs=y[:, :1])
    with numpyro.plate("columns", 2):
        b = categorical("b")
        numpyro.sample("v", dist.Normal(mu + SHIFTS[b], 1.0), obs=y[0])


def scaled(y):
    mu = level()
    with numpyro.plate("rows", len(y)):
        z = categorical("z")
        with handlers.scale(scale=0.5):
            numpyro.sample("y", dist.Normal(mu + SHIFTS[z], 1.0), obs=y)


def prior_of_a_latent(y):
    z = categorical("z")
    mu = numpyro.sample("mu", dist.Normal(SHIFTS[z], 0.5))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def markov(y):
    mu = level()

    def step(x, y):
        x = categorical("x", STEPS[x])
        numpyro.sample("y", dist.Normal(mu + SHIFTS[x], 1.0), obs=y)
        return x, None

    scan(step, 0, y)


def markov_from_a_site(y):
    mu = level()
    start = categorical("start")
    numpyro.sample("early", dist.Normal(SHIFTS[start], 1.0), obs=0.2)

    def step(carry, y):
        x, t = carry
        x = categorical("x", STEPS[x])
        numpyro.sample("y", dist.Normal(mu + SHIFTS[x] + 0.1 * t, 1.0), obs=y)
        return (x, t + 1), None

    scan(step, (start, 0), y)


def reversed_markov(y):
    mu = level()
    start = categorical("start")

    def step(x, y):
        x = categorical("x", STEPS[x])
        numpyro.sample("y", dist.Normal(mu + SHIFTS[x], 1.0), obs=y)
        return x, None

    scan(step, start, y[:4], reverse=True)


def switching(y):
    """An autoregression whose coefficient depends on the state, and a mixture at every step."""
    mu = level()
    kind = numpyro.sample("kind", dist.Bernoulli(0.4))

    def step(carry, y):
        x, last = carry
        x = numpyro.sample("x", dist.Bernoulli(jnp.array([0.2, 0.7])[x] + 0.1 * kind))
        blip = numpyro.sample("blip", dist.Bernoulli(jnp.array([0.1, 0.5])[x]))
        numpyro.sample("y", dist.Normal(mu * last * x + blip, 1.0), obs=y)
        return (x, y), None

    scan(step, (jnp.array(0), 0.0), y[:3])


def two_chains(y):
    mu = level()
    first = numpyro.sample("first", dist.Bernoulli(0.5))

    def step(carry, y):
        a, b = carry
        a = numpyro.sample("a", dist.Bernoulli(jnp.array([0.2, 0.7])[a]))
        b = numpyro.sample("b", dist.Bernoulli(jnp.array([[0.3, 0.6], [0.8, 0.4]])[a, b]))
        numpyro.sample("y", dist.Normal(mu * a + b, 1.0), obs=y)
        return (a, b), None

    scan(step, (first, 1), y[:4])


def panel(y, length):
    """Several series of different lengths in a plate, with two observations per step."""
    mu = level()

    def step(carry, y):
        x, t = carry
        with numpyro.plate("series", 2, dim=-2), handlers.mask(mask=(t < length)[:, None]):
            x = categorical("x", STEPS[x])
            with numpyro.plate("kinds", 2):
                numpyro.sample("y", dist.Normal(mu + SHIFTS[x], jnp.array([1.0, 2.0])), obs=y)
        return (x, t + 1), None

    scan(step, (jnp.zeros((2, 1), int), 0), jnp.stack([y[:3], -y[:3]], -1))


def without_a_chain(y):
    mu = level()

    def step(last, y):
        z = categorical("z")
        numpyro.sample("y", dist.Normal(mu * last + SHIFTS[z], 1.0), obs=y)
        return y, None

    scan(step, 0.0, y)


CASES = {
    model.__name__: (model, args)
    for model, *args in [
        (outside_plates, Y),
        (in_a_plate, Y),
        (with_a_common_parent, Y),
        (hierarchy_of_sites, Y[:2]),
        (nested_plates, GRID),
        (separate_plates, GRID),
        (scaled, Y),
        (prior_of_a_latent, Y),
        (markov, SERIES),
        (markov_from_a_site, SERIES),
        (reversed_markov, SERIES),
        (switching, SERIES),
        (two_chains, SERIES),
        (panel, PANEL, np.array([3, 3])),
        (without_a_chain, SERIES),
    ]
}


@functools.cache
def world(name):
    model, args = CASES[name]
    arguments, data = split(model, tuple(args), {})
    return build(model, arguments), Batch(data)


@functools.cache
def brute_force(name):
    """Every assignment of the discrete sites `(num, ...)`, NumPyro's log density and gradient."""
    model, args = CASES[name]
    target, _ = world(name)
    seeded = handlers.seed(model, 0)
    trace = handlers.trace(handlers.substitute(seeded, data={"mu": 0.8})).get_trace(*args)
    shapes, supports = {}, {}
    for site, size in target.marginalized.sizes.items():
        shapes[site] = np.shape(trace[site]["value"])
        supports[site] = np.arange(size) + 2 * (site == "a" and name == "separate_plates")
    counts = [int(np.prod(shapes[site])) for site in shapes]
    cells = [supports[site] for site, n in zip(shapes, counts, strict=True) for _ in range(n)]
    table = np.array(list(itertools.product(*cells)))
    pieces = np.split(table, np.cumsum(counts)[:-1], axis=1)
    values = {
        site: jnp.asarray(piece.reshape(-1, *shape))
        for (site, shape), piece in zip(shapes.items(), pieces, strict=True)
    }

    def one(mu, assignment):
        return log_density(model, args, {}, {"mu": mu, **assignment})[0]

    gradients = jax.vmap(jax.value_and_grad(one), (None, 0))
    log_probs, gradients = jax.jit(gradients, compiler_options=QUICK)(0.8, values)
    if name == "reversed_markov":  # NumPyro's `substitute` counts steps, not positions
        values["x"] = values["x"][:, ::-1]
    return values, np.asarray(log_probs, float), np.asarray(gradients, float)


# Their parts are in the others, one by one or together.
SLOW = (
    "without_a_chain",
    "hierarchy_of_sites",
    "switching",
    "markov_from_a_site",
    "nested_plates",
    "two_chains",
    "panel",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_log_density_equals_brute_force(name):
    target, batch = world(name)
    assert target.space.names == ("mu",)
    program = jax.jit(jax.value_and_grad(target.log_density), compiler_options=QUICK)
    got, gradient = program({"mu": jnp.array(0.8)}, batch)
    _, log_probs, gradients = brute_force(name)
    assert got == pytest.approx(logsumexp(log_probs), abs=2e-4)
    expected = np.exp(log_probs - logsumexp(log_probs)) @ gradients
    assert gradient["mu"] == pytest.approx(expected, abs=1e-3)


QUICK_DRAWS = ("in_a_plate", "markov")  # the others take the same two ways
DRAWN = [
    pytest.param(name, marks=() if name in QUICK_DRAWS else pytest.mark.slow)
    for name in CASES
    if name != "scaled"
]


@pytest.mark.parametrize("name", DRAWN)
def test_draws_follow_the_exact_conditional(name):
    target, batch = world(name)
    z, num = {"mu": jnp.array(0.8)}, 4000

    def one(key):
        states = target.draw_discrete(key, z, batch, {}, {})
        return target.constrain({**z, **states}, batch, {}, {})

    program = jax.jit(jax.vmap(one), compiler_options=QUICK)
    draws = program(jax.random.split(jax.random.key(0), num))
    values, log_probs, _ = brute_force(name)
    exact = np.exp(log_probs - logsumexp(log_probs))
    rows = np.concatenate([np.reshape(v, (len(v), -1)) for v in values.values()], axis=1)
    got = np.concatenate([np.reshape(draws[site], (num, -1)) for site in values], axis=1)
    assert {site: draws[site].shape[1:] for site in values} == {
        site: value.shape[1:] for site, value in values.items()
    }
    number = {tuple(row): i for i, row in enumerate(rows)}
    counts = np.bincount([number[tuple(row)] for row in got], minlength=len(rows))
    # every first and second moment of the indicators of all states
    for size in (1, 2):
        for columns in itertools.islice(itertools.combinations(range(rows.shape[1]), size), 20):
            for state in np.unique(rows[:, columns], axis=0):
                hit = (rows[:, columns] == state).all(1)
                p = exact[hit].sum()
                error = 5 * np.sqrt(p * (1 - p) / num) + 5 / num
                assert abs(counts[hit].sum() / num - p) < error


@pytest.mark.parametrize("name", DRAWN)
def test_probabilities_of_values_equal_brute_force(name):
    target, batch = world(name)
    program = jax.jit(target.discrete_probs, compiler_options=QUICK)
    probs = program({"mu": jnp.array(0.8)}, batch, {}, {})
    values, log_probs, _ = brute_force(name)
    exact = np.exp(log_probs - logsumexp(log_probs))
    assert probs.keys() == values.keys()
    for site, value in values.items():
        each = value[..., None] == np.unique(value)
        expected = np.einsum("s,s...->...", exact, each)
        np.testing.assert_allclose(probs[site], expected, atol=1e-5)


def impossible(y):
    """A chain that never leaves its last state, and data that rule out a label."""
    mu = level()

    def step(x, y):
        x = categorical("x", jnp.array([[0.5, 0.5, 0.0], [0.0, 0.4, 0.6], [0.0, 0.0, 1.0]])[x])
        numpyro.sample("y", dist.Normal(mu + SHIFTS[x], 1.0), obs=y)
        return x, None

    scan(step, 0, y)
    with numpyro.plate("rows", len(y)):
        z = categorical("z", jnp.array([0.5, 0.5, 0.0]))
        numpyro.sample("sign", dist.Uniform(0.0, jnp.array([1.0, 9.0, 3.0])[z]), obs=jnp.abs(y) + 1)


def test_probabilities_of_impossible_values_are_zero():
    target, batch = make(impossible, SERIES)
    program = jax.jit(target.discrete_probs, compiler_options=QUICK)
    probs = program({"mu": jnp.array(0.8)}, batch, {}, {})
    np.testing.assert_allclose(probs["z"], np.tile([0.0, 1.0, 0.0], (5, 1)), atol=1e-6)
    np.testing.assert_array_equal(probs["x"][0, 2], 0.0)
    np.testing.assert_allclose(probs["x"].sum(-1), 1.0, atol=1e-6)
    assert (np.diff(probs["x"][:, 2]) >= -1e-6).all()


def make(model, *args):
    arguments, data = split(model, args, {})
    return build(model, arguments), Batch(data)


def density(target, batch, mu=0.8):
    program = jax.jit(target.log_density, compiler_options=QUICK)
    return float(program({"mu": jnp.array(mu)}, batch))


def poisson(y):
    mu = level()
    n = numpyro.sample("n", dist.Poisson(2.0))
    numpyro.sample("y", dist.Normal(mu * n, 1.0), obs=y)


def events(y):
    mu = level()
    z = numpyro.sample("z", dist.Bernoulli(jnp.full(4, 0.3)).to_event(1))
    numpyro.sample("y", dist.Normal(mu * z, 1.0), obs=y)


def no_plate(y):
    mu = level()
    z = numpyro.sample("z", dist.Bernoulli(0.3).expand([4]))
    numpyro.sample("y", dist.Normal(mu * z, 1.0), obs=y)


def sum_over_rows(y):
    mu = level()
    with numpyro.plate("rows", 4):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
    numpyro.sample("y", dist.Normal(mu * z.sum(), 1.0), obs=y)


def observed_after_the_scan(y):
    mu = level()

    def step(x, _):
        x = categorical("x", STEPS[x])
        return x, x

    _, xs = scan(step, 0, None, length=len(y))
    with numpyro.plate("steps", len(y)):
        numpyro.sample("y", dist.Normal(mu + SHIFTS[xs], 1.0), obs=y)


def all_earlier_states(y):
    mu = level()

    def step(total, y):
        x = numpyro.sample("x", dist.Bernoulli(jax.nn.sigmoid(total)))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        return total + x, None

    scan(step, 0.0, y)


def too_many(y):
    mu = level()
    parts = [numpyro.sample(f"z{i}", dist.Categorical(jnp.ones(50) / 50)) for i in range(3)]
    numpyro.sample("y", dist.Normal(mu + sum(parts), 1.0), obs=y)


def crossed_plates(y):
    mu = level()
    rows, columns = numpyro.plate("rows", 3, dim=-2), numpyro.plate("columns", 2, dim=-1)
    with rows:
        a = numpyro.sample("a", dist.Bernoulli(0.3))
    with columns:
        b = numpyro.sample("b", dist.Bernoulli(0.3))
    with rows, columns:
        numpyro.sample("y", dist.Normal(mu * a * b, 1.0), obs=y)


def one_state_for_all_chains(y):
    mu = level()

    def step(carry, y):
        common, own = carry
        common = numpyro.sample("common", dist.Bernoulli(0.2 + 0.5 * common))
        with numpyro.plate("series", 2):
            own = numpyro.sample("own", dist.Bernoulli(0.1 + 0.4 * own + 0.3 * common))
            numpyro.sample("y", dist.Normal(mu + own, 1.0), obs=y)
        return (common, own), None

    scan(step, (0, jnp.zeros(2, int)), y)


def moving_support(y):
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    mu = numpyro.sample("mu", dist.Uniform(0.0, 1.0 + z))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (poisson, Y, "site 'n': .*finitely many values.*Poisson.*Categorical"),
        (events, Y, r"site 'z': .*event shape \(4,\).*plate for its entries"),
        (no_plate, Y, r"site 'z': .*batch shape \(4,\).*numpyro.plate"),
        (sum_over_rows, Y, "site 'y': depends on .*'z' in every row of plate 'rows'"),
        (observed_after_the_scan, Y, "site 'y': depends on .*'x' .*the scan.*Move it into"),
        (
            all_earlier_states,
            Y,
            "site 'x': expected a first-order Markov chain.*'x'",
        ),
        (too_many, Y, r"site 'y': .*at most 65536 combinations.*got 125000: 'z0' \(50 values\)"),
        (crossed_plates, GRID, "sites .*'a'.*plates.*nested.*crossed"),
        (one_state_for_all_chains, GRID, "site 'own': .*jointly carries.*got 'common'"),
        (moving_support, Y, "site 'mu': expected a support.*depends on 'z'"),
    ],
)
def test_sites_that_cannot_be_marginalized_are_named(model, data, message):
    with pytest.raises(ModelError, match=f"(?s){message}"):
        make(model, data)


def test_a_subsampled_mixture_is_scaled_to_all_rows():
    def model(y, size=None):
        mu = level()
        with numpyro.plate("rows", len(y), subsample_size=size) as rows:
            z = categorical("z")
            numpyro.sample("y", dist.Normal(mu + SHIFTS[z], 1.0), obs=y[rows])

    target, batch = make(functools.partial(model, size=2), Y)
    z = {"mu": jnp.array(0.8)}
    prior = float(dist.Normal(0.3, 1.0).log_prob(0.8))

    def likelihood(rows):
        return logsumexp(
            np.log(WEIGHTS) + dist.Normal(0.8 + SHIFTS, 1.0).log_prob(Y[rows, None]), 1
        )

    assert target.log_density(z, batch) == pytest.approx(
        prior + likelihood([0, 1, 2, 3]).sum(), abs=1e-4
    )
    some = batch._replace(index={"rows": jnp.array([3, 1])})
    assert density(target, some) == pytest.approx(prior + 2 * likelihood([3, 1]).sum(), abs=1e-4)


def test_sites_that_depend_on_a_discrete_site_need_its_state():
    def model(y):
        mu = level()
        with numpyro.plate("rows", len(y)):
            z = categorical("z")
            numpyro.deterministic("mean", mu + SHIFTS[z])
            numpyro.sample("y", dist.Normal(mu + SHIFTS[z], 1.0), obs=y)
        numpyro.deterministic("double", 2 * mu)

    target, batch = make(model, Y)
    z = {"mu": jnp.array(0.8)}
    assert target.constrain(z, batch, {}, {}).keys() == {"mu", "double"}
    values = target.constrain({**z, "z": jnp.array([2, 0, 1, 2])}, batch, {}, {})
    assert values["z"].tolist() == [2, 0, 1, 2]
    np.testing.assert_allclose(values["mean"], 0.8 + SHIFTS[values["z"]], rtol=1e-6)


def test_a_masked_state_leaves_the_evidence_unchanged():
    """A series of one step has the same evidence in a plate with a longer one as alone."""

    def alone(y):
        mu = level()
        x = categorical("x", STEPS[0])
        numpyro.sample("y", dist.Normal(mu + SHIFTS[x], jnp.array([1.0, 2.0])), obs=y)

    evidence = {}
    for lengths in ((3, 0), (0, 1), (3, 1), (0, 0)):
        target, batch = make(panel, PANEL, np.array(lengths))
        evidence[lengths] = density(target, batch)
    prior = float(dist.Normal(0.3, 1.0).log_prob(0.8))
    assert evidence[0, 0] == pytest.approx(prior, abs=1e-5)
    assert evidence[3, 1] == pytest.approx(evidence[3, 0] + evidence[0, 1] - prior, abs=1e-4)
    target, batch = make(alone, np.stack([PANEL[:3], -PANEL[:3]], -1)[0, 1])
    assert evidence[0, 1] == pytest.approx(density(target, batch), abs=1e-4)


def test_only_sites_that_depend_on_the_previous_state_are_enumerated_over_pairs():
    target, _ = world("markov_from_a_site")
    plan = target.functions.evaluate.__self__.plan
    axes = {site: (spec.current, spec.previous) for site, spec in plan.specs.items()}
    assert axes == {
        "start": (("start",), ()),
        "early": (("start",), ()),
        "x": (("x",), ("x",)),
        "y": (("x",), ()),
    }


def test_a_long_chain_equals_the_forward_algorithm():
    y = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    target, batch = make(markov, y)
    away = y[:, None] - 0.8 - np.asarray(SHIFTS, float)
    likelihood = np.exp(-0.5 * away**2) / np.sqrt(2 * np.pi)
    forward, total = np.array([1.0, 0.0, 0.0]), 0.0
    for row in likelihood:
        forward = (forward @ np.asarray(STEPS, float)) * row
        total += np.log(forward.sum())
        forward /= forward.sum()
    prior = float(dist.Normal(0.3, 1.0).log_prob(0.8))
    assert density(target, batch) == pytest.approx(total + prior, rel=1e-6)
    assert target.marginalized.entries == 9_999 * 3 * 3 + 3
    assert Kernel(target, batch).block == 128
    longer, rows = make(markov, np.zeros(40_000, np.float32))
    assert Kernel(longer, rows).block == 2**24 // (1 + 40_000 + longer.marginalized.entries)


def test_a_chain_of_one_step():
    target, batch = make(markov, SERIES[:1])
    terms = np.log(STEPS[0]) + dist.Normal(0.8 + SHIFTS, 1.0).log_prob(SERIES[0])
    expected = logsumexp(terms) + dist.Normal(0.3, 1.0).log_prob(0.8)
    assert density(target, batch) == pytest.approx(float(expected), abs=1e-5)


def test_the_log_likelihood_of_a_mixture_is_marginal():
    target, batch = world("in_a_plate")
    z = {"mu": jnp.array(0.8), "z": jnp.zeros(4, int)}
    terms = np.log(WEIGHTS) + dist.Normal(0.8 + SHIFTS, 1.0).log_prob(Y[:, None])
    got = target.site_log_probs(z, batch, {}, {})["y"]
    np.testing.assert_allclose(got, logsumexp(terms, axis=1), atol=1e-5)
    # where several rows depend on a state, it is conditional on the state
    target, batch = world("with_a_common_parent")
    states = {"kind": jnp.array(1), "z": jnp.array([0, 1, 2, 0])}
    got = target.site_log_probs({"mu": jnp.array(0.8), **states}, batch, {}, {})["y"]
    expected = dist.Normal(2 * SHIFTS[states["z"]], 1.0).log_prob(Y)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_one_initial_state_for_several_chains():
    """The initial state is outside the plate of the chains."""

    def model(y):
        mu = level()
        start = categorical("start")

        def step(x, y):
            with numpyro.plate("series", 2):
                x = categorical("x", STEPS[x])
                numpyro.sample("y", dist.Normal(mu + SHIFTS[x], 1.0), obs=y)
            return x, None

        scan(step, jnp.full(2, start), y)

    target, batch = make(model, GRID)
    total = []
    for start in range(3):
        evidence = np.log(WEIGHTS[start])
        for series in GRID.T:
            forward = np.eye(3)[start]
            for y in series:
                seen = np.exp(dist.Normal(0.8 + SHIFTS, 1.0).log_prob(y))
                forward = (forward @ np.asarray(STEPS, float)) * seen
            evidence += np.log(forward.sum())
        total.append(evidence)
    prior = float(dist.Normal(0.3, 1.0).log_prob(0.8))
    assert density(target, batch) == pytest.approx(float(logsumexp(total)) + prior, abs=1e-4)


def counted_by_a_factor(y, mask):
    """The prior of a discrete site is masked and counted by a factor."""
    mu = level()
    with numpyro.plate("rows", len(y)):
        prior = dist.Categorical(WEIGHTS)
        with handlers.mask(mask=mask):
            z = numpyro.sample("z", prior)
        numpyro.factor("prior", jnp.where(mask, 0.0, prior.log_prob(z)))
        numpyro.sample("y", dist.Normal(mu + SHIFTS[z], 1.0), obs=y)


def counted_in_a_scan(y, mask):
    mu = level()

    def step(x, both):
        y, used = both
        prior = dist.Categorical(STEPS[x])
        x = numpyro.sample("x", prior.mask(used))
        numpyro.factor("prior", jnp.where(used, 0.0, prior.log_prob(x)))
        numpyro.sample("y", dist.Normal(mu + SHIFTS[x], 1.0), obs=y)
        return x, None

    scan(step, 0, (y, mask))


@pytest.mark.parametrize(
    ("masked", "plain"), [(counted_by_a_factor, in_a_plate), (counted_in_a_scan, markov)]
)
def test_a_masked_prior_that_a_factor_counts(masked, plain):
    target, batch = make(plain, Y)
    expected = density(target, batch)
    for mask in (np.zeros(4, bool), np.array([True, False, False, True])):
        target, batch = make(masked, Y, mask)
        assert density(target, batch) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("forced", [False, True])
def test_a_masked_prior_whose_rows_are_observed(forced):
    """Rows whose prior is masked count every value once where an observation depends on them."""

    def model(y, known, valid):
        mu = level()
        with numpyro.plate("rows", len(y)):
            with handlers.mask(mask=known):
                z = categorical("z")
            with handlers.mask(mask=valid):
                numpyro.sample("y", dist.Normal(mu + SHIFTS[z], 1.0), obs=y)

    known = np.array([True, True, False, False])
    valid = np.array([True, False, forced, False])
    target, batch = make(model, Y, known, valid)
    values = dist.Normal(0.8 + SHIFTS, 1.0)
    expected = logsumexp(np.log(WEIGHTS) + values.log_prob(Y[0]))
    if forced:
        expected += logsumexp(values.log_prob(Y[2]))
    expected += dist.Normal(0.3, 1.0).log_prob(0.8)
    assert density(target, batch) == pytest.approx(float(expected), abs=1e-5)


def test_a_mask_that_depends_on_another_discrete_site():
    """The density is that of the mask, whether the masked site is used or not."""

    def model(y):
        mu = level()
        with numpyro.plate("rows", len(y)):
            use = numpyro.sample("use", dist.Bernoulli(0.3))
            with handlers.mask(mask=use == 1):
                z = categorical("z")
                numpyro.sample("y", dist.Normal(mu + SHIFTS[z], 1.0), obs=y)

    target, batch = make(model, Y)
    used = np.log(0.3) + logsumexp(
        np.log(WEIGHTS) + dist.Normal(0.8 + SHIFTS, 1.0).log_prob(Y[:, None]), axis=1
    )
    expected = np.logaddexp(used, np.log(0.7 * 3)).sum() + dist.Normal(0.3, 1.0).log_prob(0.8)
    assert density(target, batch) == pytest.approx(float(expected), abs=1e-4)


def test_an_unused_state_between_others_and_before_a_padded_chain():
    def model(y, mask):
        mu = level()
        start = categorical("start")

        def step(x, both):
            y, m = both
            with handlers.mask(mask=m):
                x = categorical("x", STEPS[x])
                numpyro.sample("y", dist.Normal(mu + SHIFTS[x], 1.0), obs=y)
            return x, None

        scan(step, start, (y, mask))

    def at(mask):
        target, batch = make(model, Y[:3], np.array(mask))
        return density(target, batch)

    prior = dist.Normal(0.3, 1.0).log_prob(0.8)
    likelihood = np.exp(dist.Normal(0.8 + SHIFTS, 1.0).log_prob(Y[:3, None]))
    first = WEIGHTS @ STEPS * likelihood[0]
    assert at([False] * 3) == pytest.approx(float(prior), abs=1e-5)
    # the second state has no prior, and the third depends on it
    expected = np.log(first.sum()) + np.log((STEPS.sum(0) * likelihood[2]).sum()) + prior
    assert at([True, False, True]) == pytest.approx(float(expected), abs=1e-4)
