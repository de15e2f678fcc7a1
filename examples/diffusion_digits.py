"""Digits of 8 x 8 pixels with 16 grey levels, drawn by label from a diffusion model.

Levels are integers, whose probabilities have a bound: bits per pixel, the length of a code (Kingma
et al., Variational Diffusion Models, 2021). The code is longer than that of pixels that are
independent given the label: levels are decided at the smallest noise, which a small network has no
time to learn in a minute. How the images look is decided at larger noise. A classifier that was
trained on the data reads the drawn ones: how often it finds the label they were drawn for.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import optax
from common import options, save
from jax.nn import one_hot
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import vijax

PIXELS, LEVELS, ROWS = 64, 16, 6


def network(rngs):
    return vijax.nn.MLP(PIXELS + 10, width=256, powers=(3,), rngs=rngs)


def model(x, label):
    mlp = vijax.nn.network("noise", network, prior=None)

    def noise(z, time):
        return mlp(jnp.concatenate([z, one_hot(label, 10)], axis=1), time)[:, :PIXELS]

    with numpyro.plate("images", len(x)):
        vijax.nn.diffusion("x", noise, x, levels=LEVELS, log_snr=(8.0, -5.0))


def main():
    steps = 1500 if options(__doc__).short else 4000
    images, labels = load_digits(return_X_y=True)
    images = np.minimum(images, LEVELS - 1).astype(np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    (x, x_test), (y, y_test) = (np.split(one[order], [1500]) for one in (images, labels))
    rate = optax.cosine_decay_schedule(2e-3, steps)
    optimizer = optax.adamw(rate, weight_decay=0.1)
    posterior = vijax.fit(model, x, y, batch_size=100, num_steps=steps, optimizer=optimizer)
    found = posterior.bound(x_test, y_test, num_draws=64).loc["bits per dimension"]
    print(
        f"{'bits per pixel, independent pixels':38} {independent_bits(x, y, x_test, y_test):6.3f}"
    )
    print(f"{'at most, diffusion':38} {found.value:6.3f} ± {found.se:.3f}")
    asked = np.repeat(np.arange(10), 50)
    rows = np.zeros((len(asked), PIXELS), np.int32)  # only their shape is used
    drawn = posterior.generate(rows, asked, num_steps=100)
    classifier = SVC(gamma=0.001).fit(x, y)
    for name, score in {
        "labels found, new images": classifier.score(x_test, y_test),
        "labels found, drawn images": classifier.score(drawn, asked),
    }.items():
        print(f"{name:38} {score:6.3f}")
    new = np.stack([x_test[y_test == digit][:ROWS] for digit in range(10)])
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    shown = {"Images": new, "Drawn by label": drawn.reshape(10, 50, -1)[:, :ROWS]}
    for axis, (title, one) in zip(axes, shown.items(), strict=True):
        axis.imshow(tiles(one), cmap="gray_r", vmin=0, vmax=15)
        axis.set(title=title)
        axis.axis("off")
    save(figure, "diffusion_digits")


def independent_bits(x, y, x_test, y_test):
    """Code length of a pixel, each with the shares of its levels among images of the label."""
    counts = np.full((10, PIXELS, LEVELS), 0.1)
    np.add.at(counts, (y[:, None], np.arange(PIXELS), x), 1.0)
    shares = counts / counts.sum(axis=2, keepdims=True)
    return -np.log2(shares[y_test[:, None], np.arange(PIXELS), x_test]).mean()


def tiles(images):
    """Images `(digits, rows, 64)` as one, a column for each digit."""
    framed = np.pad(images.reshape(10, -1, 8, 8), [(0, 0), (0, 0), (1, 1), (1, 1)])
    return framed.transpose(1, 2, 0, 3).reshape(-1, 100)


if __name__ == "__main__":
    main()
