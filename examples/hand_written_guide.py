"""A guide written by hand in NumPyro, that knows more of the model than any automatic one.

Failures of ten pumps of a power plant, each with a rate of its own (Gaver and O'Muircheartaigh,
1987). Given the distribution of the rates, each pump's rate has a Gamma posterior in closed form;
the guide uses it, and only approximates the two parameters that the pumps share.
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
    center = numpyro.param("center", 0.0)
    width = numpyro.param("width", 0.3, constraint=positive)
    shape = numpyro.sample("shape", dist.LogNormal(center, width))
    # log inverse given log shape is a line with noise about it
    at, slope = numpyro.param("at", 0.0), numpyro.param("slope", 0.0)
    noise = numpyro.param("noise", 0.3, constraint=positive)
    inverse = numpyro.sample("inverse", dist.LogNormal(at + slope * jnp.log(shape), noise))
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
    left.set(title="What each guide gives away", xlim=(0, None), ylim=(2.5, -0.5))
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
