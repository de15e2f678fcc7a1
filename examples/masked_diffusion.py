"""Masked diffusion of binarized digits: drawn pixel by pixel in any order, and completed.

The network predicts the masked pixels of an image from the others, whichever they are (Sahoo et
al., Simple and Effective Masked Diffusion Language Models, 2024). Images are drawn from it pixel by
pixel in random order, and given half an image, the other half: `generate(..., keep=)`. The bound
on the log probability of new images is compared with that of independent pixels, and the pixels of
a half as completed with those of an average image.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import optax
from common import options, save
from flax import nnx
from jax.nn import gelu
from sklearn.datasets import load_digits

import vijax

PIXELS, MASK = 64, 2  # the value that stands for a masked pixel


class Net(nnx.Module):
    """From values and masks of all pixels to the logit of each."""

    def __init__(self, rngs):
        self.first = nnx.Linear(2 * PIXELS, 256, rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(256, 256, rngs=rngs) for _ in range(2)])
        self.last = nnx.Linear(256, PIXELS, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, pixels):
        known = pixels != MASK
        values = jnp.where(known, 2.0 * pixels - 1.0, 0.0)
        h = self.first(jnp.concatenate([values, known], axis=1))
        for layer in self.hidden:
            h += layer(self.dropout(gelu(h)))
        logits = self.last(gelu(h))
        return jnp.stack([jnp.zeros_like(logits), logits], axis=-1)


def model(x):
    net = vijax.nn.network("net", Net, prior=None)
    with numpyro.plate("images", len(x)):
        vijax.nn.masked_diffusion("x", net, x, num_values=2)


def main():
    steps = 500 if options(__doc__).short else 3000
    images = (load_digits().images > 7).astype(np.int32).reshape(-1, PIXELS)
    np.random.default_rng(0).shuffle(images)
    train, test = images[:1500], images[1500:]
    rate = optax.cosine_decay_schedule(2e-3, steps)
    optimizer = optax.adamw(rate, weight_decay=0.1)
    posterior = vijax.fit(model, train, batch_size=100, num_steps=steps, optimizer=optimizer)
    shares = (train.sum(axis=0) + 0.5) / (len(train) + 1)
    independent = np.log(np.where(test, shares, 1 - shares)).sum(axis=1).mean()
    bound = posterior.bound(test, num_draws=64)["value"]["bound"]
    print(f"{'log probability, independent pixels':46} {independent:7.2f}")
    print(f"{'at least, masked diffusion':46} {bound:7.2f}")
    top = np.arange(PIXELS) < PIXELS // 2
    shown = test[:6]
    completed = [posterior.generate(shown, keep=top, rng_key=key) for key in range(4)]
    error = [np.mean(posterior.generate(test, keep=top)[:, ~top] != test[:, ~top])]
    error.append(np.mean((shares > 0.5)[~top] != test[:, ~top]))
    for name, value in zip(("completed lower halves", "average image"), error, strict=True):
        print(f"{'wrong pixels, ' + name:46} {value:7.3f}")
    drawn = posterior.generate(num_rows=60)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), width_ratios=(10, 6), layout="constrained")
    axes[0].imshow(tiles(drawn.reshape(6, 10, 8, 8)), cmap="gray_r", vmax=1.2)
    axes[0].set_title("Drawn, pixel by pixel", pad=16)
    draw_completed(axes[1], shown, top, completed)
    for axis in axes:
        axis.axis("off")
    save(figure, "masked_diffusion")


def draw_completed(axis, shown, top, completed):
    given = np.where(top, shown, 0.25)
    columns = np.stack([shown, given, *completed], axis=1).reshape(len(shown), -1, 8, 8)
    axis.imshow(tiles(columns), cmap="gray_r", vmax=1.2)
    for column, text in enumerate(("image", "given", "completed")):
        axis.text(9 * column + 0.5, -1, text)
    axis.set_title("Upper halves, completed four times", pad=16)


def tiles(images):
    """Images `(rows, columns, 8, 8)` as one, with a grey line between them."""
    framed = np.pad(images.astype(float), [(0, 0), (0, 0), (0, 1), (0, 1)], constant_values=0.1)
    rows, columns = images.shape[:2]
    return framed.transpose(0, 2, 1, 3).reshape(9 * rows, 9 * columns)[:-1, :-1]


if __name__ == "__main__":
    main()
