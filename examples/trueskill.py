"""Skills of football teams: TrueSkill by expectation propagation, on steps that no ELBO allows.

The 64 matches of the World Cup of 2022. A team shows a performance around its skill in a match; the
one that is ahead by more than a margin wins, else the match is drawn (Herbrich, Minka and Graepel,
2006). Such a likelihood is a step, zero on a part of the line. The answer is compared with that
of the model in which performances are integrated out, by expectation propagation and by NUTS.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, options, read, save
from jax.scipy.special import log_ndtr, ndtr

import vijax

matches = read("world_cup")
teams, index = np.unique([matches["first"], matches["second"]], return_inverse=True)
first, second = index.reshape(2, -1)
result = np.sign(matches["goals_first"] - matches["goals_second"])  # 1, 0 or -1
NOISE, MARGIN = 1.0, 0.35  # sd of a difference of performances, in sds of skill; of a draw
TEAMS, EP = len(teams), "expectation_propagation"
# color and label by number of matches
GROUPS = {3: (GREY, "group stage"), 4: ("#7fa8c9", "round 2"), 5: (BLUE, "round 3")}
GROUPS[7] = (ORANGE, "last four")


def steps(first, second, result, margin, noise, count, mean=0.0, sd=1.0):
    """The difference of performances in every match is latent, and its sign is certain."""
    with numpyro.plate("teams", count):
        skill = numpyro.sample("skill", dist.Normal(mean, sd))
    with numpyro.plate("matches", len(result)):
        ahead = numpyro.sample("ahead", dist.Normal(skill[first] - skill[second], noise))
    seen = jnp.where(result == 0, jnp.abs(ahead) < margin, result * ahead > margin)
    numpyro.factor("results", jnp.where(seen, 0.0, -jnp.inf))


def smooth(first, second, result, margin, noise, count):
    """The same model, with performances integrated out."""
    with numpyro.plate("teams", count):
        skill = numpyro.sample("skill", dist.Normal(0.0, 1.0))
    ahead = skill[first] - skill[second]
    draw = jnp.log(ndtr((margin - ahead) / noise) - ndtr((-margin - ahead) / noise))
    win = log_ndtr((result * ahead - margin) / noise)
    numpyro.factor("results", jnp.where(result == 0, draw, win))


def skills(posterior):
    """Mean and sd of each team, the first sites of a model."""
    return posterior.params.loc[:TEAMS], np.diag(posterior.covariance())[:TEAMS] ** 0.5


def main():
    options(__doc__)
    new = np.array([0]), np.array([1]), np.array([1]), np.array(0.7404669)
    prior = 25.0, np.hypot(25 / 3, 25 / 300)  # of two new players, the first of which wins
    mean, sd = skills(vijax.fit(steps, *new, 25 / 3 / 2**0.5, 2, *prior, algorithm=EP))
    print(f"{'one on one':26} {mean[0]:9.5f} {sd[0]:9.5f}   published: 29.39583, 7.17148\n")

    data = first, second, result, np.array(MARGIN)
    with_steps = vijax.fit(steps, *data, NOISE, TEAMS, algorithm=EP)
    posterior = vijax.fit(smooth, *data, NOISE, TEAMS, algorithm=EP)
    print(f"{with_steps.report().splitlines()[0]}, with steps")
    print(f"{posterior.report()}\n")
    (mean, sd), other = skills(posterior), skills(with_steps)
    chain = posterior.nuts(num_samples=4000, progress_bar=False).get_samples()["skill"]
    for name, (m, s) in (("steps", other), ("NUTS", (chain.mean(0), chain.std(0)))):
        error, ratio = np.abs((m - mean) / sd).max(), np.mean(s / sd)
        print(f"{f'largest error, {name}':26} {error:8.4f} sd, ratio of sds {ratio:6.4f}")
    for name, fit in (("", posterior), (", steps", with_steps)):
        print(f"{f'log evidence{name}':26} {fit.log_evidence(EP).value:8.4f}")
    order = np.argsort(-mean)
    print(f"\n{'team':16} {'skill':>6} {'sd':>6} {'NUTS':>6} {'sd':>6}  matches")
    for i in order[:8]:
        line = " ".join(f"{v[i]:6.2f}" for v in (mean, sd, chain.mean(0), chain.std(0)))
        print(f"{teams[i]:16} {line} {np.sum(index == i):8d}")
    a, b = posterior.sample(8000)["skill"][:, np.isin(teams, ["Argentina", "France"])].T
    print(f"{'Argentina better than France':30} {np.mean(a > b):6.2f}")

    played = np.bincount(index.ravel())
    figure, axes = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
    row = np.arange(TEAMS)
    for games, (color, label) in GROUPS.items():
        (shown,) = np.nonzero(played[order] == games)
        x, half = mean[order[shown]], 1.6 * sd[order[shown]]
        axes.errorbar(x, shown, xerr=half, fmt="o", ms=4, color=color, label=label)
    axes.plot(chain.mean(0)[order], row, "|", ms=8, color="black", label="mean by NUTS")
    axes.set_yticks(row, teams[order])
    axes.set(ylim=(TEAMS - 0.4, -0.6), xlabel="skill, 89 % interval")
    axes.set_title("64 matches leave skills uncertain")
    axes.axvline(0, color=GREY, lw=0.6, zorder=0)
    axes.legend(loc="upper left", title="reached")
    save(figure, "trueskill")


if __name__ == "__main__":
    main()
