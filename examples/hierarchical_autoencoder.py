"""A hierarchical autoencoder of digits: two levels of latents, kinds of images and their variants.

The prior of ten latents of an image, which the decoder sees, depends on two latents above them: a
deep generative model. The guide goes the same way, from the top down (`TopDown`; Sonderby et al.,
2016): what it infers of the lower level depends on its draw of the top one. The top level learns a
map of kinds of images, without labels, and given a place on it the lower level has the variants.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import options, save
from flax import nnx
from numpyro.contrib.module import nnx_module
from numpyro.handlers import seed, substitute, trace
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import vijax

HALVES = {"train_size": 0.5, "random_state": 0}
TOP, LOW, VARIANTS = 2, 10, 11


def network(inputs, outputs, rngs):
    first, second = nnx.Linear(inputs, 64, rngs=rngs), nnx.Linear(64, 64, rngs=rngs)
    return nnx.Sequential(first, nnx.relu, second, nnx.relu, nnx.Linear(64, outputs, rngs=rngs))


def two_levels(images):
    prior = nnx_module("prior", network(TOP, 2 * LOW, nnx.Rngs(1)))
    with numpyro.plate("images", len(images)):
        top = numpyro.sample("top", dist.Normal(0.0, 1.0).expand([TOP]).to_event(1))
        loc, log_scale = jnp.split(prior(top), 2, axis=1)
        low = numpyro.sample("low", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))
        observe(low, images)


def one_level(images):
    with numpyro.plate("images", len(images)):
        low = numpyro.sample("low", dist.Normal(0.0, 1.0).expand([LOW]).to_event(1))
        observe(low, images)


def observe(low, images):
    logits = nnx_module("decoder", network(LOW, 64, nnx.Rngs(0)))(low)
    numpyro.deterministic("ink", nnx.sigmoid(logits))
    numpyro.sample("pixels", dist.Binomial(16, logits=logits).to_event(1), obs=images)


class Top(nnx.Module):
    def __init__(self, rngs):
        self.network = network(64, 2 * TOP, rngs)

    def __call__(self, images):
        return self.network(images / 16)


class Low(nnx.Module):
    def __init__(self, rngs):
        self.network = network(64 + TOP, 2 * LOW, rngs)

    def __call__(self, images, top=None):
        seen = jnp.zeros((len(images), TOP)) if top is None else top
        return self.network(jnp.concatenate([images / 16, seen], axis=1))


FITS = {
    "one level": (one_level, vijax.guides.Amortized(Low, "images")),
    "two levels": (two_levels, vijax.guides.TopDown({"top": Top, "low": Low}, "images")),
}


def main():
    steps = 1500 if options(__doc__).short else 6000
    data = load_digits()
    x, x_test, _, digit = train_test_split(data.data.astype(np.float32), data.target, **HALVES)
    fits, found = {}, {}
    print("log evidence of a held-out image (nats)")
    for name, (model, guide) in FITS.items():
        rate = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
        how = {"batch_size": 100, "num_steps": steps, "optimizer": rate}
        fits[name] = vijax.fit(model, x, guide=guide, **how)
        found[name] = fits[name].log_evidence_rows(x_test, num_draws=200)
        print(f"{name}  {found[name].mean:.2f} ± {found[name].mean_se:.2f}")
    gain = found["two levels"].values - found["one level"].values
    print(f"gain        {gain.mean():.2f} ± {gain.std() / len(gain) ** 0.5:.2f}")
    top = fits["two levels"].at(x_test).sample(50)["top"].mean(axis=0)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    draw_map(axes[0], top, digit)
    draw_variants(axes[1], fits["two levels"], top, digit)
    save(figure, "hierarchical_autoencoder")


def draw_map(axes, top, digit):
    for i in range(10):
        color = plt.get_cmap("tab10")(i)
        axes.plot(*top[digit == i].T, ".", ms=4, color=color, label=str(i))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=3, handletextpad=0.1)
    axes.set(title="The top level of held-out images", xlabel="$z_1$", ylabel="$z_2$")


def draw_variants(axes, posterior, top, digit):
    """Images drawn from the prior of the lower level, given a place on the map in each row."""
    places = np.stack([np.median(top[digit == i], axis=0) for i in range(10)])
    known = substitute(two_levels, posterior.model_params | {"top": np.repeat(places, VARIANTS, 0)})
    ink = trace(seed(known, 1)).get_trace(np.zeros((10 * VARIANTS, 64)))["ink"]["value"]
    framed = np.pad(np.asarray(ink).reshape(-1, 8, 8), ((0, 0), (1, 0), (1, 0)))
    tiled = framed.reshape(10, VARIANTS, 9, 9).swapaxes(1, 2).reshape(90, -1)
    axes.imshow(tiled, cmap="gray_r")
    axes.set(title="Drawn at the median place of each digit", xticks=[])
    axes.set_yticks(4.5 + 9 * np.arange(10), range(10))
    axes.grid(visible=False)


if __name__ == "__main__":
    main()
