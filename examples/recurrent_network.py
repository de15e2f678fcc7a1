"""Sequences by a Bayesian recurrent network: is this process in control, and how soon is it known?

Control charts of six kinds, by the rules of Alcock and Manolopoulos (Time-Series Similarity Queries
Employing a Feature-Based Approach, 1999): in control, cyclic, with a trend up or down, shifted up
or down. A gated recurrent unit reads a chart up to some time, and all of its weights are uncertain:
flipout draws them for every chart, once for all times. As a chart goes on, its kind gets certain.
Charts of a kind that the network has never seen, with sudden spikes, are noticed by the epistemic
part of the uncertainty, on which the draws of the weights disagree.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import BLUE, GREY, ORANGE, options, save
from flax import nnx
from sklearn.metrics import roc_auc_score

import vijax

KINDS = ["in control", "cyclic", "trend up", "trend down", "shift up", "shift down"]
LENGTH = 30
TIMES = 2 * np.arange(LENGTH)


def charts(rng, kind):
    """Charts of these kinds, `(len(kind), LENGTH)`, in tens of units from the mean."""
    noise = 2 * rng.uniform(-3, 3, (len(kind), LENGTH))
    u = rng.random((5, len(kind), 1))
    cycle = (10 + 5 * u[0]) * np.sin(2 * np.pi * TIMES / (10 + 5 * u[1]))
    trend = (0.2 + 0.3 * u[2]) * TIMES
    shift = (7.5 + 12.5 * u[3]) * (20 + 20 * u[4] <= TIMES)
    known = np.stack([0 * cycle, cycle, trend, -trend, shift, -shift])
    return (known[kind, np.arange(len(kind))] + noise) / 10


class Net(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(1, 16, rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(16, len(KINDS), rngs=rngs)

    def __call__(self, chart, length):
        state = self.rnn(chart[..., None])
        return self.out(jnp.take_along_axis(state, length[:, None, None] - 1, axis=1)[:, 0])


def model(chart, length, kind=None):
    net = vijax.nn.network("net", Net, prior=dist.Normal(0.0, 1.0))
    with numpyro.plate("charts", len(chart)):
        numpyro.sample("kind", dist.Categorical(logits=net(chart, length)), obs=kind)


def main():
    steps = 1000 if options(__doc__).short else 3000
    rng = np.random.default_rng(0)
    kind, kind_test = rng.integers(6, size=(2, 400))
    posterior = vijax.fit(
        model, charts(rng, kind), rng.integers(4, LENGTH + 1, 400), kind,
        guide=vijax.guides.MeanField(noise="flipout"), batch_size=64, num_steps=steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.03, steps)),
    )  # fmt: skip
    test = charts(rng, kind_test)
    print(f"{'read up to':12} accuracy  log score  epistemic")
    for length in (5, 10, 20, 30):
        read = test, np.full(400, length)
        score = posterior.score(*read, kind=kind_test, num_draws=32)["value"]
        epistemic = posterior.uncertainty(*read, num_draws=32).epistemic.mean()
        row = f"{score['accuracy']:8.3f} {score['log score']:10.3f} {epistemic:10.3f}"
        print(f"{2 * length:<12} {row}")
    spiked = charts(rng, np.zeros(400, int)) + 2.0 * (rng.random((400, LENGTH)) < 0.1)
    known, new = (posterior.uncertainty(c, read[1], num_draws=32) for c in (test, spiked))
    area = roc_auc_score(np.repeat([0, 1], 400), np.append(known.epistemic, new.epistemic))
    print(f"\n{'charts of a new kind noticed':32} {area:.3f}")

    one = charts(rng, np.array([4]))
    lengths = np.arange(2, LENGTH + 1)
    rows = np.repeat(one, len(lengths), axis=0), lengths
    draws = posterior.predict(*rows, num_draws=256)["kind"]
    figure, axes = plt.subplots(2, 1, figsize=(7, 4.6), sharex=True, layout="constrained")
    axes[0].plot(2 * np.arange(LENGTH), one[0], "o-", ms=3, color=GREY)
    axes[0].set(title="A chart that is shifted up", ylabel="measurement")
    colors = [GREY, "#7a4f9a", "#2d8a5f", "#b04a5a", ORANGE, BLUE]
    shares = [np.mean(draws == k, axis=0) for k in range(6)]
    axes[1].stackplot(2 * lengths - 2, shares, labels=KINDS, colors=colors, alpha=0.7)
    axes[1].set(xlabel="time", ylabel="probability, read up to it", ylim=(0, 1))
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, "recurrent_network")


if __name__ == "__main__":
    main()
