"""Autoencoders with discrete codes: the bound, its parts, the use of codes, and fits again."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import vijax
from vijax.nn import Codes

DATA = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
OPTIONS = {"batch_size": 20, "optimizer": optax.adam(1e-2), "progress_bar": False}


class Autoencoder(nnx.Module):
    """Two codes of a row."""

    def __init__(self, rngs, quantizer=lambda rngs: vijax.nn.VectorQuantizer(16, 3, rngs=rngs)):
        self.encoder = nnx.Linear(6, 2 * 3, rngs=rngs)
        self.quantizer = quantizer(rngs)
        self.decoder = nnx.Linear(2 * 3, 6, rngs=rngs)

    def __call__(self, x=None, indices=None):
        codes = None
        if indices is None:
            codes = self.quantizer(self.encoder(x).reshape(-1, 2, 3))
            values = codes.values
        else:
            values = self.quantizer.decode(indices)
        return self.decoder(values.reshape(-1, 2 * 3)), codes


class Prior(nnx.Module):
    """Logits of the codes of a row, given those that are not masked."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2 * 65, 2 * 64, rngs=rngs)

    def __call__(self, tokens):
        return self.linear(jax.nn.one_hot(tokens, 65).reshape(-1, 2 * 65)).reshape(-1, 2, 64)


def by_scalars(rngs):
    return Autoencoder(rngs, lambda _: vijax.nn.FiniteScalarQuantizer((4, 4, 4)))


def model(x=None, indices=None, learned=False):
    factory = by_scalars if learned else Autoencoder
    mean, codes = vijax.nn.network("network", factory, prior=None)(x, indices)
    prior = vijax.nn.network("prior", Prior, prior=None) if learned else None
    with numpyro.plate("rows", len(mean)):
        if codes is not None:
            vijax.nn.discrete_codes("codes", codes, prior=prior)
        numpyro.deterministic("mean", mean)
        numpyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)


@pytest.fixture(scope="module")
def fitted():
    return vijax.fit(model, DATA, num_steps=60, **OPTIONS)


def test_the_bound_is_that_of_one_code_for_each_row(fitted):
    assert fitted.status == "approximate"
    found = fitted.predict(DATA, num_draws=2)
    codes, mean = found["codes"][0], found["mean"][0]
    np.testing.assert_array_equal(*found["codes"])  # the encoder is certain
    reconstruction = -np.asarray(dist.Normal(mean, 0.5).log_prob(DATA)).sum(axis=1)
    table = fitted.bound(num_draws=1)
    bound = -reconstruction.mean() - 2 * math.log(16)
    assert table.loc["rate"].value == pytest.approx(2 * math.log(16))
    assert table.loc["reconstruction"].value == pytest.approx(reconstruction.mean(), rel=1e-5)
    assert table.loc["bound"].value == pytest.approx(bound, rel=1e-5)
    assert table.loc["bits per dimension"].value == pytest.approx(-bound / 6 / math.log(2))
    # without minibatches the ELBO is the bound of all rows: the commitment is not in it
    assert fitted.elbo == pytest.approx(60 * bound, abs=5 * fitted.elbo_se)
    shares = np.bincount(codes.ravel()) / codes.size
    shares = shares[shares > 0]
    assert table.loc["codes in use"].value == len(shares)
    perplexity = np.exp(-np.sum(shares * np.log(shares)))
    assert table.loc["perplexity of codes"].value == pytest.approx(perplexity)


def test_codes_are_decoded_and_drawn_from_their_prior(fitted):
    found = fitted.predict(DATA, num_draws=1)
    decoded = fitted.predict(indices=found["codes"][0], num_draws=1)
    np.testing.assert_allclose(decoded["mean"], found["mean"], atol=1e-5)
    drawn = fitted.generate(num_rows=2000)
    assert drawn.shape == (2000, 2)
    counts = np.bincount(drawn.ravel(), minlength=16)
    assert np.sum((counts - 250) ** 2 / 250) < 50  # chi squared with 15 degrees of freedom
    with pytest.raises(vijax.ModelError, match="model_params"):
        fitted.sample()


def test_the_gradient_of_the_commitment_counts_and_its_value_does_not():
    def log_density(z, commitment):
        quantizer = vijax.nn.VectorQuantizer(16, 3, commitment=commitment, rngs=nnx.Rngs(0))
        seed, plate = numpyro.handlers.seed(rng_seed=0), numpyro.plate("rows", len(z))
        with seed, numpyro.handlers.trace() as trace, plate:
            vijax.nn.discrete_codes("codes", quantizer(z))
        site = trace["codes/rate"]
        return jnp.sum(site["fn"].log_prob(site["value"])), quantizer(z)

    z = jnp.asarray(DATA.reshape(-1, 2, 3))
    (value, codes), slope = jax.value_and_grad(log_density, has_aux=True)(z, 0.25)
    assert value == pytest.approx(-60 * 2 * math.log(16))
    assert isinstance(codes, Codes)
    quantizer = vijax.nn.VectorQuantizer(16, 3, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(slope, -0.5 * (z - quantizer(z).values), atol=1e-5)


@pytest.mark.slow
def test_a_resumed_fit_is_bitwise_equal(fitted, tmp_path):
    def kill(state, losses, step):
        if step >= 20:
            raise StopIteration

    options = OPTIONS | {"checkpoint": tmp_path}
    vijax.fit(model, DATA, num_steps=60, callbacks=[kill], **options)
    resumed = vijax.fit(model, DATA, num_steps=60, **options)
    assert resumed.elbo == fitted.elbo
    for name in ("codes", "mean"):
        np.testing.assert_array_equal(
            *(one.predict(DATA, num_draws=1)[name] for one in (fitted, resumed))
        )


@pytest.mark.slow
def test_a_prior_is_learned_with_the_codes():
    clusters = np.repeat(3 * np.eye(6, dtype=np.float32)[:3], 100, axis=0) + 0.1
    options = OPTIONS | {"num_steps": 800, "learned": True}
    found = vijax.fit(model, clusters, **options)
    table = found.bound(num_draws=64)
    assert 0.9 * math.log(3) < table.loc["rate"].value < 1.6 * math.log(3)
    codes = {tuple(one) for one in found.predict(clusters, learned=True, num_draws=1)["codes"][0]}
    drawn = [tuple(one) for one in found.generate(num_rows=200)]
    assert np.mean([one in codes for one in drawn]) > 0.9


def test_what_is_no_codes_is_refused():
    def wrong(x):
        with numpyro.plate("rows", len(x)):
            vijax.nn.discrete_codes("codes", x)

    with pytest.raises(vijax.ModelError, match="VectorQuantizer or FiniteScalarQuantizer"):
        vijax.fit(wrong, DATA)
