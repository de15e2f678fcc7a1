"""Gaussian process regression on the motorcycle data, with a low-rank basis.

Acceleration of the head of a test dummy after an impact (Silverman, 1985). The curve is a sum of
sine waves with independent normal coefficients, scaled by the spectral density of the kernel: the
Hilbert space approximation by eigenfunctions of the Laplacian (Solin and Sarkka, 2020), which needs
no kernel matrix.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, read, save

import vijax

crash = read("mcycle")
SCALE = 50.0  # g; scales values to about one
MIDDLE, HALF = 30.0, 45.0  # ms; the waves vanish at the ends, outside the data
WAVES = np.arange(1, 31) * np.pi / (2 * HALF)  # angular frequencies per ms


def model(time, acceleration=None):
    height = numpyro.sample("height", dist.HalfNormal(2.0))  # sd of the curve, in SCALE
    length = numpyro.sample("length", dist.LogNormal(1.7, 0.5))  # length scale, ms
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))  # in SCALE
    with numpyro.plate("waves", len(WAVES)):
        share = numpyro.sample("share", dist.Normal(0.0, 1.0))
    # the spectral density of a squared exponential kernel
    power = height**2 * (2 * jnp.pi) ** 0.5 * length * jnp.exp(-0.5 * (length * WAVES) ** 2)
    basis = jnp.sin(WAVES * (time[:, None] - MIDDLE + HALF)) / HALF**0.5
    curve = numpyro.deterministic("curve", basis @ (power**0.5 * share))
    with numpyro.plate("measurements", len(time)):
        numpyro.sample("acceleration", dist.Normal(curve, noise), obs=acceleration)


def main():
    options(__doc__)
    time = crash["time"]
    posterior = vijax.fit(model, time, crash["acceleration"] / SCALE)
    print(posterior.summary())

    grid = np.linspace(0.0, 60.0, 121)
    found = posterior.predict(grid, rng_key=1, num_draws=2000)
    curves, replicas = SCALE * found["curve"], SCALE * found["acceleration"]
    residual = crash["acceleration"] - np.interp(time, grid, curves.mean(0))
    parts = (("before 14 ms", time < 14), ("14 to 40 ms", (time >= 14) & (time < 40)))
    print(f"\n{'residuals':16} {'sd':>6}")
    for name, rows in parts:
        print(f"{name:16} {residual[rows].std():6.1f} g")
    noise = SCALE * posterior.sample(num_draws=2000)["noise"].mean()
    print(f"{'fitted noise':16} {noise:6.1f} g")

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    band = np.quantile(replicas, [0.055, 0.945], axis=0)
    axes.fill_between(grid, *band, color=GREY, alpha=0.2, lw=0, label="89 % of measurements")
    band = np.quantile(curves, [0.055, 0.945], axis=0)
    axes.fill_between(grid, *band, color=BLUE, alpha=0.4, lw=0, label="curve, 89 % interval")
    axes.plot(grid, curves.mean(0), color=BLUE)
    axes.plot(time, crash["acceleration"], "o", ms=3, color=ORANGE, label="measured")
    axes.set(title="A constant noise sd is too large before 14 ms")
    axes.set(xlabel="time after the impact (ms)", ylabel="acceleration of the head (g)")
    axes.legend(loc="lower right")
    save(figure, "gaussian_process")


if __name__ == "__main__":
    main()
