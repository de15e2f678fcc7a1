"""Response of a neuron to a stimulus: Poisson regression with a heavy-tailed random walk.

Spikes in 469 trials (Davison and Hinkley, 1997), counted in bins of 10 ms. The log rate is a random
walk over bins with Student-t steps, which are mostly small and occasionally large: the rate can
jump at the response and is smooth elsewhere.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, read, save

import vijax

spikes = read("spikes")
TRIALS, WIDTH = 469, 0.01  # seconds per bin


def model(exposure, num_bins, counts=None):
    start = numpyro.sample("start", dist.Normal(2.0, 1.0))  # log rate, spikes per second
    size = numpyro.sample("size", dist.HalfNormal(0.3))  # scale of the steps
    with numpyro.plate("steps", num_bins - 1):
        step = numpyro.sample("step", dist.StudentT(2.0, 0.0, 1.0))
    walk = jnp.concatenate([jnp.zeros(1), jnp.cumsum(step)])
    log_rate = start + size * walk
    numpyro.deterministic("rate", jnp.exp(log_rate))
    with numpyro.plate("bins", num_bins):
        numpyro.sample("counts", dist.Poisson(exposure * jnp.exp(log_rate)), obs=counts)


def main():
    options(__doc__)
    counts, exposure = spikes["spikes"], TRIALS * WIDTH
    posterior = vijax.fit(model, exposure, len(spikes), counts)
    print(posterior.report())

    draws = posterior.sample(num_draws=4000)
    rate = draws["rate"]
    time = spikes["time"]
    print(f"\n{'bin':24} {'rate':>6} {'sd':>6}   spikes per second")
    parts = (("before the stimulus", time < 0), ("peak, 20 to 30 ms", time == 20))
    parts += (("trough, 40 to 50 ms", time == 40), ("second peak, 60 to 70 ms", time == 60))
    for name, rows in parts:
        value = rate[:, rows].mean(1)
        print(f"{name:24} {value.mean():6.2f} {value.std():6.2f}")

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    edges = np.append(time, time[-1] + 10)
    middle = time + 5
    axes.stairs(counts / exposure, edges, color=GREY, fill=True, alpha=0.4, label="observed")
    low, high = np.quantile(rate, [0.055, 0.945], axis=0)
    axes.errorbar(
        middle, rate.mean(0), yerr=(rate.mean(0) - low, high - rate.mean(0)), fmt="o", ms=3,
        color=BLUE, lw=1, label="rate, 89 % interval",
    )  # fmt: skip
    axes.axvline(0, color=ORANGE, lw=1, label="stimulus")
    axes.set(title="Response of a neuron to a stimulus", xlabel="time from the stimulus (ms)")
    axes.set_ylabel("spikes per second")
    axes.legend(loc="upper left")
    save(figure, "spike_counts")


if __name__ == "__main__":
    main()
