"""Images of digits by a convolutional network, and images that are none: letters, turned digits.

The weights of a small network are uncertain, by IVON: variational inference with one gradient a
step (Shen et al., 2024). Its point estimate is more often right about digits, but has an answer to
everything: it is surer of digits turned by a quarter than of upright ones. The draws of the weights
disagree about images that are none; that part of the uncertainty, the epistemic one, is larger for
them. AUROC is how often it, or the point estimate's entropy, is larger for them. Letters but those
like a digit are in Matplotlib's fonts.
"""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import BLUE, GREY, ORANGE, options, save
from flax import nnx
from matplotlib.ft2font import FT2Font
from scipy.ndimage import rotate, zoom
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import vijax

COLORS = {"IVON": BLUE, "point estimate": ORANGE}
HALVES = {"train_size": 0.5, "random_state": 0}
ANGLES, LETTERS = np.arange(0, 181, 30), "ACDEFGHJKLMNPQRTUVWXY"
FONTS = Path(matplotlib.get_data_path(), "fonts/ttf").glob("DejaVu*[!y].ttf")


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.out = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, image):
        x = nnx.relu(self.second(nnx.relu(self.first(image[..., None]))))
        return self.out(x.reshape(len(x), -1))


def model(image, digit=None):
    net = vijax.nn.network("net", Net, prior=dist.Normal(0.0, 1.0))
    with numpyro.plate("images", len(image)):
        numpyro.sample("digit", dist.Categorical(logits=net(image)), obs=digit)


def draw_letter(letter, path):
    """A letter made as the digits were: 32 x 32 bits, the share of ink in each block of 4 x 4."""
    font = FT2Font(str(path))
    font.set_size(40, 72)
    font.set_text(letter)
    font.draw_glyphs_to_bitmap()
    ink = np.asarray(font.get_image(), float)
    ink = ink[ink.any(axis=1)][:, ink.any(axis=0)]
    width = min(32, round(32 * ink.shape[1] / ink.shape[0]))
    bits = np.pad(zoom(ink, (32, width) / np.array(ink.shape)) > 127, ((0, 0), (0, 32 - width)))
    return np.roll(bits, (32 - width) // 2, axis=1).reshape(8, 4, 8, 4).mean(axis=(1, 3))


def main():
    steps = 1000 if options(__doc__).short else 2000
    data = load_digits()
    x, x_test, y, y_test = train_test_split(data.images / 16, data.target, **HALVES)
    kinds = {a: rotate(x_test, a, axes=(1, 2), reshape=False, order=1) for a in ANGLES}
    kinds["letters"] = np.stack([draw_letter(a, path) for path in sorted(FONTS) for a in LETTERS])
    ends = len(x_test) * np.arange(1, len(kinds))
    rate = optax.cosine_decay_schedule(1.0, steps)
    ivon = vijax.algorithms.IVON(rate=0.1, decay=0.99, schedule=rate)
    fits = {
        "IVON": {"guide": "meanfield", "algorithm": ivon},
        "point estimate": {"guide": "map", "optimizer": optax.adam(lambda i: 0.01 * rate(i))},
    }
    found = {}
    print(f"{'':15} accuracy log score   letters    turned (the last two: AUROC)")
    for name, chosen in fits.items():
        posterior = vijax.fit(model, x, y, batch_size=64, num_steps=steps, **chosen)
        score = posterior.score(x_test, digit=y_test, num_draws=50)["value"]
        parts = posterior.uncertainty(np.concatenate([*kinds.values()]), num_draws=50)
        for part in ("total", "epistemic"):
            found[name, part] = dict(zip(kinds, np.split(getattr(parts, part), ends), strict=True))
        by = found[name, "epistemic" if name == "IVON" else "total"]
        areas = [np.mean(by[0][:, None] < by[kind]) for kind in ("letters", 90)]
        row = (f" {one:9.3f}" for one in (score["accuracy"], score["log score"], *areas))
        print(f"{name:15}" + "".join(row))
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    draw_images(axes[0], kinds, found)
    draw_curves(axes[1:], found)
    save(figure, "digits")


def draw_curves(axes, found):
    shown = {"upright": (0, BLUE), "letters": ("letters", ORANGE), "turned by 90°": (90, GREY)}
    for label, (kind, color) in shown.items():
        style = {"histtype": "step", "lw": 1.5, "color": color, "label": label}
        axes[0].hist(found["IVON", "epistemic"][kind], np.linspace(0, 1.2, 25), **style)
    axes[0].set(title="Epistemic part, IVON", xlabel="nats", ylabel="images", yscale="log")
    for key, style in zip(found, ("o-", "o:", "s-"), strict=False):
        means, color = [found[key][a].mean() for a in ANGLES], COLORS[key[0]]
        axes[1].plot(ANGLES, means, style, ms=4, color=color, label=", ".join(key))
    axes[1].set(title="Turned digits", xlabel="angle (°)", ylabel="mean (nats)", ylim=(0, 1.2))
    axes[0].legend(), axes[1].legend()


def draw_images(axes, kinds, found):
    for row, (kind, first) in enumerate({0: 1, 90: 1, "letters": 24}.items()):
        for i in range(6):
            j, left, top = first + 5 * i, 1.2 * i, 1.6 * row
            axes.imshow(kinds[kind][j], cmap="gray_r", extent=(left, left + 1, top + 1, top))
            for y, (name, color) in zip((1.2, 1.42), COLORS.items(), strict=True):
                text = f"{found[name, 'total'][kind][j]:.2f}"
                axes.text(left + 0.5, top + y, text, color=color, ha="center", fontsize=8)
    axes.set(title="Entropy by IVON (blue), point estimate", xlim=(0, 7), ylim=(4.7, 0))
    axes.axis("off")


if __name__ == "__main__":
    main()
