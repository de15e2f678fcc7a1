"""Batting averages in 1970: predicting the rest of the season from 45 at-bats.

Efron and Morris (1975) showed with 18 players that averages shrunk towards their common mean
predict better than each player's average. Here the players' log odds have a common normal
distribution, whose standard deviation `tau` is estimated: zero would be complete pooling,
infinity no pooling.
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, read, save

import vijax

players = read("baseball")


def model(at_bats, hits=None):
    mu = numpyro.sample("mu", dist.Normal(-1.0, 1.0))  # log odds of a hit
    tau = numpyro.sample("tau", dist.HalfNormal(0.5))  # sd between players
    with numpyro.plate("players", len(at_bats)):
        log_odds = numpyro.sample("log_odds", dist.Normal(mu, tau))
        numpyro.deterministic("ability", jax.nn.sigmoid(log_odds))
        numpyro.sample("hits", dist.Binomial(at_bats, logits=log_odds), obs=hits)


def main():
    options(__doc__)
    at_bats = np.full(len(players), 45)
    posterior = vijax.fit(model, at_bats, players["hits"])
    print(posterior.summary())

    ability = posterior.sample(num_draws=4000)["ability"]
    early = players["hits"] / 45
    predictions = {
        "no pooling": early,
        "complete pooling": np.full(len(players), early.mean()),
        "partial pooling": ability.mean(0),
    }
    print(f"\n{'prediction':16} {'root mean square error for the rest of the season':>49}")
    for name, guess in predictions.items():
        error = np.sqrt(np.mean((guess - players["average"]) ** 2))
        print(f"{name:16} {error:49.4f}")

    season = posterior.predict(players["rest"], rng_key=1, num_draws=4000)["hits"] / players["rest"]
    low, high = np.quantile(season, [0.055, 0.945], axis=0)
    inside = (low <= players["average"]) & (players["average"] <= high)
    print(f"{'within 89 % interval':24} {inside.sum()} of {len(players)}")

    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    row = np.argsort(early)
    at = np.arange(len(players))
    axes.hlines(at, low[row], high[row], color=BLUE, lw=2, alpha=0.5, label="89 % prediction")
    axes.plot(ability.mean(0)[row], at, "o", ms=5, color=BLUE, label="partial pooling")
    axes.plot(early[row], at, "o", ms=4, mfc="none", color=GREY, label="first 45 at-bats")
    axes.plot(players["average"][row], at, "D", ms=4, color=ORANGE, label="rest of the season")
    axes.set(title="Early averages exaggerate", xlabel="batting average", yticks=at)
    axes.set_xlim(0.13, 0.48)
    axes.set_yticklabels(players["name"][row])
    axes.legend(loc="lower right")
    save(figure, "baseball")


if __name__ == "__main__":
    main()
