"""Networks in model functions: priors, the ELBO, state, initial values, predictions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import vijax
from vijax.contracts import Batch, LossContext, Variables
from vijax.guides import MeanField
from vijax.model import build, split, split_and_build
from vijax.objectives import ELBO

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
Y = (np.tanh(X[:, 0]) + 0.3 * RNG.normal(size=40)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(3), 3000)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.norm(self.drop(self.hidden(x)))))[:, 0]


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))[:, 0]


def model_of(factory, **options):
    def model(x, y=None):
        net = vijax.nn.network("net", factory, **options)
        with numpyro.plate("rows", len(x)):
            fitted = numpyro.deterministic("fitted", net(x))
            numpyro.sample("y", dist.Normal(fitted, 0.3), obs=y)

    return model


class Deep(nnx.Module):
    """Many layers of one shape, whose priors are evaluated together."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(9)])

    def __call__(self, x):
        for layer in self.layers:
            x = x + jnp.tanh(layer(x))
        return x[:, 0]


@functools.cache
def gradients(guide, objective):
    model = model_of(Plain, prior={"out/*": dist.StudentT(4.0), "*": "fan_in"})
    arguments, data = split(model, (X, Y), {})
    target = build(model, arguments)
    z = {s.name: 0.4 * jnp.cos(jnp.arange(s.size)).reshape(s.shape) for s in target.space.sites}
    params = MeanField(init_scale=0.3).init(KEYS[0], target.space, z)
    params = params._replace(log_scale=jax.tree.map(lambda a: a * 0 - 1.0, params.log_scale))

    def loss(params, key):
        batch = Batch(data)
        return objective(
            Variables(params), LossContext({}, key, target, guide, batch, jnp.zeros(()))
        )[0]

    return jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))(params, KEYS)


@pytest.mark.parametrize("noise", ["shared", "flipout", "local"])
def test_elbo_and_its_gradient_are_those_of_drawn_weights(noise):
    found = gradients(MeanField(noise=noise), ELBO())
    expected = gradients(MeanField(), ELBO(estimator="plain"))
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        error = np.hypot(np.std(one, axis=0), np.std(two, axis=0)) / np.sqrt(len(KEYS))
        assert np.all(np.abs(np.mean(one, axis=0) - np.mean(two, axis=0)) < 5 * error + 1e-5)


def test_the_elbo_of_many_layers_has_the_closed_form_divergence():
    arguments, data = split(model_of(Deep), (X, Y), {})
    target, guide = build(model_of(Deep), arguments), MeanField()
    params = guide.init(KEYS[0], target.space, target.starts(KEYS[0], Batch(data)))
    batch = Batch(data, noise=guide.weight_noise(params, target.space))
    z = guide.draw(params, target.space, KEYS[1], batch).z
    found = target.evaluate(z, batch, {}, {}).log_density
    fitted = Deep(nnx.Rngs(0))
    for i, layer in enumerate(fitted.layers):
        layer.kernel.set_value(z[f"net/layers/{i}/kernel"])
        layer.bias.set_value(z[f"net/layers/{i}/bias"])
    expected = dist.Normal(fitted(X), 0.3).log_prob(Y).sum()
    for name, m in params.loc.items():
        sd = 3**-0.5 if "kernel" in name else 1.0
        second = m**2 + jnp.exp(2 * params.log_scale[name])
        expected += jnp.sum(-0.5 * second / sd**2 - jnp.log(sd) - 0.5 * jnp.log(2 * jnp.pi))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_row_noise_reduces_the_variance_of_the_gradient():
    variance = {
        noise: sum(
            np.sum(np.var(leaf, axis=0))
            for leaf in jax.tree.leaves(gradients(MeanField(noise=noise), ELBO())[1].loc)
        )
        for noise in ("shared", "flipout", "local")
    }
    assert variance["local"] < variance["flipout"] < 0.5 * variance["shared"]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"hidden/*": None}, "out/bias"),
        ({"hiden/*": None, "*": None}, "hiden"),
        ({"*": 3.0}, "hidden/bias"),
    ],
)
def test_every_weight_has_a_prior_and_every_pattern_a_weight(prior, message):
    with pytest.raises(vijax.ModelError, match=message):
        vijax.fit(model_of(Plain, prior=prior), X, Y)


def test_a_network_inside_a_plate_is_refused():
    def model(x):
        with numpyro.plate("rows", len(x)):
            vijax.nn.network("net", Plain)(x)

    with pytest.raises(vijax.ModelError, match="before the plate"):
        vijax.fit(model, X)


def test_default_priors_have_the_scale_of_the_layer():
    def model(x):
        factory = lambda rngs: nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)  # noqa: E731
        vijax.nn.network("net", factory)(x)

    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(model).get_trace(jnp.ones((2, 5, 4)))
    scales = {name: np.unique(trace[name]["fn"].variance) for name in trace}
    assert scales["net/query/kernel"] == scales["net/out/kernel"] == 0.25
    assert scales["net/query/bias"] == 1.0


def test_state_and_dropout_follow_training_and_prediction():
    prior = {"out/*": "fan_in", "*": None}
    options = {"num_steps": 300, "guide": "meanfield", "batch_size": 20, "progress_bar": False}
    posterior = vijax.fit(model_of(Net, prior=prior), X, Y, **options)
    # predictions: no dropout, running statistics of the fit, the same for one row as for many
    draws = posterior.sample(5, rng_key=1)
    one, many = (posterior.predict(rows, rng_key=1, num_draws=5)["fitted"] for rows in (X[:1], X))
    np.testing.assert_allclose(one[:, 0], many[:, 0], rtol=1e-4)
    assert {name for name in draws if "kernel" in name} == {"net/out/kernel"}
    assert np.corrcoef(many.mean(0), Y)[0, 1] > 0.5


@pytest.mark.slow
def test_dropout_may_stay_on_in_predictions():
    options = {"num_steps": 300, "guide": "meanfield", "progress_bar": False}
    spread = {
        kept: vijax.fit(
            model_of(Net, prior={"out/*": "fan_in", "*": None}, mc_dropout=kept), X, Y, **options
        )
        .predict(X, num_draws=50)["fitted"]
        .std(0)
        .mean()
        for kept in (False, True)
    }
    assert spread[True] > 1.5 * spread[False]


def test_weights_start_at_the_modules_own_values():
    posterior = vijax.fit(
        model_of(Plain), X, Y, guide="meanfield", num_steps=1, optimizer=None, progress_bar=False
    )
    values = posterior.params.loc
    assert np.abs(np.asarray(values["net/hidden/bias"])).max() < 0.06  # zero, one step away
    sd = np.exp(np.asarray(posterior.params.log_scale["net/hidden/kernel"]))
    np.testing.assert_allclose(sd, 0.05 / np.sqrt(3), rtol=0.1)


def test_pretrained_weights_are_a_start():
    pretrained = Plain(nnx.Rngs(7))
    options = {"guide": "map", "num_steps": 1, "progress_bar": False}
    point = vijax.fit(model_of(lambda rngs: pretrained), X, Y, optimizer=optax.sgd(0.0), **options)
    kernel = pretrained.hidden.kernel.get_value()
    np.testing.assert_allclose(point.params.loc["net/hidden/kernel"], kernel, rtol=1e-6)
    options = options | {"guide": "meanfield", "init": point}
    posterior = vijax.fit(model_of(Plain), X, Y, optimizer=optax.sgd(0.0), **options)
    np.testing.assert_allclose(posterior.params.loc["net/hidden/kernel"], kernel, rtol=1e-6)


def test_running_statistics_of_uncertain_weights_are_warned_of():
    with pytest.warns(UserWarning, match="LayerNorm or GroupNorm"):
        split_and_build(model_of(lambda rngs: Net(rngs)), (X, Y), {}, None)


@pytest.mark.slow
def test_the_last_layer_in_closed_form_is_bayesian_linear_regression():
    guide = {"net/hidden/*": "map", ...: "conjugate"}
    options = {"guide": guide, "num_steps": 60, "optimizer": optax.sgd(0.0), "progress_bar": False}
    posterior = vijax.fit(model_of(Plain), X, Y, **options)
    draws = posterior.sample(20_000)
    kernel, bias = (np.asarray(draws[f"net/hidden/{name}"][0]) for name in ("kernel", "bias"))
    features = np.column_stack([np.tanh(X @ kernel + bias), np.ones(40)])
    precision = features.T @ features / 0.09 + np.diag([4.0] * 4 + [1.0])
    mean = np.linalg.solve(precision, features.T @ Y / 0.09)
    found = np.column_stack([draws["net/out/kernel"][..., 0], draws["net/out/bias"]])
    error = np.sqrt(np.diag(np.linalg.inv(precision)) / 20_000)
    assert np.max(np.abs(found.mean(0) - mean) / error) < 5
    np.testing.assert_allclose(np.cov(found.T), np.linalg.inv(precision), atol=0.005)


@pytest.mark.slow
def test_laplace_is_that_of_the_mode_which_steps_find():
    options = {"progress_bar": False, "rng_key": 1}
    laplace = vijax.fit(model_of(Plain), X, Y, guide="laplace", **options)
    mode = vijax.fit(model_of(Plain), X, Y, guide="map", num_steps=4000, **options)
    at_mode = mode.predict(X, num_draws=2)["fitted"][0]
    spread = laplace.predict(X)["fitted"].std(0)
    assert np.mean(np.abs(laplace.predict(X)["fitted"].mean(0) - at_mode)) < np.mean(spread)


@pytest.mark.parametrize(
    "member",
    [vijax.guides.Delta(), pytest.param(MeanField(noise="local"), marks=pytest.mark.slow)],
)
def test_members_of_an_ensemble_are_independent_fits(member):
    guide = vijax.guides.Ensemble(4, member)
    options = {"num_steps": 1500, "batch_size": 20, "progress_bar": False}
    posterior = vijax.fit(model_of(Plain), X, Y, guide=guide, **options)
    kernels = np.asarray(posterior.params.loc["net/hidden/kernel"])
    assert kernels.shape == (4, 3, 4)
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(kernels, 2)) > 0.01
    draws = posterior.predict(X, num_draws=200)["fitted"]
    if isinstance(member, vijax.guides.Delta):
        assert len(np.unique(draws[:, 0])) == 4
    assert np.corrcoef(draws.mean(0), Y)[0, 1] > 0.7


def test_an_evaluation_costs_a_multiplication_per_row_and_weight():
    arguments, _ = split(model_of(Plain), (X, Y), {})
    target = build(model_of(Plain), arguments)
    assert target.network_cost == len(X) * (3 * 4 + 4 + 4 + 1)
    assert target.cost == target.network_cost + target.space.dim


def test_a_factory_may_be_an_argument_without_another_compilation():
    class Wide(nnx.Module):
        def __init__(self, units, rngs):
            self.hidden = nnx.Linear(3, units, rngs=rngs)
            self.out = nnx.Linear(units, 1, rngs=rngs)

        def __call__(self, x):
            return self.out(jnp.tanh(self.hidden(x)))[:, 0]

    def model(factory, x, y=None):
        net = vijax.nn.network("net", factory)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(net(x), 0.3), obs=y)

    def target(units, rows):
        partial = functools.partial(model, functools.partial(Wide, units))
        return split_and_build(partial, (X[rows], Y[rows]), {}, None)[2]

    assert target(4, slice(20)) is target(4, slice(20, 40))
    assert target(4, slice(20)) is not target(5, slice(20))
