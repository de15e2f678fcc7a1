"""Diffusion models: exact identities with the true score of a Gaussian mixture, and fits."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from vijax.runtime.row_densities import row_densities

FIRST, LAST = -8.0, 10.0  # gamma at time 0 and 1
MEANS = jnp.array([[0.7, 0.4], [-0.8, 0.1], [0.1, -0.9]])
SD = 0.25
X = MEANS[jax.random.randint(jax.random.key(0), (3000,), 0, 3)]
X = X + SD * jax.random.normal(jax.random.key(1), X.shape)


def log_density(z, gamma):
    """That of one `z_t`, a mixture."""
    variance = jax.nn.sigmoid(-gamma) * SD**2 + jax.nn.sigmoid(gamma)
    distances = jnp.sum((z - jnp.sqrt(jax.nn.sigmoid(-gamma)) * MEANS) ** 2, axis=1)
    kernels = -0.5 * distances / variance - jnp.log(2 * math.pi * variance)
    return jax.nn.logsumexp(kernels) - math.log(3)


def exact(z, time):
    """The expected noise: minus sigma times the score."""
    gamma = FIRST + (LAST - FIRST) * time
    return -jnp.sqrt(jax.nn.sigmoid(gamma))[:, None] * jax.vmap(jax.grad(log_density))(z, gamma)


def error(z, time):
    return 0.8 * jnp.sin(3 * z) * (1 - time)[:, None]


def rows_of(model, *args):
    with row_densities() as found, numpyro.handlers.seed(rng_seed=0):
        model(*args)
    return found["x"]


def model(x, net=exact, **options):
    with numpyro.plate("rows", len(x)):
        vijax.nn.diffusion("x", net, x, log_snr=(-FIRST, -LAST), **options)


@functools.cache
def parts(net=exact, num_steps=None, draws=48):
    """The parts by row, averaged over draws."""

    def one(number):
        start = 0.5 / draws + number / draws
        key = jax.random.fold_in(jax.random.key(2), number)
        return rows_of(functools.partial(model, net=net), X).parts(key, start, num_steps)

    found = jax.jit(lambda: jax.lax.map(one, jnp.arange(draws)))()
    return {name: np.asarray(values.mean(axis=0), float) for name, values in found.items()}


def noisy(key, gamma):
    noise = jax.random.normal(key, X.shape)
    return jnp.sqrt(jax.nn.sigmoid(-gamma)) * X + jnp.sqrt(jax.nn.sigmoid(gamma)) * noise, noise


def mean(values):
    return values.mean(), values.std() / math.sqrt(len(values))


def squared_error(gamma):
    """`E ||eps - eps*||^2` at one time."""
    z, noise = noisy(jax.random.key(3), gamma)
    time = jnp.full(len(z), (gamma - FIRST) / (LAST - FIRST))
    return float(jnp.sum((noise - exact(z, time)) ** 2, axis=1).mean())


def test_prior_and_diffusion_are_the_information_in_the_last_latent():
    found = parts()
    densities = jax.vmap(log_density, (0, None))

    def by_draw(key):
        (first, _), (last, _) = noisy(key, FIRST), noisy(jax.random.fold_in(key, 1), LAST)
        information = -densities(first, FIRST) - jnp.log(
            2 * math.pi * math.e * jax.nn.sigmoid(FIRST)
        )
        return information + densities(last, LAST) - dist.Normal().log_prob(last).sum(1)

    expected = jax.vmap(by_draw)(jax.random.split(jax.random.key(4), 20)).mean(0)
    difference, se = mean(found["prior"] + found["diffusion"] - np.asarray(expected))
    assert abs(difference) < 3 * se < 0.1  # of six nats


def test_steps_exceed_the_bound_in_continuous_time_by_a_constant_over_their_number():
    continuous, steps = parts()["diffusion"], 256
    excess, se = mean(parts(num_steps=steps)["diffusion"] - continuous)
    # a right Riemann sum of e^width - 1 = width + width^2 / 2
    ends = squared_error(LAST) - squared_error(FIRST)
    expected = (LAST - FIRST) / 4 * (ends + 2 * continuous.mean())
    assert abs(steps * excess - expected) < 0.05 * expected  # terms of smaller order have 2.5 %
    assert 3 * steps * se < 0.05 * expected


def test_a_wrong_network_exceeds_the_bound_by_its_distance_from_the_expected_noise():
    def wrong(z, time):
        return exact(z, time) + error(z, time)

    difference, se = mean(parts(wrong)["diffusion"] - parts()["diffusion"])
    times = jax.random.uniform(jax.random.key(5), (50,))

    def distance(key, time):
        z, _ = noisy(key, FIRST + (LAST - FIRST) * time)
        return jnp.sum(error(z, jnp.full(len(z), time)) ** 2, axis=1).mean()

    keys = jax.random.split(jax.random.key(6), 50)
    times = (jnp.arange(50) + times) / 50
    expected = 0.5 * (LAST - FIRST) * jax.vmap(distance)(keys, times).mean()
    assert abs(difference - expected) < 3 * se < 0.1 * expected


@pytest.mark.slow
def test_the_ode_of_the_exact_network_has_the_density_of_the_first_latent():
    scale = jnp.sqrt(jax.nn.sigmoid(-FIRST))
    expected = jax.vmap(log_density, (0, None))(scale * X[:300], FIRST) + 2 * jnp.log(scale)
    found = jax.jit(lambda: rows_of(model, X[:300]).ode_log_density(jax.random.key(0), 60))()
    np.testing.assert_allclose(found, expected, atol=0.03)  # z_1 is not quite normal
    assert abs(float(found.mean() - expected.mean())) < 3e-3


def test_the_bound_of_the_exact_network_is_little_less_than_the_log_density():
    truth = jax.vmap(log_density, (0, None))(X, -50.0)
    gap, se = mean(-sum(parts().values()) - np.asarray(truth, float))
    assert -0.2 < gap - 3 * se < 0
    assert gap < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [("ancestral", 100), ("ode", 30)])
def test_rows_are_drawn_from_the_density(method, steps):
    rows = rows_of(model, X)
    drawn = jax.jit(lambda k: rows.generate(k, 4000, steps, method))(jax.random.key(7))
    nearest = jnp.argmin(jnp.sum((drawn[:, None] - MEANS) ** 2, axis=2), axis=1)
    away = drawn - MEANS[nearest]
    shares = jnp.bincount(nearest, length=3) / 4000
    np.testing.assert_allclose(shares, 1 / 3, atol=3.5 * math.sqrt(2 / 9 / 4000))
    assert abs(float(away.std()) / SD - 1) < 0.05


def test_levels_have_the_probabilities_of_a_softmax():
    gamma, key = -3.0, jax.random.key(8)  # many are probable
    x = jnp.array([[0, 3], [7, 250]])
    wide = functools.partial(model, net=lambda z, t: z, levels=256)

    def of_rows(x):
        rows = rows_of(wide, x)
        schedule = dataclasses.replace(rows.schedule, start=gamma)
        return dataclasses.replace(rows, schedule=schedule)._reconstruction(key, rows.scaled)

    values = (2 * jnp.arange(256) + 1) / 256 - 1
    z = values[x] + math.exp(gamma / 2) * jax.random.normal(key, x.shape)
    logits = -0.5 * (z[..., None] - values) ** 2 / math.exp(gamma)
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), x[..., None], -1).sum((1, 2))
    of_rows = jax.jit(of_rows)
    np.testing.assert_allclose(of_rows(x), expected, rtol=1e-4)
    np.testing.assert_allclose(of_rows(x.astype(jnp.uint8)), expected, rtol=1e-4)
    assert np.isnan(of_rows(x + 6)).tolist() == [False, True]  # no level


def test_the_shape_of_a_learned_schedule_has_the_gradient_of_the_squared_loss():
    x, key = X[:4], jax.random.key(9)
    learned = functools.partial(model, net=lambda z, t: t[:, None] * z, schedule="learned")

    def rows_at(ends, bends):
        values = {"x/log_snr": ends, "x/schedule": bends}
        return rows_of(numpyro.handlers.substitute(learned, values), x)

    def plain(ends, bends):
        rows = rows_at(ends, bends)
        rows = dataclasses.replace(
            rows, schedule=dataclasses.replace(rows.schedule, for_variance=False)
        )
        time_key, rest = jax.random.split(key)
        return rows.parts(rest, jax.random.uniform(time_key), None)

    @jax.jit
    def gradients(*at):
        found = jax.grad(lambda *at: rows_at(*at).loss(key).sum(), (0, 1))(*at)
        ends = jax.grad(lambda ends: sum(plain(ends, at[1]).values()).sum())(at[0])
        losses, pull = jax.vjp(lambda bends: plain(at[0], bends)["diffusion"], at[1])
        return found, (ends, pull(2 * losses)[0] / losses.mean())

    found = gradients(jnp.array([8.0, -5.0]), jax.random.normal(jax.random.key(10), (32,)))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5), *found
    )


# ---- fits


def small(rngs):
    return vijax.nn.MLP(2, 16, 1, powers=(0, 1), rngs=rngs)


def trained(x, prior=None, **options):
    net = vijax.nn.network("net", small, prior=prior)
    model(x, net, **options)


DATA = np.asarray(X[:400])
OPTIONS = {"optimizer": optax.adam(3e-3), "batch_size": 50, "progress_bar": False}


@pytest.fixture(scope="module")
def fitted():
    return vijax.fit(trained, DATA, num_steps=60, schedule="linear", **OPTIONS)


def test_a_fit_of_parameters_has_the_bound_as_elbo_and_no_better_status(fitted):
    assert fitted.status == "approximate"
    assert "stochastic bound" in fitted.report()
    table = fitted.bound(num_draws=64)
    per_row = table.loc["bound"]
    se = math.hypot(fitted.elbo_se / 400, per_row.se / 8)  # the same rows: noise of times only
    assert abs(fitted.elbo / 400 - per_row.value) < 4 * se
    bits = -per_row.value / (2 * math.log(2))
    assert abs(table.loc["bits per dimension"].value - bits) < 1e-9
    assert fitted.generate(num_rows=3, num_steps=5).shape == (3, 2)
    for method in (fitted.nuts, fitted.importance, fitted.log_evidence, fitted.stein_discrepancy):
        with pytest.raises(vijax.ModelError, match="stochastic bound"):
            method()
    for method in (fitted.sample, fitted.predict):
        with pytest.raises(vijax.ModelError, match="model_params"):
            method()


def same(one, other):
    equal = jax.tree.map(lambda a, b: np.array_equal(a, b), one.model_params, other.model_params)
    return jax.tree.all(equal) and one.elbo == other.elbo


@pytest.mark.slow
def test_a_killed_and_resumed_fit_is_bitwise_equal(fitted, tmp_path):
    def kill(state, losses, step):
        if step >= 20:
            raise StopIteration

    options = OPTIONS | {"schedule": "linear", "checkpoint": tmp_path}
    killed = vijax.fit(trained, DATA, num_steps=60, callbacks=[kill], **options)
    assert same(vijax.fit(trained, DATA, num_steps=60, **options), fitted)
    fitted.save(tmp_path / "file")
    loaded = vijax.load(tmp_path / "file", trained, DATA, schedule="linear")
    assert loaded.status == fitted.status
    assert killed.num_steps <= 60


def test_what_needs_a_log_density_is_refused():
    for options, match in (
        ({"guide": "laplace", "prior": "fan_in"}, "maximizes the ELBO by gradients"),
        ({"algorithm": "pathfinder"}, "stochastic gradients"),
        ({"algorithm": "ivon"}, "without latent sites"),
        ({"guide": "meanfield"}, "guide='map'"),
        ({"objective": vijax.objectives.IWAE(2)}, "linear in the log density"),
    ):
        with pytest.raises(vijax.VijaxError, match=match):
            vijax.fit(trained, DATA, **options)


def test_options_and_data_are_checked():
    def outside(x):
        vijax.nn.diffusion("x", vijax.nn.network("net", small, prior=None), x)

    for function, x, match in (
        (model, DATA[:, 0], "shape"),
        (functools.partial(model, levels=256), DATA, "levels=None for real numbers"),
        (functools.partial(model, schedule="cosine"), DATA, "one of"),
        (functools.partial(model, net=lambda z, t: z[:, :1]), DATA, "net"),
        (outside, DATA, "plate"),
    ):
        with pytest.raises(vijax.ModelError, match=match):
            vijax.fit(function, x)


@pytest.mark.slow
def test_weighted_losses_are_no_bound_and_weights_may_have_priors():
    options = OPTIONS | {"num_steps": 20, "guide": "meanfield"}
    found = vijax.fit(trained, DATA, prior="fan_in", weight=jax.nn.sigmoid, **options)
    assert "no bound" in found.report()
    assert found.status == "approximate"
    assert list(found.bound(num_draws=2).index)[:2] == ["bound", "bits per dimension"]


@pytest.mark.slow
def test_images_have_a_small_network():
    def images(x):
        def unet(rngs):
            return vijax.nn.UNet(1, 8, 2, rngs=rngs)

        model(x, vijax.nn.network("net", unet, prior=None), levels=256, schedule="learned")

    x = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1)).astype(np.uint8)
    found = vijax.fit(images, x, num_steps=10, precision="bfloat16", **OPTIONS | {"batch_size": 8})
    drawn = found.generate(num_rows=2, num_steps=3)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (2, 8, 8, 1)
    table = found.bound(num_draws=2, ode_steps=2)
    assert table.loc["bits per dimension"].value > 7.9  # random bytes have 8
