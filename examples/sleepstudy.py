"""Reaction times during sleep deprivation: correlated varying intercepts and slopes.

18 subjects were restricted to three hours of sleep per night for ten days; reaction times increase
by about 10 ms per day, for some much more (Belenky et al., 2003). The fit predicts the days of each
subject, and those of a new subject.
"""

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, read, save

import vijax

table = read("sleepstudy")
days = np.arange(10.0)
reaction = np.array([list(row)[1:] for row in table])  # (18 subjects, 10 days) in ms


def model(days, num_subjects, reaction=None, new_subject=False):
    mean = numpyro.sample(
        "mean", dist.Normal(jnp.array([250.0, 10.0]), jnp.array([100.0, 20.0])).to_event(1)
    )
    tau = numpyro.sample("tau", dist.LogNormal(jnp.array([3.0, 2.0]), 1.0).to_event(1))
    cholesky = numpyro.sample("cholesky", dist.LKJCholesky(2, concentration=2.0))
    noise = numpyro.sample("noise", dist.LogNormal(3.0, 1.0))
    numpyro.deterministic("correlation", cholesky[1, 0])  # of intercept and slope
    line = dist.MultivariateNormal(mean, scale_tril=tau[:, None] * cholesky)
    if new_subject:  # a site that is not in the fit is drawn from its prior given the global sites
        lines = numpyro.sample("new_line", line)[None]
    else:
        with numpyro.plate("subjects", num_subjects):
            lines = numpyro.sample("line", line)  # intercept in ms, slope in ms per day
    expected = lines[:, :1] + lines[:, 1:] * days
    numpyro.sample("reaction", dist.Normal(expected, noise).to_event(2), obs=reaction)


def main():
    posterior = vijax.fit(model, days, len(table), reaction)
    print(posterior.summary())
    print(f"\n{posterior.report()}\n")

    known = posterior.predict(days, len(table), rng_key=1, num_draws=4000)["reaction"]
    fresh = posterior.predict(days, len(table), rng_key=2, new_subject=True, num_draws=4000)[
        "reaction"
    ]
    for name, values in (("known", known), ("new", fresh)):
        width = np.subtract(*np.quantile(values[..., -1], [0.945, 0.055], axis=0)).mean()
        print(f"width of the 89 % interval on day 9, {name} subject: {width:.0f} ms")

    figure, axes = plt.subplots(
        3, 7, figsize=(11, 5.2), sharex=True, sharey=True, layout="constrained"
    )
    panels = axes[:, :6].ravel()
    for panel, values, times, row in zip(
        panels, known.transpose(1, 0, 2), reaction, table, strict=True
    ):
        band(panel, values, BLUE)
        panel.plot(days, times, "o", ms=3, color=ORANGE)
        panel.set_title(f"subject {row['subject']}", fontsize=8)
    for panel in axes[:, 6]:
        panel.set_visible(False)
    axes[2, 6].set_visible(True)
    band(axes[2, 6], fresh[:, 0], GREY)
    axes[2, 6].set_title("a new subject", fontsize=8)
    axes[0, 0].set(xticks=[0, 3, 6, 9], yticks=[200, 300, 400])
    figure.supxlabel("day of the study")
    figure.supylabel("reaction time (ms)")
    figure.suptitle("Measurements, predicted means and 89 % intervals")
    save(figure, "sleepstudy")


def band(axes, values, color):
    low, high = np.quantile(values, [0.055, 0.945], axis=0)
    axes.fill_between(days, low, high, color=color, alpha=0.25, lw=0)
    axes.plot(days, values.mean(0), color=color)


if __name__ == "__main__":
    main()
