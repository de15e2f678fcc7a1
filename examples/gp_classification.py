"""Which wine is it? Gaussian process classification, with hyper-parameters by the EP evidence.

178 wines of three cultivars (Aeberhard, Coomans and de Vel, 1992), by color and hue: is it the
first? Expectation propagation matches the moments of each label's term (Minka, 2001), and the
evidence chooses length scale and height (Rasmussen and Williams, 2006). The process is a sum of
waves (Solin and Sarkka, 2020). Probabilities are compared with those of Laplace's method; the
report compares the posterior with chains.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, ORANGE, options, save
from jax.scipy.special import ndtr
from sklearn.datasets import load_wine
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF
from sklearn.model_selection import train_test_split

import vijax

COLUMNS = ["hue", "color_intensity"]
MIDDLE, HALF = 0.8, 5.0  # of the square outside of which the waves vanish, in sds
COUNTS = np.array([(i, j) for i in range(1, 10) for j in range(1, 10) if i**2 + j**2 <= 81])
WAVES = np.float32(COUNTS * np.pi / (2 * HALF))  # angular frequencies along both columns


def basis(x):
    """Products of sine waves that vanish outside the data, `(rows, waves)`."""
    waves = jnp.sin(WAVES * (x[:, None, :] - MIDDLE + HALF)) / HALF**0.5
    return jnp.prod(waves, axis=-1)


def model(x, first=None):
    length = numpyro.sample("length", dist.LogNormal(0.0, 0.5))  # in sds of a column
    height = numpyro.sample("height", dist.LogNormal(1.0, 0.5))  # sd of the function
    with numpyro.plate("waves", len(WAVES)):
        share = numpyro.sample("share", dist.Normal(0.0, 1.0))
    # the spectral density of a squared exponential kernel
    scale = (
        height
        * (2 * jnp.pi) ** 0.5
        * length
        * jnp.exp(-0.25 * length**2 * jnp.sum(WAVES**2, axis=1))
    )
    probability = numpyro.deterministic("probability", ndtr((basis(x) * scale) @ share))
    with numpyro.plate("wines", len(x)):
        numpyro.sample("first", dist.Bernoulli(probs=probability), obs=first)


def load(rows):
    """Standardized columns and labels: of wines for the fit, and of those held out."""
    wine = load_wine()
    x = wine.data[:, [wine.feature_names.index(name) for name in COLUMNS]]
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    return train_test_split(x, (wine.target == 0).astype(int), train_size=rows, random_state=0)


def main():
    short = options(__doc__).short
    x, x_test, y, y_test = load(40 if short else 80)
    side = np.linspace(-2.4, 3.4, 30, dtype=np.float32)
    new = np.concatenate([x_test, np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)])

    posterior = vijax.fit(model, x, y, algorithm="expectation_propagation")
    print(f"{posterior.report()}\n")
    found = {"EP": posterior.predict(new, rng_key=1, num_draws=1000)["probability"].mean(0)}
    laplace = GaussianProcessClassifier(3.0**2 * RBF(1.0), random_state=0).fit(x, y)
    found["Laplace"] = laplace.predict_proba(new)[:, 1]  # logistic, in place of probit
    print("\nheld out accuracy   mean log probability   largest difference")
    for name, values in found.items():
        p, far = np.asarray(values)[: len(y_test)], np.abs(values - found["EP"]).max()
        score = np.log(np.where(y_test == 1, p, 1 - p)).mean()
        print(f"{name:8} {np.mean((p > 0.5) == y_test):8.3f} {score:22.3f} {far:20.3f}")

    size = 7.4, 3.4
    figure, panels = plt.subplots(1, len(found), figsize=size, layout="constrained", sharey=True)
    for axes, (name, values) in zip(panels, found.items(), strict=True):
        surface = np.asarray(values)[len(y_test) :].reshape(len(side), len(side))
        filled = axes.contourf(side, side, surface, np.linspace(0, 1, 11), cmap="RdBu", alpha=0.6)
        axes.contour(side, side, surface, [0.5], colors="black", linewidths=1)
        for label, color, marker in ((1, BLUE, "o"), (0, ORANGE, "s")):
            axes.plot(*x[y == label].T, marker, ms=4, color=color, mec="white", mew=0.5)
        axes.set(title=name, xlabel="hue (sds)")
    panels[0].set_ylabel("color intensity (sds)")
    figure.colorbar(filled, ax=panels, label="probability of the first cultivar", ticks=[0, 0.5, 1])
    save(figure, "gp_classification")


if __name__ == "__main__":
    main()
