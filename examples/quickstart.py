"""A first fit: a hierarchical model of indoor radon in the counties of Minnesota.

Some counties have a hundred measured homes, others only one. Each county has a level, and the
levels have a common normal distribution, whose standard deviation `tau` is estimated from the
data.
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
    mean = numpyro.sample("mean", dist.Normal(1.0, 2.0))  # of the county levels, log pCi/L
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))  # sd between counties
    upstairs = numpyro.sample("upstairs", dist.Normal(0.0, 1.0))  # ground floor minus basement
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))  # sd between homes of a county
    with numpyro.plate("counties", num_counties):
        level = numpyro.sample("level", dist.Normal(mean, tau))
    with numpyro.plate("homes", len(county)):
        expected = level[county] + upstairs * floor
        numpyro.sample("log_radon", dist.Normal(expected, noise), obs=log_radon)


def draw_losses(axes, posterior, simple):
    steps = np.arange(len(simple.losses))
    window = len(steps) // 100
    average = np.convolve(simple.losses, np.ones(window) / window, "valid")
    axes.plot(steps, simple.losses, color=GREY, alpha=0.5, lw=0.3, label="mean-field, each step")
    axes.plot(steps[window - 1 :], average, color=BLUE, lw=1.6, label="mean-field, moving average")
    axes.axhline(-posterior.elbo, color=ORANGE, ls="--", label="automatic fit, final")
    axes.set_ylim(-posterior.elbo - 30, -posterior.elbo + 90)
    axes.set(title="Loss", xlabel="gradient step", ylabel="negative ELBO (nats)")
    axes.legend(loc="upper right")


def draw_posterior(axes, posterior, simple):
    bins = np.linspace(0.1, 0.6, 51)
    tau = posterior.sample(num_draws=8000)["tau"]
    axes.hist(tau, bins, density=True, color=BLUE, alpha=0.35, label="automatic")
    tau = simple.sample(num_draws=8000)["tau"]
    axes.hist(tau, bins, density=True, histtype="step", color=GREY, label="mean-field")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    axes.set(title=f"Posterior: {posterior.status}", ylabel="density")
    axes.set_xlabel("sd between counties (log pCi/L)")
    axes.legend(loc="upper right")


def draw_check(axes, posterior, data):
    replicas = posterior.predict(*data, rng_key=1, num_draws=500)["log_radon"]
    edges = np.arange(-3.125, 5.25, 0.25)
    counts = [np.histogram(replica, edges)[0] for replica in replicas]
    low, high = np.quantile(counts, [0.05, 0.95], axis=0)
    label = "model, 90 % interval"
    axes.stairs(high, edges, baseline=low, fill=True, color=BLUE, alpha=0.35, label=label)
    axes.stairs(np.histogram(log_radon, edges)[0], edges, color=ORANGE, lw=1.6, label="919 homes")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
    axes.set(title="Posterior predictive check", xlabel="radon (log pCi/L)", ylabel="homes per bin")
    axes.legend(loc="upper left", handlelength=1.2)


def main():
    data = (homes["county"], homes["floor"], len(counties))
    posterior = vijax.fit(model, *data, log_radon=log_radon)
    print(posterior.summary())
    print(f"\n{posterior.report()}\n")

    # by gradient steps, to show the loss
    options = {"guide": "meanfield", "algorithm": "gradient", "num_steps": 2000}
    simple = vijax.fit(model, *data, log_radon=log_radon, **options)
    print(f"for comparison, {simple!r}")

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    draw_losses(axes[0], posterior, simple)
    draw_posterior(axes[1], posterior, simple)
    draw_check(axes[2], posterior, data)
    save(figure, "quickstart")


if __name__ == "__main__":
    main()
