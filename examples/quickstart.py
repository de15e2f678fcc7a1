"""A first fit: how indoor radon varies between the counties of Minnesota.

Some counties have a hundred measured homes and some have one. Each gets a level of its own, and the
levels share a distribution whose width is learned from the data: a hierarchical model.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, read, save

import vijax

homes, counties = read("radon"), read("radon_counties")
log_radon = np.log(homes["radon"])


def model(county, floor, num_counties, log_radon=None):
    mean = numpyro.sample("mean", dist.Normal(1.0, 2.0))  # of the counties' levels, log pCi/L
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))  # between counties
    upstairs = numpyro.sample("upstairs", dist.Normal(0.0, 1.0))  # ground floor less basement
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))  # between homes of a county
    with numpyro.plate("counties", num_counties):
        level = numpyro.sample("level", dist.Normal(mean, spread))
    with numpyro.plate("homes", len(county)):
        expected = level[county] + upstairs * floor
        numpyro.sample("log_radon", dist.Normal(expected, noise), obs=log_radon)


def draw_losses(axes, posterior, simple):
    axes.plot(simple.losses, color=GREY, lw=0.4, label="mean-field, single draws")
    window = len(simple.losses) // 50
    smooth = np.convolve(simple.losses, np.ones(window) / window, "valid")
    axes.plot(np.arange(window - 1, len(simple.losses)), smooth, color=BLUE, label="moving average")
    axes.axhline(-posterior.elbo, color=ORANGE, ls="--", label="full-rank, where it ended")
    axes.set_ylim(-posterior.elbo - 30, -posterior.elbo + 120)
    axes.set(title="Loss", xlabel="gradient step", ylabel="negative ELBO (nats)")
    axes.legend(loc="upper right")


def draw_posterior(axes, posterior, simple):
    bins = np.linspace(0.1, 0.6, 51)
    for fit, color, name in ((simple, GREY, "mean-field"), (posterior, BLUE, "full-rank")):
        spread = fit.sample(num_draws=4000)["spread"]
        label = f"{name}, {fit.status}"
        axes.hist(spread, bins, density=True, histtype="step", lw=1.6, color=color, label=label)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    axes.set(title="Posterior", xlabel="spread between counties (log pCi/L)", ylabel="density")
    axes.legend(loc="upper right")


def draw_check(axes, posterior, data):
    replicas = posterior.predict(1, *data, num_draws=100)["log_radon"]
    edges = np.arange(-3.125, 5.25, 0.25)
    for i, replica in enumerate(replicas):
        counts = np.histogram(replica, edges)[0]
        label = "100 replicas from the model" if i == 0 else None
        axes.stairs(counts, edges, color=BLUE, alpha=0.12, lw=0.8, label=label)
    axes.stairs(np.histogram(log_radon, edges)[0], edges, color=ORANGE, lw=1.8, label="919 homes")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    axes.set(title="Posterior predictive check", xlabel="log radon (log pCi/L)", ylabel="homes")
    axes.legend(loc="upper left", handlelength=1.2)


def main():
    data = (homes["county"], homes["floor"], len(counties))
    posterior = vijax.fit(model, *data, log_radon=log_radon)
    print(posterior.summary())
    print(f"\n{posterior.report()}\n")

    simple = vijax.fit(model, *data, log_radon=log_radon, guide="meanfield")
    print(f"for comparison, {simple!r}")

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    draw_losses(axes[0], posterior, simple)
    draw_posterior(axes[1], posterior, simple)
    draw_check(axes[2], posterior, data)
    save(figure, "quickstart")


if __name__ == "__main__":
    main()
