"""A hand-written NumPyro guide that uses conjugacy, compared with automatic guides.

Failures of ten pumps of a power plant, with a rate per pump (Gaver and O'Muircheartaigh, 1987).
Given the distribution of the rates, the posterior of each rate is a Gamma distribution in closed
form; the guide uses it, and approximates only the two global parameters.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, save
from numpyro.distributions import constraints

import vijax

FAILURES = np.array([5, 1, 5, 14, 3, 19, 1, 1, 4, 22])
TIME = np.array([94.3, 15.7, 62.9, 126, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5])  # thousand hours


def model(time, failures=None):
    shape = numpyro.sample("shape", dist.Exponential(1.0))
    inverse = numpyro.sample("inverse", dist.Gamma(0.1, 1.0))  # inverse scale, thousand hours
    with numpyro.plate("pumps", len(time)):
        rate = numpyro.sample("rate", dist.Gamma(shape, inverse))
        numpyro.sample("failures", dist.Poisson(rate * time), obs=failures)


def guide(time, failures=None):
    positive = constraints.positive
    loc = numpyro.param("loc", 0.0)
    scale = numpyro.param("scale", 0.3, constraint=positive)
    shape = numpyro.sample("shape", dist.LogNormal(loc, scale))
    # log inverse given log shape is a linear regression
    offset, slope = numpyro.param("offset", 0.0), numpyro.param("slope", 0.0)
    noise = numpyro.param("noise", 0.3, constraint=positive)
    inverse = numpyro.sample("inverse", dist.LogNormal(offset + slope * jnp.log(shape), noise))
    with numpyro.plate("pumps", len(time)):
        numpyro.sample("rate", dist.Gamma(shape + failures, inverse + time))


def main():
    fits = {
        "mean-field": vijax.fit(model, TIME, FAILURES, guide="meanfield"),
        "full-rank": vijax.fit(model, TIME, FAILURES, guide="fullrank"),
        "by hand": vijax.fit(model, TIME, FAILURES, guide=guide),
    }
    evidence = fits["full-rank"].importance(num_draws=20_000).log_evidence
    print(f"{'guide':12} {'status':12} {'ELBO':>8} {'below evidence (nats)':>22}")
    for name, posterior in fits.items():
        gap = f"{evidence - posterior.elbo:.3f} ± {posterior.elbo_se:.3f}"
        print(f"{name:12} {posterior.status:12} {posterior.elbo:8.2f} {gap:>22}")
    print(f"\n{fits['by hand'].summary()}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    gaps = [evidence - posterior.elbo for posterior in fits.values()]
    errors = [2 * posterior.elbo_se for posterior in fits.values()]
    left.errorbar(gaps, list(fits), xerr=errors, fmt="o", color=BLUE, lw=1.4)
    left.set(title="KL divergence from the posterior", xlim=(0, None), ylim=(2.5, -0.5))
    left.set_xlabel("ELBO below the log evidence (nats, ± 2 standard errors)")

    rate = fits["by hand"].sample(num_draws=4000)["rate"]
    low, high = np.quantile(rate, [0.055, 0.945], axis=0)
    pump = np.arange(1, len(TIME) + 1)
    right.vlines(pump, low, high, color=BLUE, lw=2, label="89 % interval")
    right.plot(pump, rate.mean(0), "o", ms=5, color=BLUE, label="mean")
    right.plot(pump, FAILURES / TIME, "o", ms=5, mfc="none", color=GREY, label="failures / time")
    right.set(title="Failure rates", xlabel="pump", xticks=pump, yscale="log")
    right.set_ylabel("failures per thousand hours")
    right.legend(loc="upper left")
    save(figure, "hand_written_guide")


if __name__ == "__main__":
    main()
