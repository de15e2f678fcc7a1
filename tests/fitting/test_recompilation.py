"""A second fit compiles nothing, and repeated fits do not leak memory."""

import contextlib
import gc

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from vijax.model.build import _targets


@contextlib.contextmanager
def compilations():
    """The number of XLA programs compiled inside, as a list of their events."""
    events = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def model(x, y):
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 1.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(alpha + x @ beta, 1.0), obs=y)


def data(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(30, 2)).astype(np.float32), rng.normal(size=30).astype(np.float32)


def use(seed, **options):
    posterior = vijax.fit(model, *data(seed), rng_key=seed, progress_bar=False, **options)
    for corrected in (False, True):  # with either kind of draws
        posterior.sample(100 + seed, rng_key=seed, corrected=corrected)
    posterior.summary(rng_key=seed)
    posterior.predict(data(seed)[0], np.zeros(30, np.float32), rng_key=seed, num_draws=10 + seed)
    return posterior


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guide": "laplace"},
        {"guide": "meanfield"},
        {"guide": "fullrank", "algorithm": "gradient", "num_steps": 250},
        {"guide": "meanfield", "num_restarts": 2, "num_steps": 250},
    ],
    ids=["auto", "laplace", "meanfield", "steps", "restarts"],
)
def test_a_second_fit_on_new_data_compiles_nothing(options):
    a = use(0, **options)
    with compilations() as compiled:
        b = use(1, **options)
    assert len(compiled) == 0
    assert a._result.target is b._result.target
    assert abs(a.elbo - b.elbo) > 0.1  # on the new data


@pytest.mark.parametrize("guide", ["plates", "markov"])
def test_a_second_fit_of_a_guide_with_structure_compiles_nothing(guide):
    def rows(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        with numpyro.plate("rows", len(y)):
            level = numpyro.sample("level", dist.Normal(0.0, scale))
            numpyro.sample("y", dist.Normal(level, 1.0), obs=y)

    def chain(y):
        def step(before, y):
            now = numpyro.sample("x", dist.Normal(before, 0.5))
            numpyro.sample("y", dist.Normal(now, 1.0), obs=y)
            return now, None

        scan(step, 0.0, y)

    model = {"plates": rows, "markov": chain}[guide]
    fits = []
    for seed in (0, 1):
        y = np.random.default_rng(seed).normal(size=12).astype(np.float32)
        with compilations() as compiled:
            fits.append(vijax.fit(model, y, guide=guide, rng_key=seed, progress_bar=False))
            fits[-1].sample(100, rng_key=seed)
    assert not compiled
    assert abs(fits[0].elbo - fits[1].elbo) > 0.1


def test_a_first_fit_compiles_three_programs():
    def fresh(y):  # not used in other tests
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with compilations() as compiled:
        posterior = vijax.fit(fresh, np.ones(7), guide="fullrank", progress_bar=False)
    assert posterior.status == "certified"
    assert len(compiled) <= 3  # initial position, kernel, draws of the assessment


def test_an_equal_optimizer_compiles_nothing():
    options = {"guide": "meanfield", "num_steps": 250}
    use(0, optimizer=optax.chain(optax.clip(1.0), optax.adam(1e-2)), **options)
    with compilations() as compiled:
        use(1, optimizer=optax.chain(optax.clip(1.0), optax.adam(1e-2)), **options)
    assert len(compiled) == 0
    with compilations() as compiled:
        use(1, optimizer=optax.chain(optax.clip(1.0), optax.adam(2e-2)), **options)
    assert len(compiled) > 0


@pytest.mark.slow
def test_repeated_fits_do_not_leak_memory():
    def snapshot(seed):
        target = use(seed, guide="meanfield", num_steps=250)._result.target
        gc.collect()
        return len(jax.live_arrays()), len(_targets), len(target.programs.compiled)

    snapshot(0)
    before = snapshot(1)
    after = [snapshot(seed) for seed in range(2, 10)]
    assert after == [before] * 8
