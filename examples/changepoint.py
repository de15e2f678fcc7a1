"""When did coal mining become safer? A discrete latent variable, marginalized automatically.

Disasters per year follow one Poisson rate up to some year and another afterwards (Jarrett, 1979).
The year is a latent site: the fit marginalizes over all 112 values, and posterior draws include it.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, read, save
from scipy.special import gammaln, logsumexp

import vijax

coal = read("coal")
SHAPE, RATE = 2.0, 1.0  # of the gamma priors


def model(disasters):
    rate = numpyro.sample("rate", dist.Gamma(SHAPE, RATE).expand([2]).to_event(1))  # per year
    last = numpyro.sample(
        "last", dist.DiscreteUniform(0, len(disasters) - 1)
    )  # last year of rate[0]
    now = jnp.where(jnp.arange(len(disasters)) <= last, rate[0], rate[1])
    with numpyro.plate("years", len(disasters)):
        numpyro.sample("disasters", dist.Poisson(now), obs=disasters)


def exact(disasters):
    """Posterior of the last year of the first rate, both rates marginalized analytically."""
    first = np.cumsum(disasters)
    years = np.arange(1, len(disasters) + 1)
    parts = ((first, years), (first[-1] - first, len(disasters) - years))
    log_p = sum(gammaln(SHAPE + n) - (SHAPE + n) * np.log(RATE + t) for n, t in parts)
    return np.exp(log_p - logsumexp(log_p))


def main():
    options(__doc__)
    posterior = vijax.fit(model, coal["disasters"])
    print(posterior.summary())

    draws = posterior.sample(num_draws=8000)
    share = np.bincount(draws["last"], minlength=len(coal)) / 8000
    truth = exact(coal["disasters"])
    top = np.argsort(-truth)[:5]
    print(f"\n{'last year of the first rate':28} {'draws':>6} {'exact':>6}")
    for i in sorted(top):
        print(f"{coal['year'][i]!s:28} {share[i]:6.3f} {truth[i]:6.3f}")
    ratio = draws["rate"][:, 0] / draws["rate"][:, 1]
    print(f"{'rate before over rate after':28} {ratio.mean():6.2f}")

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.4, 4.8), layout="constrained", height_ratios=(2, 1)
    )
    year = coal["year"]
    rate = np.where(np.arange(len(coal)) <= draws["last"][:, None], *draws["rate"].T[..., None])
    above.bar(year, coal["disasters"], color=GREY, alpha=0.5, width=1.0, label="disasters")
    above.fill_between(year, *np.quantile(rate, [0.055, 0.945], axis=0), color=BLUE, alpha=0.4)
    above.plot(year, rate.mean(0), color=BLUE, label="rate, 89 % interval")
    above.set(title="Disasters fell to a third about 1890", ylabel="disasters per year")
    above.legend(loc="upper right")
    below.bar(year, share, color=BLUE, width=1.0, label="8,000 draws")
    below.plot(year, truth, "o", ms=3, color=ORANGE, label="exact")
    below.set(xlim=(1870, 1910), xlabel="year", ylabel="probability")
    below.set_title("Last year of the first rate")
    above.set_xlim(1850, 1963)
    below.legend(loc="upper right")
    save(figure, "changepoint")


if __name__ == "__main__":
    main()
