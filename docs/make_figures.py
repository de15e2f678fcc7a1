"""Generates the figures of the documentation: `python docs/make_figures.py`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split

import vijax
import vijax.plot
from vijax.plot.style import GUIDE, POSTERIOR, REFERENCE, styled

FIGURES = Path(__file__).parent / "figures"
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # of coaching in eight schools
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(error, effect=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(error)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("effect", dist.Normal(theta, error), obs=effect)


def alike(error, effect=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("schools", len(error)):
        numpyro.sample("effect", dist.Normal(mu, error), obs=effect)


def save(name, figure):
    path = FIGURES / f"{name}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    print(f"figure: {os.path.relpath(path)}")


def forecast():
    """The forecast of the first example of the page on forecasting."""
    page = (Path(__file__).parent / "forecasting.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    y, draws = names["y"], names["draws"]
    time, steps = np.arange(draws.shape[1]), len(y)
    with styled():
        figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
        for mass, shade in ((0.9, 0.2), (0.5, 0.35)):
            low, high = np.quantile(draws, [0.5 - mass / 2, 0.5 + mass / 2], axis=0)
            axes.fill_between(
                time, low, high, color=POSTERIOR, alpha=shade, lw=0, label=f"{mass:.0%}"
            )
        axes.plot(time, np.median(draws, axis=0), color=POSTERIOR, label="median")
        axes.plot(time[:steps], y, "o", color=GUIDE, ms=3, label="data")
        axes.axvline(steps - 0.5, color=REFERENCE, lw=0.8, ls=":")
        axes.set(xlabel="time", ylabel="y")
        axes.legend(loc="lower left", ncols=2)
    return figure


def nile():
    """The level of the first example of the page on chains."""
    page = (Path(__file__).parent / "chains.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    y, level = names["nile"], names["draws"]["level"]
    years = 1871 + np.arange(len(y))
    low, high = np.quantile(level, [0.05, 0.95], axis=0)
    with styled():
        figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
        axes.fill_between(years, low, high, color=POSTERIOR, alpha=0.25, lw=0, label="90%")
        axes.plot(years, level.mean(axis=0), color=POSTERIOR, label="level")
        axes.plot(years, y, "o", color=GUIDE, ms=3, label="flow")
        axes.set(xlabel="year", ylabel="10^10 cubic metres")
        axes.legend(loc="upper right", ncols=3)
    return figure


def calibration():
    """Held-out patients: progress of diabetes by linear, tumors by logistic regression."""

    def model(x, y=None, binary=False):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        weight = numpyro.sample("weight", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        offset = numpyro.sample("offset", dist.Normal(0.0, 2.0))
        mean = offset + x @ weight
        with numpyro.plate("patients", len(x)):
            likelihood = dist.Bernoulli(logits=mean) if binary else dist.Normal(mean, scale)
            numpyro.sample("y", likelihood, obs=y)

    with styled():
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for binary, load in enumerate((load_diabetes, load_breast_cancer)):
        x, y = load(return_X_y=True)
        x, y = (x - x.mean(0)) / x.std(0), y if binary else (y - y.mean()) / y.std()
        x, x_test, y, y_test = train_test_split(x, y, test_size=0.6, random_state=0)
        posterior = vijax.fit(model, x, y, binary=bool(binary))
        vijax.plot.calibration(
            posterior, x_test, y=y_test, binary=bool(binary), axes=panels[binary]
        )
    return figure


def main():
    posterior = vijax.fit(schools, ERROR, EFFECT)
    mean_field = vijax.fit(schools, ERROR, EFFECT, guide="meanfield", algorithm="gradient")
    save("losses", vijax.plot.losses(mean_field).figure)
    save("stages", vijax.plot.stages(posterior).figure)
    save("weights", vijax.plot.weights(posterior).figure)
    save("marginals", vijax.plot.marginals(posterior, ["mu", "tau", "theta[0]", "theta[2]"]))
    save("pair", vijax.plot.pair(posterior, ["mu", "tau", "theta[0]"]))
    save("predictive", vijax.plot.predictive(posterior))
    save("forecast", forecast())
    save("nile", nile())
    save("report", vijax.plot.report(posterior))
    save("calibration", calibration())
    fits = {"different": posterior, "alike": vijax.fit(alike, ERROR, EFFECT)}
    save("compare", vijax.plot.compare(vijax.compare(fits))[0].figure)
    environment = os.environ | {"VIJAX_FIGURES": str(FIGURES)}
    script = FIGURES.parents[1] / "examples" / "quickstart.py"
    subprocess.run([sys.executable, script], env=environment, check=True)


if __name__ == "__main__":
    main()
