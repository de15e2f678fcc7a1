"""Recessions of the United States: a trend whose growth switches, and the dates of the NBER.

Real GNP by quarter, 1951 to 1984 (Hamilton, 1989). Log GNP is a trend with one of two paces, and
which of them is a Markov chain: switching linear dynamics. The chain of regimes and that of the
trend are independent under the guide, each exact given the other. Paces are compared with those
that Hamilton published, and regimes with the recessions dated by the NBER.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, read, save
from numpyro.contrib.control_flow import scan

import vijax

gnp = read("gnp")
# by maximum likelihood, with autoregressive growth: percent a quarter, chance to stay
HAMILTON = {"expansion": (1.16, 0.905), "recession": (-0.36, 0.755)}


def model(level):
    noise = numpyro.sample("noise", dist.InverseGamma(20.0, 1.0))  # variances
    shock = numpyro.sample("shock", dist.InverseGamma(2.0, 1.0))
    with numpyro.plate("regimes", 2):
        pace = numpyro.sample("pace", dist.Normal(jnp.array([1.2, -0.4]), 0.5))
        move = numpyro.sample("move", dist.Dirichlet(jnp.array([[9.0, 1.0], [2.0, 6.0]])))
    first = numpyro.sample("first", dist.Normal(0.0, 1.0))

    def quarter(before, level):
        regime, trend = before
        regime = numpyro.sample("regime", dist.Categorical(move[regime]))
        trend = numpyro.sample("trend", dist.Normal(trend + pace[regime], jnp.sqrt(shock)))
        numpyro.sample("level", dist.Normal(trend, jnp.sqrt(noise)), obs=level)
        return (regime, trend), None

    scan(quarter, (0, first), level)


def main():
    options(__doc__)
    posterior = vijax.fit(model, np.cumsum(gnp["growth"]), guide="conjugate")
    print(f"{posterior.report()}\n")

    draws = posterior.sample(num_draws=2000)
    print(f"{'':12} {'pace':>6} {'sd':>5} {'Hamilton':>9} {'stay':>6} {'sd':>5} {'Hamilton':>9}")
    for k, (name, (pace, stay)) in enumerate(HAMILTON.items()):
        own, kept = draws["pace"][:, k], draws["move"][:, k, k]
        print(
            f"{name:12} {own.mean():6.2f} {own.std():5.2f} {pace:9.2f} "
            f"{kept.mean():6.3f} {kept.std():5.3f} {stay:9.3f}"
        )
    chance, dated = draws["regime"].mean(axis=0), gnp["recession"] == 1
    print(f"{'quarters as dated by the NBER':32} {np.mean((chance > 0.5) == dated):6.3f}")
    print(f"{'probability in recessions':32} {chance[dated].mean():6.3f}")
    print(f"{'and in expansions':32} {chance[~dated].mean():6.3f}")

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.4, 4.4), layout="constrained", sharex=True
    )
    time = gnp["time"]
    for axes, high in ((above, 3.4), (below, 1.0)):
        low = -2.6 if axes is above else 0.0
        axes.fill_between(
            time, low, high, where=dated, step="mid", color=GREY, alpha=0.35, lw=0, label="NBER"
        )
        axes.set_ylim(low, high)
    above.bar(time, gnp["growth"], width=0.25, color=ORANGE, alpha=0.7)
    above.set(title="Growth of real GNP, and recessions of the NBER", ylabel="percent a quarter")
    below.step(time, chance, where="mid", color=BLUE)
    below.set(title="Probability of the slow regime", xlabel="year", ylabel="probability")
    below.set_xlim(1951, 1985)
    save(figure, "switching")


if __name__ == "__main__":
    main()
