"""Annual flow of the Nile at Aswan: a local level model, compared with the exact smoother.

The local level model of Durbin and Koopman (2001) is linear and Gaussian, so the smoothed level
given both standard deviations is known in closed form (Kalman smoother). The posterior is compared
with the smoother averaged over draws of the standard deviations.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, read, save
from numpyro.contrib.control_flow import scan

import vijax

nile = read("nile")
UNIT = 100.0  # 10^8 cubic meters; scales values to about ten


def model(flow):
    wander = numpyro.sample("wander", dist.LogNormal(-1.0, 1.0))  # sd of the annual change
    noise = numpyro.sample("noise", dist.LogNormal(0.0, 1.0))
    first = numpyro.sample("first", dist.Normal(10.0, 5.0))

    def step(level, flow):
        level = numpyro.sample("level", dist.Normal(level, wander))
        numpyro.sample("flow", dist.Normal(level, noise), obs=flow)
        return level, None

    scan(step, first, flow)


def smooth(flow, wander, noise):
    """Posterior mean of the level given all data, for one pair of sds."""
    n = len(flow)
    walk = np.minimum.outer(np.arange(1, n + 1), np.arange(1, n + 1))
    prior = 5.0**2 + wander**2 * walk
    return 10.0 + prior @ np.linalg.solve(prior + noise**2 * np.eye(n), flow - 10.0)


def main():
    options(__doc__)
    flow = nile["flow"] / UNIT
    posterior = vijax.fit(model, flow)
    print(posterior.summary())

    draws = posterior.sample(num_draws=2000)
    level, keep = UNIT * draws["level"], slice(0, 500)
    pairs = zip(draws["wander"][keep], draws["noise"][keep], strict=True)
    truth = UNIT * np.mean([smooth(flow, *pair) for pair in pairs], axis=0)
    error = np.abs(level.mean(0) - truth) / level.std(0)
    print(f"\n{'largest error, against smoother':32} {error.max():6.2f} sd")
    by_1899 = level[:, 30:60].mean(1) - level[:, :25].mean(1)
    print(f"{'1901-1930 minus 1871-1895':32} {by_1899.mean():6.0f} {by_1899.std():6.0f}")

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    year = nile["year"]
    band = np.quantile(level, [0.055, 0.945], axis=0)
    axes.fill_between(year, *band, color=BLUE, alpha=0.3, lw=0, label="level, 89 % interval")
    axes.plot(year, level.mean(0), color=BLUE)
    axes.plot(year, truth, ":", color=GREY, lw=2.5, label="smoother", zorder=3)
    axes.plot(year, nile["flow"], "o", ms=3, color=ORANGE, label="observed")
    axes.set(title="The Nile fell about 1899", xlabel="year")
    axes.set_ylabel("flow (10$^8$ m$^3$ per year)")
    axes.legend(loc="upper right")
    save(figure, "state_space")


if __name__ == "__main__":
    main()
