"""Guides written by hand and minibatches: autoencoders, topics, deep Markov models, particles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from flax import nnx
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import nnx_module
from numpyro.distributions import constraints

from bench.examples.case import Example
from vijax.algorithms import SVGD


class _Encoder(nnx.Module):
    """Locations and scales of some latents of a row."""

    def __init__(self, inputs, hidden, outputs, rngs):
        self.hidden = nnx.Linear(inputs, hidden, rngs=rngs)
        self.loc = nnx.Linear(hidden, outputs, rngs=rngs)
        self.log_scale = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x):
        hidden = nnx.softplus(self.hidden(x))
        return self.loc(hidden), jnp.exp(0.3 * self.log_scale(hidden))


class _Decoder(nnx.Module):
    """Logits of a row."""

    def __init__(self, inputs, hidden, outputs, rngs):
        self.hidden = nnx.Linear(inputs, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(self, z):
        return self.out(nnx.softplus(self.hidden(z)))


def minipyro():
    rng = np.random.default_rng(0)
    data = rng.normal(3.0, 1.0, 100)

    def model(data):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(data)):
            numpyro.sample("data", dist.Normal(loc, 1.0), obs=data)

    def guide(data):
        center = numpyro.param("center", 0.0)
        scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
        numpyro.sample("loc", dist.Normal(center, scale))

    return Example(model, (data,), {"guide": guide})


def autoencoder():
    rng = np.random.default_rng(1)
    prototypes = rng.random((5, 64)) < 0.3
    images = (prototypes[rng.integers(0, 5, 600)] ^ (rng.random((600, 64)) < 0.05)).astype(float)

    def model(images):
        decode = nnx_module("decoder", _Decoder(2, 32, 64, nnx.Rngs(0)))
        with numpyro.plate("images", images.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=images)

    def guide(images):
        encode = nnx_module("encoder", _Encoder(64, 32, 2, nnx.Rngs(1)))
        loc, scale = encode(images)
        with numpyro.plate("images", images.shape[0]):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return Example(model, (images,), {"guide": guide, "batch_size": 64}, nuts=None)


def topics():
    rng = np.random.default_rng(2)
    words = rng.dirichlet(0.1 * np.ones(40), 4)
    shares = rng.dirichlet(0.3 * np.ones(4), 400)
    counts = np.stack([rng.multinomial(50, share @ words) for share in shares]).astype(float)

    def model(counts):
        decode = nnx_module("decoder", nnx.Linear(4, 40, use_bias=False, rngs=nnx.Rngs(0)))
        with numpyro.plate("documents", counts.shape[0]):
            theta = numpyro.sample("theta", dist.Dirichlet(0.5 * jnp.ones(4)))
            total = counts.sum(-1).astype(int)
            logits = decode(theta)
            numpyro.sample("counts", dist.Multinomial(total, logits=logits), obs=counts)

    def guide(counts):
        encode = nnx_module("encoder", _Encoder(40, 32, 4, nnx.Rngs(1)))
        loc, _ = encode(jnp.log1p(counts))
        with numpyro.plate("documents", counts.shape[0]):
            numpyro.sample("theta", dist.Dirichlet(0.1 + jax.nn.softplus(loc)))

    return Example(model, (counts,), {"guide": guide, "batch_size": 64}, nuts=None)


def deep_markov_model():
    """A latent series for every sequence, with a guide that reads the sequence."""
    rng = np.random.default_rng(3)
    z = np.cumsum(rng.normal(0, 0.3, (200, 10, 2)), axis=1)
    notes = rng.binomial(1, 1 / (1 + np.exp(-z @ rng.normal(0, 2, (2, 12))))).astype(float)

    def model(notes, size=25):
        emit = nnx_module("emitter", _Decoder(2, 8, 12, nnx.Rngs(0)))
        start = jnp.broadcast_to(numpyro.param("start", jnp.zeros(2)), (size, 2))
        with numpyro.plate("sequences", 200, subsample_size=size) as rows:
            batch = notes[rows]
            steps = numpyro.sample("steps", dist.Normal(jnp.zeros((10, 2)), 1.0).to_event(2))
            path = start[:, None] + 0.3 * jnp.cumsum(steps, axis=1)
            numpyro.sample("notes", dist.Bernoulli(logits=emit(path)).to_event(2), obs=batch)

    def guide(notes, size=25):
        encode = nnx_module("encoder", _Encoder(12, 16, 2, nnx.Rngs(1)))
        with numpyro.plate("sequences", 200, subsample_size=size) as rows:
            loc, scale = encode(notes[rows])
            numpyro.sample("steps", dist.Normal(loc, scale).to_event(2))

    return Example(model, (notes,), {"guide": guide}, nuts=None)


def ideal_points():
    """Poisson factorization of word counts by author and topic, on minibatches of documents."""
    rng = np.random.default_rng(4)
    author = rng.integers(0, 8, 300)
    counts = rng.poisson(0.5, (300, 20)).astype(float)

    def model(author, counts):
        with numpyro.plate("topics", 3, dim=-2), numpyro.plate("words", 20, dim=-1):
            beta = numpyro.sample("beta", dist.Gamma(0.5, 0.5))
            eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
        with numpyro.plate("authors", 8):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        with numpyro.plate("documents", 300, subsample_size=50) as rows:
            theta = numpyro.sample("theta", dist.Gamma(0.5 * jnp.ones(3), 0.5).to_event(1))
            position = jnp.exp(x[author[rows]][:, None, None] * eta)
            rate = jnp.einsum("dk,kv,dkv->dv", theta, beta, position)
            numpyro.sample("counts", dist.Poisson(rate).to_event(1), obs=counts[rows])

    return Example(model, (author, counts), nuts=None)


def particles():
    """The network of the example of Stein variational inference, with particles."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(200, 3))
    y = np.sin(x @ [1.0, -1.0, 0.5]) + 0.1 * rng.normal(size=200)

    def model(x, y):
        precision = numpyro.sample("precision", dist.Gamma(1.0, 0.1))
        w1 = numpyro.sample("w1", dist.Normal(jnp.zeros((3, 8)), 1.0).to_event(2))
        b1 = numpyro.sample("b1", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
        w2 = numpyro.sample("w2", dist.Normal(jnp.zeros(8), 1.0).to_event(1))
        with numpyro.plate("rows", len(y)):
            mean = jax.nn.relu(x @ w1 + b1) @ w2
            numpyro.sample("y", dist.Normal(mean, precision**-0.5), obs=y)

    options = {"algorithm": SVGD(), "num_steps": 1000}
    return Example(model, (x, y), options, nuts=None)


def random_effects():
    """Local latents of a scan inside the plate of a minibatch."""
    rng = np.random.default_rng(6)
    y = np.cumsum(rng.normal(0, 0.5, (5, 120)), axis=0) + rng.normal(0, 0.3, (5, 120))

    def model(y):
        sd = numpyro.sample("sd", dist.HalfNormal(1.0))

        def step(before, now):
            with numpyro.plate("rows", 120, dim=-1):
                z = numpyro.sample("z", dist.Normal(before, sd))
                numpyro.sample("y", dist.Normal(z, 0.3), obs=now)
            return z, None

        scan(step, jnp.zeros(120), y)

    return Example(model, (y.astype(np.float32),), compared=("sd",))


EXAMPLES = {
    "minipyro": minipyro,
    "vae": autoencoder,
    "prodlda": topics,
    "stein_dmm": deep_markov_model,
    "tbip": ideal_points,
    "stein_bnn": particles,
    "panel": random_effects,
}
