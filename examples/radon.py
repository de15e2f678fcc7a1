"""Radon in Minnesota with a county-level predictor: partial pooling.

As in quickstart.py each county has a level; here the uranium in its soil predicts the level (Gelman
and Hill, 2007). Counties with few homes are shrunk towards the regression line.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, read, save

import vijax

homes, counties = read("radon"), read("radon_counties")
log_radon = np.log(homes["radon"])


def model(county, floor, log_uranium, log_radon=None):
    mean = numpyro.sample("mean", dist.Normal(1.0, 2.0))  # at log uranium 0, log pCi/L
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))  # per unit of log uranium
    tau = numpyro.sample("tau", dist.LogNormal(-2.0, 1.0))  # sd of counties around the line
    upstairs = numpyro.sample("upstairs", dist.Normal(0.0, 1.0))  # ground floor minus basement
    noise = numpyro.sample("noise", dist.LogNormal(0.0, 1.0))  # sd between homes of a county
    with numpyro.plate("counties", len(log_uranium)):
        level = numpyro.sample("level", dist.Normal(mean + slope * log_uranium, tau))
    with numpyro.plate("homes", len(county)):
        expected = level[county] + upstairs * floor
        numpyro.sample("log_radon", dist.Normal(expected, noise), obs=log_radon)


def main():
    data = (homes["county"], homes["floor"], counties["log_uranium"])
    posterior = vijax.fit(model, *data, log_radon=log_radon)
    print(posterior.summary())
    print(f"\n{posterior.report()}\n")

    draws = posterior.sample(num_draws=4000)
    size = np.bincount(homes["county"])
    basement = log_radon - draws["upstairs"].mean() * homes["floor"]
    alone = np.bincount(homes["county"], basement) / size
    low, mid, high = np.quantile(draws["level"], [0.055, 0.5, 0.945], axis=0)
    shrinkage = np.abs(mid - alone)
    print(f"{'homes in county':16} {'counties':>8} {'mean shrinkage (log pCi/L)':>27}")
    for low_size, high_size in ((1, 3), (4, 9), (10, 29), (30, 999)):
        group = (size >= low_size) & (size <= high_size)
        label = f"{low_size} to {high_size}" if high_size < 999 else f"{low_size} or more"
        print(f"{label:16} {group.sum():8d} {shrinkage[group].mean():27.2f}")

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained", sharey=True)
    x = counties["log_uranium"]
    grid = np.linspace(x.min(), x.max(), 50)
    line = draws["mean"][:, None] + draws["slope"][:, None] * grid
    axes[0].fill_between(
        grid, *np.quantile(line, [0.055, 0.945], axis=0), color=ORANGE, alpha=0.25, lw=0
    )
    axes[0].plot(grid, line.mean(0), color=ORANGE, label="county line, 89 % interval")
    axes[0].vlines(x, low, high, color=BLUE, alpha=0.4, lw=1)
    axes[0].plot(x, mid, "o", ms=3.5, color=BLUE, label="county level, 89 % interval")
    axes[0].plot(x, alone, "o", ms=3, mfc="none", mew=0.7, color=GREY, label="county mean")
    axes[0].set(title="Levels increase with uranium in the soil", xlabel="log uranium (log ppm)")
    axes[0].set_ylabel("basement level (log pCi/L)")
    axes[0].legend(loc="upper left")

    axes[1].vlines(size, alone, mid, color=GREY, lw=0.6)
    axes[1].plot(size, alone, "o", ms=3, mfc="none", mew=0.7, color=GREY)
    axes[1].plot(size, mid, "o", ms=3.5, color=BLUE)
    axes[1].set(
        title="Shrinkage is largest with few homes",
        xscale="log",
        xlabel="homes measured in the county",
    )
    axes[1].set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes[1].minorticks_off()
    save(figure, "radon")


if __name__ == "__main__":
    main()
