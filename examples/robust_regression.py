"""Robust regression with Student-t errors: six outliers, and a model comparison.

Telephone calls from Belgium by year (Rousseeuw and Leroy, 1987). From 1964 to 1969 another quantity
was recorded, the minutes of calls. With normal errors these rows dominate the line; with Student-t
errors they are in the heavy tail and have little influence.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, save

import vijax

YEAR = np.arange(1950, 1974)
CALLS = np.array(  # tens of millions
    [4.4, 4.7, 4.7, 5.9, 6.6, 7.3, 8.1, 8.8, 10.6, 12.0, 13.5, 14.9, 16.1, 21.2]
    + [119.0, 124.0, 142.0, 159.0, 182.0, 212.0, 43.0, 24.0, 27.0, 29.0]
)


def line(year):
    level = numpyro.sample("level", dist.Normal(20.0, 20.0))  # in 1962
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))  # per year
    return numpyro.deterministic("line", level + slope * (year - 1962))


def normal(year, calls=None):
    expected = line(year)
    scale = numpyro.sample("scale", dist.LogNormal(1.0, 2.0))
    with numpyro.plate("years", len(year)):
        numpyro.sample("calls", dist.Normal(expected, scale), obs=calls)


def student(year, calls=None):
    expected = line(year)
    scale = numpyro.sample("scale", dist.LogNormal(1.0, 2.0))
    tails = numpyro.sample("tails", dist.Gamma(2.0, 0.5))  # degrees of freedom
    with numpyro.plate("years", len(year)):
        numpyro.sample("calls", dist.StudentT(tails, expected, scale), obs=calls)


def main():
    options(__doc__)
    fits = {f.__name__: vijax.fit(f, YEAR, CALLS) for f in (normal, student)}
    print(vijax.compare(fits))
    print(f"\n{'errors':16} {'slope':>6} {'sd':>6} {'scale':>7}   status")
    for name, posterior in fits.items():
        summary = posterior.summary()
        mean, sd = summary["mean"], summary["sd"]
        print(
            f"{name + ' errors':16} {mean['slope']:6.2f} {sd['slope']:6.2f} {mean['scale']:7.2f}   "
            f"{posterior.status}"
        )

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for (name, posterior), color in zip(fits.items(), (GREY, BLUE), strict=True):
        lines = posterior.sample(num_draws=2000)["line"]
        band = np.quantile(lines, [0.055, 0.945], axis=0)
        axes.fill_between(YEAR, *band, color=color, alpha=0.3, lw=0)
        axes.plot(YEAR, lines.mean(0), color=color, label=f"{name} errors, 89 % interval")
    other = (YEAR >= 1964) & (YEAR < 1970)
    axes.plot(YEAR[~other], CALLS[~other], "o", ms=4, color=ORANGE, label="calls")
    axes.plot(YEAR[other], CALLS[other], "D", ms=4, mfc="none", color=ORANGE, label="minutes")
    axes.set(title="Effect of six outliers", xlabel="year")
    axes.set_ylabel("calls (tens of millions)")
    axes.legend(loc="upper left")
    save(figure, "robust_regression")


if __name__ == "__main__":
    main()
