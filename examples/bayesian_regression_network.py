"""Regression by a network: what is noise, and what is not known for lack of data.

Outcomes whose noise grows with the input, simulated, so that the right answer is known. A network
with one hidden layer has two outputs, the mean and the logarithm of the standard deviation, and all
of its weights are uncertain. The variance of a prediction has two parts. The aleatoric one, of
outcomes if the weights were known, is the noise. The epistemic one, due to the weights, is small
where there are data and grows beyond them. In the gap between the data it is too small: mean-field
guides have no correlations of weights.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import BLUE, GREY, ORANGE, options, save
from flax import nnx

import vijax


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(1, 30, rngs=rngs)
        self.out = nnx.Linear(30, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x[:, None]))).T


def model(x, y=None):
    prior = {
        "hidden/kernel": dist.Normal(0.0, 1.5),
        "hidden/bias": dist.Normal(0.0, 1.0),
        "out/*": dist.Normal(0.0, 0.3),
    }
    net = vijax.nn.network("net", Net, prior=prior)
    with numpyro.plate("rows", len(x)):
        mean, log_sd = net(x)
        numpyro.sample("y", dist.Normal(mean, jnp.exp(log_sd)), obs=y)


def noise(x):
    return 0.05 + 0.25 / (1 + np.exp(-5 * x))


def load(rng, rows):
    """Inputs in two intervals with a gap between them, and outcomes."""
    sign = rng.choice([-1, 1], rows)
    x = np.where(sign < 0, rng.uniform(-1, -0.3, rows), rng.uniform(0.2, 1, rows))
    return x, np.sin(4 * x) + noise(x) * rng.normal(size=rows)


def main():
    steps = 2000 if options(__doc__).short else 10_000
    rng = np.random.default_rng(0)
    (x, y), (x_test, y_test) = load(rng, 200), load(rng, 500)
    posterior = vijax.fit(
        model, x, y, guide=vijax.guides.MeanField(noise="local"), num_steps=steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.02, steps)),
    )  # fmt: skip
    print(posterior.score(x_test, y=y_test))

    grid = np.linspace(-2, 2, 201)
    parts = posterior.uncertainty(grid)
    print(f"\n{'inputs':16} noise  aleatoric  epistemic (standard deviations)")
    places = {"beyond, left": (-2, -1.5), "data, left": (-1, -0.3), "gap": (-0.3, 0.2)}
    places |= {"data, right": (0.2, 1), "beyond, right": (1.5, 2)}
    for name, (low, high) in places.items():
        here = (low <= grid) & (grid <= high)
        sds = [
            np.mean(v[here]) ** 0.5 for v in (noise(grid) ** 2, parts.aleatoric, parts.epistemic)
        ]
        print(f"{name:15} {sds[0]:6.3f} {sds[1]:10.3f} {sds[2]:10.3f}")

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    mean, total = posterior.predict(grid)["y"].mean(0), parts.total**0.5
    inner = parts.aleatoric**0.5
    axes[0].fill_between(grid, mean - 2 * total, mean + 2 * total, color=ORANGE, alpha=0.4, lw=0)
    axes[0].fill_between(grid, mean - 2 * inner, mean + 2 * inner, color="white", lw=0)
    axes[0].fill_between(grid, mean - 2 * inner, mean + 2 * inner, color=BLUE, alpha=0.3, lw=0)
    axes[0].plot(grid, mean, color=BLUE)
    axes[0].plot(x, y, "o", color=GREY, ms=2.5)
    axes[0].set(title="Mean ± 2 standard deviations", xlabel="x", ylabel="y")
    axes[1].plot(grid, noise(grid), ":", color=GREY, lw=2, label="true noise")
    axes[1].plot(grid, inner, color=BLUE, label="aleatoric")
    axes[1].plot(grid, parts.epistemic**0.5, color=ORANGE, label="epistemic")
    axes[1].set(title="Its two parts", xlabel="x", ylabel="standard deviation")
    for low, high in ((-1, -0.3), (0.2, 1)):
        axes[1].axvspan(low, high, color=GREY, alpha=0.12, lw=0)
    axes[1].legend()
    save(figure, "bayesian_regression_network")


if __name__ == "__main__":
    main()
