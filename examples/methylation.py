"""Methylation along a chromosome: overdispersed counts.

At each locus some of the reads of the DNA are methylated (Lister et al., 2009). Each region of
fifty loci has a level. If all loci of a region had the same level, counts would be binomial; a
beta-binomial model estimates the overdispersion. Pass the file as `--data methylation_chr22.npz`,
with arrays `methylated` and `coverage`, `(loci, 2)`; without it counts of the same shape are
simulated.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, save

import vijax

LOCI = 50  # per region


def model(coverage, counts=None, binomial=False):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.5))  # mean log odds
    tau = numpyro.sample("tau", dist.HalfNormal(1.5))  # sd between regions
    if not binomial:  # concentration of the beta distribution
        sharpness = numpyro.sample("sharpness", dist.LogNormal(1.0, 1.0))
    with numpyro.plate("regions", coverage.shape[0], dim=-2):
        log_odds = numpyro.sample("log_odds", dist.Normal(mu, tau))
        level = numpyro.deterministic("level", jax.nn.sigmoid(log_odds))
        with numpyro.plate("loci", coverage.shape[1], dim=-1):
            if binomial:
                of_counts = dist.Binomial(coverage, level)
            else:
                of_counts = dist.BetaBinomial(level * sharpness, (1 - level) * sharpness, coverage)
            numpyro.sample("counts", of_counts, obs=counts)


def load(path, regions):
    """Coverage and methylated reads, summed over both replicates, `(regions, LOCI)`."""
    if path is None:
        rng = np.random.default_rng(0)
        coverage = rng.poisson(8, (regions, LOCI)) + 1
        level = 1 / (1 + np.exp(-rng.normal(1.2, 0.8, (regions, 1))))
        return coverage, rng.binomial(
            coverage, rng.beta(3 * level, 3 * (1 - level), (regions, LOCI))
        )
    with np.load(path) as file:
        both = [
            file[name][: regions * LOCI].astype(int).sum(1) for name in ("coverage", "methylated")
        ]
    return tuple(each.reshape(regions, LOCI) for each in both)


def main():
    # in single precision the beta-binomial's density is a difference of large numbers
    jax.config.update("jax_enable_x64", True)
    chosen = options(__doc__, data="methylation_chr22.npz")
    coverage, counts = load(chosen.data, 20 if chosen.short else 120)
    fits = {
        "beta-binomial": vijax.fit(model, coverage, counts),
        "binomial": vijax.fit(model, coverage, counts, True),
    }
    print(fits["beta-binomial"].summary())
    rng, shares = np.random.default_rng(1), counts / np.maximum(coverage, 1)
    print(f"\n{'model':16} {'ELBO':>10} {'sd of a level':>14} {'sd between loci':>16}   status")
    for name, posterior in fits.items():
        draws = posterior.sample(num_draws=1000)
        sd = draws["level"].std(0).mean()
        rate = draws["level"][:20]
        if "sharpness" in draws:
            sharpness = draws["sharpness"][:20, None, None]
            shape = (20, *coverage.shape)
            rate = rng.beta(rate * sharpness, (1 - rate) * sharpness, shape)
        replicas = rng.binomial(coverage, rate)
        between = (replicas / np.maximum(coverage, 1)).std(2).mean()
        print(f"{name:16} {posterior.elbo:10.1f} {sd:14.4f} {between:16.3f}   {posterior.status}")
    print(f"{'data':42} {shares.std(1).mean():16.3f}")

    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    region = np.arange(min(40, len(counts)))
    for shift, (name, posterior), color in zip(
        (-0.2, 0.2), fits.items(), (BLUE, GREY), strict=True
    ):
        level = posterior.sample(num_draws=2000)["level"][:, region, 0]
        ends = np.quantile(level, [0.055, 0.945], axis=0)
        axes.vlines(region + shift, *ends, color=color, lw=2, label=f"{name}, 89 % interval")
    pooled = counts[region].sum(1) / np.maximum(coverage[region].sum(1), 1)
    axes.plot(region, pooled, "o", ms=3, color=ORANGE, label="share of all reads")
    axes.set(title="Binomial intervals are too narrow", xlabel="region", ylabel="methylation level")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right", ncols=3, fontsize="small")
    save(figure, "methylation")


if __name__ == "__main__":
    main()
