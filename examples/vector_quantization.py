"""Digits as six words of a code book: vector quantization, and a prior over codes.

An encoder turns an image into six vectors, each of which is replaced by the nearest of 64 codes
(van den Oord, Vinyals and Kavukcuoglu, 2017). An image is then six numbers below 64, and the ELBO
is the log probability of its pixels given these plus that of the numbers, 36 bits if they were
uniform. They are not: a masked diffusion model of codes needs fewer bits, and images decoded from
its draws look like digits, those of uniform codes do not.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import BLUE, GREY, ORANGE, options, save
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import vijax

CODES, VALUES, WIDTH, LEVELS = 6, 64, 8, 17


class Autoencoder(nnx.Module):
    def __init__(self, rngs):
        self.encoder = network(64, CODES * WIDTH, rngs)
        self.quantizer = vijax.nn.VectorQuantizer(VALUES, WIDTH, rngs=rngs)
        self.decoder = network(CODES * WIDTH, 64 * LEVELS, rngs)

    def __call__(self, pixels, indices):
        codes = None
        if indices is None:
            codes = self.quantizer(self.encoder(pixels / 16.0).reshape(-1, CODES, WIDTH))
        values = self.quantizer.decode(indices) if codes is None else codes.values
        return self.decoder(values.reshape(-1, CODES * WIDTH)).reshape(-1, 64, LEVELS), codes


def network(inputs, outputs, rngs):
    first, last = nnx.Linear(inputs, 128, rngs=rngs), nnx.Linear(128, outputs, rngs=rngs)
    return nnx.Sequential(first, nnx.relu, nnx.Dropout(0.1, rngs=rngs), last)


def model(pixels=None, indices=None):
    logits, codes = vijax.nn.network("net", Autoencoder, prior=None)(pixels, indices)
    with numpyro.plate("images", len(logits)):
        if codes is not None:
            vijax.nn.discrete_codes("codes", codes)
        numpyro.deterministic("mean", jax.nn.softmax(logits) @ jnp.arange(LEVELS))
        numpyro.sample("pixels", dist.Categorical(logits=logits).to_event(1), obs=pixels)


class Prior(nnx.Module):
    def __init__(self, rngs):
        self.layers = network(CODES * (VALUES + 1), CODES * VALUES, rngs)

    def __call__(self, tokens):
        inputs = jax.nn.one_hot(tokens, VALUES + 1).reshape(len(tokens), -1)
        return self.layers(inputs).reshape(-1, CODES, VALUES)


def prior_of_codes(codes):
    prior = vijax.nn.network("prior", Prior, prior=None)
    with numpyro.plate("images", len(codes)):
        vijax.nn.masked_diffusion("codes", prior, codes, num_values=VALUES)


def fit(model, rows, steps):
    rate = optax.cosine_decay_schedule(5e-3, steps)
    return vijax.fit(model, rows, batch_size=100, num_steps=steps, optimizer=optax.adam(rate))


def main():
    steps = 500 if options(__doc__).short else 1200
    digits = load_digits().data.astype(np.int32)
    x, x_test = train_test_split(digits, test_size=0.2, random_state=0)
    posterior = fit(model, x, steps)
    found = posterior.bound(x_test, num_draws=1).value
    codes = posterior.predict(x, num_draws=1)["codes"][0]
    test = posterior.predict(x_test, num_draws=1)
    prior = fit(prior_of_codes, codes, steps)
    nats = -prior.bound(test["codes"][0], num_draws=64).loc["bound"].value
    use = np.bincount(codes.ravel(), minlength=VALUES)
    print(f"used values of a code  {np.sum(use > 0):6d}")
    print("bits of a test image   uniform prior   learned prior")
    rates, pixels = np.array([found["rate"], nats]), found["reconstruction"]
    parts = {"codes": rates, "pixels given codes": pixels + 0 * rates, "both": pixels + rates}
    for name, both in parts.items():
        print(f"{name:20}" + "".join(f"{one / np.log(2):16.1f}" for one in both))
    draws = {"learned prior": prior.generate(num_rows=24)}
    draws["uniform prior"] = posterior.generate(num_rows=24)
    images = {k: posterior.predict(indices=c, num_draws=1)["mean"][0] for k, c in draws.items()}
    draw(x_test, test["mean"][0], use, images)


def draw(x_test, reconstructed, use, images):
    figure, axes = plt.subplots(1, 4, figsize=(12, 2.6), layout="constrained")
    pairs = np.stack([x_test[:12], reconstructed[:12]], axis=1).reshape(24, 64)
    show(axes[0], pairs, "Test images, each with its reconstruction")
    order = np.sort(use)[::-1] / use.sum()
    axes[1].bar(np.arange(VALUES), order, width=1.0, color=BLUE)
    axes[1].axhline(1 / VALUES, color=GREY, ls=":")
    axes[1].set(title="Use of the codes", xlabel="code", ylabel="share", xlim=(-0.5, VALUES - 0.5))
    show(axes[2], images["learned prior"], "Codes drawn from the learned prior", BLUE)
    show(axes[3], images["uniform prior"], "Uniform codes", ORANGE)
    save(figure, "vector_quantization")


def show(axis, images, title, color="black"):
    """24 images in four rows, with margins."""
    padded = np.pad(images.reshape(4, 6, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    axis.imshow(padded.transpose(0, 2, 1, 3).reshape(40, 60), cmap="gray_r", vmin=0, vmax=16)
    axis.set_title(title, color=color)
    axis.axis("off")


if __name__ == "__main__":
    main()
