"""A conditional autoencoder of digits: the style of an image, given which digit it is.

Decoder and encoder see the digit beside the image (Sohn, Lee and Yan, 2015), so that latents are
what is left: slant, width, stroke. Decoded with other digits they write these in the same style.
The log evidence of an image given each digit says by Bayes' rule which digit it is.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import GREY, options, save
from flax import nnx
from numpyro.contrib.module import nnx_module
from numpyro.handlers import seed, substitute, trace
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import vijax

HALVES = {"train_size": 0.5, "random_state": 0}
UNITS, SHOWN = 6, 7


def network(inputs, outputs, rngs):
    first, second = nnx.Linear(inputs, 64, rngs=rngs), nnx.Linear(64, 64, rngs=rngs)
    return nnx.Sequential(first, nnx.relu, second, nnx.relu, nnx.Linear(64, outputs, rngs=rngs))


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.network = network(64 + 10, 2 * UNITS, rngs)

    def __call__(self, images, digit):
        return self.network(jnp.concatenate([images / 16, jax.nn.one_hot(digit, 10)], axis=1))


def model(images, digit):
    decoder = nnx_module("decoder", network(UNITS + 10, 64, nnx.Rngs(0)))
    with numpyro.plate("images", len(images)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([UNITS]).to_event(1))
        logits = decoder(jnp.concatenate([z, jax.nn.one_hot(digit, 10)], axis=1))
        numpyro.deterministic("ink", nnx.sigmoid(logits))
        numpyro.sample("pixels", dist.Binomial(16, logits=logits).to_event(1), obs=images)


def decode(posterior, z, digit):
    """The share of ink in every pixel at given latents and digits."""
    known = substitute(model, posterior.model_params | {"z": z})
    return trace(seed(known, 0)).get_trace(np.zeros((len(z), 64)), digit)["ink"]["value"]


def main():
    steps = 1200 if options(__doc__).short else 4000
    data = load_digits()
    x, x_test, y, y_test = train_test_split(data.data.astype(np.float32), data.target, **HALVES)
    posterior = vijax.fit(
        model,
        x,
        y,
        guide=vijax.guides.Amortized(Encoder, ("images", "digit")),
        batch_size=100,
        num_steps=steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
    )
    evidence = [
        posterior.log_evidence_rows(x_test, np.full(len(x_test), i), num_draws=50).values
        for i in range(10)
    ]
    probs = softmax(evidence, axis=0).T
    right = probs.argmax(axis=1) == y_test
    log_score = np.log(probs[np.arange(len(y_test)), y_test])
    print(posterior.latents(x_test, y_test))
    print(f"accuracy by Bayes' rule {right.mean():.3f}")
    print(f"log score, median       {np.median(log_score):.3f}")
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 4.4), width_ratios=(1.6, 1), layout="constrained"
    )
    of_each = [np.flatnonzero(y_test == i)[3] for i in range(SHOWN)]
    draw_styles(axes[0], posterior, x_test[of_each], y_test[of_each])
    draw_doubts(axes[1], x_test, y_test, probs)
    save(figure, "conditional_autoencoder")


def draw_styles(axes, posterior, images, digit):
    z = posterior.at(images, digit).sample(50)["z"].mean(axis=0)
    for row, (image, style) in enumerate(zip(images, z, strict=True)):
        written = decode(posterior, np.repeat(style[None], 10, axis=0), np.arange(10))
        for column, one in enumerate([image / 16, *np.asarray(written)]):
            left = column + 0.6 * (column > 0)
            box = (left, left + 0.94, row + 0.94, row)
            axes.imshow(one.reshape(8, 8), cmap="gray_r", extent=box, vmin=0, vmax=1)
    axes.set(title="An image, and all digits in its style", xlim=(0, 11.6), ylim=(len(z), 0))
    axes.axis("off")


def draw_doubts(axes, images, digit, probs):
    """The images whose digit is least certain."""
    least = probs.max(axis=1).argsort()[:12]
    for place, i in enumerate(least):
        row, column = divmod(place, 3)
        left, top = 2.1 * column, 1.25 * row
        box = (left, left + 0.94, top + 0.94, top)
        axes.imshow(images[i].reshape(8, 8), cmap="gray_r", extent=box, vmin=0, vmax=16)
        first, second = probs[i].argsort()[:-3:-1]
        for line, j in enumerate((first, second if digit[i] in (first, second) else digit[i])):
            style = {"weight": "bold"} if j == digit[i] else {"color": GREY}
            axes.text(left + 1, top + 0.4 + 0.3 * line, f"{j}: {probs[i, j]:.2f}", **style)
    axes.set(title="Least certain; the label in bold", xlim=(0, 6.2), ylim=(4.95, 0))
    axes.axis("off")


if __name__ == "__main__":
    main()
