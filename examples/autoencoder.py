"""A variational autoencoder of digits: a plane of digits, reconstructions, new digits.

A pixel is the number of bits with ink in a block of 4 x 4, so that it is binomial given the latents
of its image (Kingma and Welling, 2014). Two latents can be drawn as a plane, on which the decoder
has learned where digits are, without labels; ten describe an image better. The log evidence is that
of images that the fit has not seen.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import options, save
from flax import nnx
from numpyro.contrib.module import nnx_module
from numpyro.handlers import seed, substitute, trace
from scipy.stats import binom, norm
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import vijax

HALVES = {"train_size": 0.5, "random_state": 0}
SIDE = 13  # images along each axis of the plane


def network(inputs, outputs, rngs):
    first, second = nnx.Linear(inputs, 64, rngs=rngs), nnx.Linear(64, 64, rngs=rngs)
    return nnx.Sequential(first, nnx.relu, second, nnx.relu, nnx.Linear(64, outputs, rngs=rngs))


def model(images, units):
    decoder = nnx_module("decoder", network(units, 64, nnx.Rngs(0)))
    with numpyro.plate("images", len(images)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([units]).to_event(1))
        logits = decoder(z)
        numpyro.deterministic("ink", nnx.sigmoid(logits))
        numpyro.sample("pixels", dist.Binomial(16, logits=logits).to_event(1), obs=images)


def encoder(units):
    return lambda rngs: network(64, 2 * units, rngs)


def decode(posterior, z):
    """The share of ink in every pixel at given latents."""
    known = substitute(model, posterior.model_params | {"z": z})
    return trace(seed(known, 0)).get_trace(np.zeros((len(z), 64)), z.shape[1])["ink"]["value"]


def main():
    steps = 1200 if options(__doc__).short else 4000
    data = load_digits()
    x, x_test, _, digit = train_test_split(data.data, data.target, **HALVES)
    x, x_test = x.astype(np.float32), x_test.astype(np.float32)
    share = (x.mean(axis=0) + 0.01) / 16.02
    print("                   log evidence   active   information   divergence (nats an image)")
    print(f"independent pixels {binom.logpmf(x_test, 16, share).sum(axis=1).mean():12.2f}")
    fits = {}
    for units in (2, 10):
        fits[units] = posterior = vijax.fit(
            model,
            x,
            units,
            guide=vijax.guides.Amortized(encoder(units), "images"),
            batch_size=100,
            num_steps=steps,
            optimizer=optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
        )
        found = posterior.log_evidence_rows(x_test, units, num_draws=200)
        used = posterior.latents(x_test, units)
        print(f"{f'{units} latents':18} {found.mean:12.2f} {used.active:8}", end="")
        print(f" {used.information:13.1f} {used.divergence:12.1f}")
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.1), layout="constrained")
    draw_encodings(axes[0], fits[2].at(x_test, 2).sample(50)["z"].mean(axis=0), digit)
    draw_plane(axes[1], fits[2])
    chosen = [np.flatnonzero(digit == i)[nth] for nth in (0, 20) for i in range(10)]
    draw_images(axes[2], fits[10], x_test[chosen])
    save(figure, "autoencoder")


def draw_encodings(axes, z, digit):
    for i in range(10):
        own, style = z[digit == i], {"fontsize": 14, "ha": "center", "va": "center"}
        axes.plot(*own.T, ".", ms=3, color=plt.get_cmap("tab10")(i))
        axes.text(*np.median(own, axis=0), str(i), weight="bold", **style)
    axes.set(title="Two latents of held-out images", xlabel="$z_1$", ylabel="$z_2$")


def draw_plane(axes, posterior):
    at = norm.ppf((np.arange(SIDE) + 0.5) / SIDE)
    z = np.stack(np.meshgrid(at, at[::-1]), axis=-1).reshape(-1, 2).astype(np.float32)
    axes.imshow(tiled(decode(posterior, z), SIDE), cmap="gray_r", extent=(0, 1, 0, 1))
    axes.set(title="Two latents: the decoded plane", xlabel="quantile of $z_1$")
    axes.set(ylabel="quantile of $z_2$")
    axes.grid(visible=False)


def draw_images(axes, posterior, images):
    z = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
    rebuilt = np.asarray(posterior.at(images, 10).sample(50)["ink"].mean(axis=0))
    pairs = np.stack([images.reshape(2, 10, 64) / 16, rebuilt.reshape(2, 10, 64)], axis=1)
    rows = np.concatenate([pairs.reshape(40, 64), decode(posterior, z)])
    axes.imshow(tiled(rows, 10), cmap="gray_r", extent=(0, 10, 8, 0))
    axes.axhline(4, color="black", lw=1)
    labels = ["image", "rebuilt"] * 2 + ["new"] * 4
    axes.set(title="Ten latents", xticks=[], yticks=np.arange(8) + 0.5, yticklabels=labels)
    axes.grid(visible=False)


def tiled(images, columns):
    """Images of 8 x 8 side by side, with a margin."""
    framed = np.pad(np.asarray(images).reshape(-1, 8, 8), ((0, 0), (1, 0), (1, 0)))
    return framed.reshape(-1, columns, 9, 9).swapaxes(1, 2).reshape(-1, 9 * columns)


if __name__ == "__main__":
    main()
