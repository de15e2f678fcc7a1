"""Earthquakes of a century: a hidden Markov model, how many states, and which years were in which.

Earthquakes of magnitude 7 or more, by year (Zucchini and MacDonald, 2009). Each year has one of a
few hidden states with a rate of its own, on which the next state depends. Updates are in closed
form, the states by forward-backward, compared with maximum likelihood as in the textbook.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, read, save
from numpyro.contrib.control_flow import scan
from scipy.special import gammaln
from scipy.stats import poisson

import vijax

data = read("earthquakes")
NAMES, COLORS = ["quiet", "usual", "busy"], [GREY, BLUE, ORANGE]


def model(counts, number):
    with numpyro.plate("states", number):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1))  # earthquakes per year
        move = numpyro.sample("move", dist.Dirichlet(jnp.ones(number)))
    before = numpyro.sample("before", dist.Categorical(jnp.ones(number) / number))

    def year(state, count):
        state = numpyro.sample("state", dist.Categorical(move[state]))
        numpyro.sample("count", dist.Poisson(rate[state]), obs=count)
        return state, None

    scan(year, before, counts)


def smooth(counts, start, move, rate):
    """Log likelihood, probabilities of states, `(n, m)`, and expected transitions, `(m, m)`."""
    chance = poisson.pmf(counts[:, None], rate)
    ahead, behind, scale = np.empty_like(chance), np.ones_like(chance), np.empty(len(counts))
    for t in range(len(counts)):
        ahead[t] = (ahead[t - 1] @ move if t else start) * chance[t]
        scale[t] = ahead[t].sum()
        ahead[t] /= scale[t]
    for t in range(len(counts) - 1, 0, -1):
        behind[t - 1] = move @ (chance[t] * behind[t]) / scale[t]
    pairs = ahead[:-1].T @ ((chance * behind)[1:] / scale[1:, None]) * move
    return np.log(scale).sum(), ahead * behind, pairs


def maximum_likelihood(counts, number):
    """Rates, probabilities of states and log likelihood, by the Baum-Welch algorithm."""
    rate = np.quantile(counts, (np.arange(number) + 0.5) / number)
    start, move = np.full(number, 1 / number), 0.8 * np.eye(number) + 0.2 / number
    for _ in range(500):
        value, states, pairs = smooth(counts, start, move, rate)
        start, move = states[0], pairs / pairs.sum(1, keepdims=True)
        rate = states.T @ counts / states.sum(0)
    return rate, states, value


def main():
    short = options(__doc__).short
    year, counts = data["year"], data["earthquakes"]
    # the guide covers one of the m! orders of the states
    print(f"{'states':8} {'ELBO':>8} {'+ log m!':>9} {'AIC':>7}   of maximum likelihood")
    for m in (3,) if short else (2, 3, 4):
        fit = vijax.fit(model, counts, m, guide="conjugate", num_restarts=8)
        aic = 2 * (m * m + m - 1) - 2 * maximum_likelihood(counts, m)[2]
        print(f"{m:<8} {fit.elbo:8.2f} {fit.elbo + gammaln(m + 1):9.2f} {aic:7.1f}")
        if m == 3:
            posterior = fit
    print(f"\n{posterior.report()}\n")

    rate = posterior.sample(2000)["rate"]
    rate = rate[:, order := np.argsort(rate.mean(0))]
    likely, ml_states, _ = maximum_likelihood(counts, 3)
    print(f"{'rate of':8} {'mean':>6} {'sd':>5}   maximum likelihood")
    for k, name in enumerate(NAMES):
        print(f"{name:8} {rate[:, k].mean():6.2f} {rate[:, k].std():5.2f} {likely[k]:20.2f}")
    states = posterior.discrete_probs()["state"][:, order]
    same = states.argmax(1) == ml_states.argmax(1)
    print(f"{'same most probable state':34} {same.sum()} of {len(year)} years")

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.4, 4.8), layout="constrained", sharex=True, height_ratios=(2, 1)
    )
    above.bar(year, counts, color=[COLORS[k] for k in states.argmax(1)], alpha=0.5, width=1.0)
    above.step(year, states @ rate.mean(0), where="mid", color="black", label="mean rate")
    above.set(title="Quiet, usual and busy years", ylabel="earthquakes per year")
    below.stackplot(year, states.T, colors=COLORS, alpha=0.6, step="mid", labels=NAMES)
    above.legend(handles=[*above.lines, *below.collections], loc="upper right")
    below.set(ylim=(0, 1), xlim=(1899.5, 2006.5), ylabel="probability")
    save(figure, "hidden_markov")


if __name__ == "__main__":
    main()
