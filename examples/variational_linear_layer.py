"""The variational linear layer of the textbooks, by hand: it is a mean-field guide of a network.

Its parameters are a mean and a log standard deviation of every weight. A call draws the weights
once, by the reparameterization trick, and the divergence from a normal prior is in closed form:
Bayes by Backprop (Weight Uncertainty in Neural Networks, Blundell et al., 2015). Here that is
twenty lines. `vijax.nn.network` with a `MeanField` guide is the same without special layers: an
objective made of the layers has the loss of `ELBO()` at every step of a fit, and ends there.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import BLUE, GREY, ORANGE, options, save
from flax import nnx
from sklearn.datasets import load_diabetes

import vijax

NOISE = 0.7  # sd of the outcome, in units of its sd
x, y = load_diabetes(return_X_y=True)
x = (x / x.std(0)).astype(np.float32)
y = ((y - y.mean()) / y.std()).astype(np.float32)


class VariationalLinear(NamedTuple):
    mean: dict[str, Any]  # of "kernel" and "bias"
    log_sd: dict[str, Any]

    def __call__(self, x, noise):
        w = {name: self.mean[name] + jnp.exp(self.log_sd[name]) * noise[name] for name in noise}
        return x @ w["kernel"] + w["bias"]

    def divergence(self):
        """`KL(q || p)`, with the prior `N(0, 1 / inputs)` of kernels and `N(0, 1)` of biases."""
        total = 0.0
        for name, prior in (("kernel", self.mean["kernel"].shape[0] ** -0.5), ("bias", 1.0)):
            mean, log_sd = self.mean[name] / prior, self.log_sd[name] - np.log(prior)
            total += jnp.sum(0.5 * (mean**2 + jnp.exp(2 * log_sd) - 1) - log_sd)
        return total


def loss(layers, noise):
    """Negative ELBO, with one draw of the weights."""
    mean = layers["out"](jnp.tanh(layers["hidden"](x, noise["hidden"])), noise["out"])[:, 0]
    log_likelihood = dist.Normal(mean, NOISE).log_prob(y).sum()
    return sum(layer.divergence() for layer in layers.values()) - log_likelihood


def by_layer(sites):
    return {
        layer: {name: sites[f"net/{layer}/{name}"] for name in ("kernel", "bias")}
        for layer in ("hidden", "out")
    }


@dataclasses.dataclass(frozen=True)
class ByHand:
    """The loss above as an objective of vijax, with the draws that `ELBO()` would have."""

    def __call__(self, variables, context):
        layers = layers_of(variables.guide)
        standard = jax.tree.map(jnp.zeros_like, variables.guide)  # means 0 and sds 1
        draw = context.guide.draw(standard, context.target.space, context.key, context.batch)
        return loss(layers, by_layer(draw.z)), context.mutable


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(10, 16, rngs=rngs)
        self.out = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))[:, 0]


def model(x, y=None):
    net = vijax.nn.network("net", Net)
    with numpyro.plate("patients", len(x)):
        numpyro.sample("y", dist.Normal(net(x), NOISE), obs=y)


def layers_of(params):
    loc, log_scale = (by_layer(part) for part in params)
    return {name: VariationalLinear(loc[name], log_scale[name]) for name in loc}


def main():
    steps = 1000 if options(__doc__).short else 4000
    schedule = optax.cosine_decay_schedule(0.02, steps)
    how = {"guide": "meanfield", "optimizer": optax.adam(schedule), "num_steps": steps}
    ours = vijax.fit(model, x, y, **how)
    hand = vijax.fit(model, x, y, objective=ByHand(), **how)
    one, two = layers_of(ours.params), layers_of(hand.params)
    difference = np.max(np.abs(hand.losses / ours.losses - 1))
    print(f"{'largest relative difference':32} {difference:9.1e}")
    print(f"{'ELBO':32} {ours.elbo:9.3f}")
    print(f"{'ELBO, by hand':32} {hand.elbo:9.3f}")
    print(f"{'divergence from the prior':32} {sum(e.divergence() for e in one.values()):9.3f}")
    print(f"{'divergence, by hand':32} {sum(e.divergence() for e in two.values()):9.3f}")

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    axes[0].plot(ours.losses, color=BLUE, lw=2.5, alpha=0.5, label="ELBO()")
    axes[0].plot(hand.losses, ":", color=ORANGE, lw=1, label="layers by hand")
    axes[0].set(title="Loss of each step", xlabel="step", ylabel="negative ELBO, one draw (nats)")
    axes[0].legend()
    sds = [np.exp(e["hidden"].log_sd["kernel"]).ravel() for e in (one, two)]
    axes[1].plot([0, max(sds[0])], [0, max(sds[0])], "--", color=GREY, lw=0.8)
    axes[1].plot(*sds, "o", ms=3, color=BLUE)
    axes[1].set(title="Standard deviations of weights", xlabel="ELBO()", ylabel="layers by hand")
    save(figure, "variational_linear_layer")


if __name__ == "__main__":
    main()
