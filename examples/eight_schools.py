"""Eight schools: one posterior, three fits, and the status of each.

Coaching effects in eight schools, estimated with known standard errors (Rubin, 1981). In the
centered form the effects concentrate as their standard deviation `tau` approaches zero: a funnel,
which no Gaussian fits. The non-centered form `mu + tau * z` is closer to Gaussian, but not close
enough. The automatic fit learns a partially centered form, and corrects the draws by short MCMC
chains.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, save

import vijax

SCHOOLS = "ABCDEFGH"
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # points of the test score
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def centered(error, effect=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(error)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("effect", dist.Normal(theta, error), obs=effect)


def non_centered(error, effect=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(error)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * z)
        numpyro.sample("effect", dist.Normal(theta, error), obs=effect)


def main():
    fits = {
        "centered": vijax.fit(centered, ERROR, EFFECT, guide="fullrank"),
        "non-centered": vijax.fit(non_centered, ERROR, EFFECT, guide="fullrank"),
        "automatic": vijax.fit(centered, ERROR, EFFECT),
    }
    print(f"{'':12} {'status':12} {'k-hat':>6} {'ELBO':>8} {'log evid':>9} {'tau':>6} {'sd':>5}")
    for name, posterior in fits.items():
        evidence = posterior.importance().log_evidence
        tau = posterior.sample(num_draws=4000)["tau"]
        print(
            f"{name:12} {posterior.status:12} {posterior.khat:6.2f} {posterior.elbo:8.2f} "
            f"{evidence:9.2f} {tau.mean():6.2f} {tau.std():5.2f}"
        )
    print(f"\ncentered\n{fits['centered'].report()}\n")
    print(f"automatic\n{fits['automatic'].summary()}")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for name, color in (("automatic", BLUE), ("centered", ORANGE)):
        draws = fits[name].sample(num_draws=1500)
        label = f"{name}, {fits[name].status}"
        left.scatter(
            draws["theta"][:, 0], draws["tau"], s=4, lw=0, alpha=0.45, color=color, label=label
        )
    left.set(yscale="log", ylim=(0.08, 40), xlim=(-25, 45))
    left.set_title("The centered fit misses the neck of the funnel")
    left.set(xlabel="effect in school A (points)", ylabel="sd between schools, tau (points)")
    left.legend(loc="lower right", markerscale=3)

    theta = fits["automatic"].sample(num_draws=4000)["theta"]
    low, high = np.quantile(theta, [0.055, 0.945], axis=0)
    row = np.arange(len(SCHOOLS))
    right.errorbar(
        EFFECT,
        row - 0.15,
        xerr=ERROR,
        fmt="o",
        ms=4,
        color=GREY,
        lw=1,
        label="no pooling, ± 1 standard error",
    )
    right.hlines(row + 0.15, low, high, color=BLUE, lw=2, label="partial pooling, 89 % interval")
    right.plot(theta.mean(0), row + 0.15, "o", ms=5, color=BLUE)
    right.plot([0, 0], [-0.5, 7.6], color=GREY, lw=0.6, zorder=0)
    right.set(
        yticks=row,
        yticklabels=SCHOOLS,
        ylim=(7.6, -2.4),
        title="Partial pooling",
    )
    right.set(xlabel="effect of coaching (points)", ylabel="school")
    right.legend(loc="upper left")
    save(figure, "eight_schools")


if __name__ == "__main__":
    main()
