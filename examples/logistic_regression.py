"""Logistic regression with uncertainty: malignant or benign tumors of held-out patients.

Each test patient gets a probability with an interval. Calibration is checked by group: of the
patients with a predicted probability of about 30 %, were 30 % malignant?
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, ORANGE, save
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import vijax


def model(x, malignant=None):
    offset = numpyro.sample("offset", dist.Normal(0.0, 5.0))
    weight = numpyro.sample("weight", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    logit = offset + x @ weight
    numpyro.deterministic("probability", jax.nn.sigmoid(logit))
    with numpyro.plate("patients", len(x)):
        numpyro.sample("malignant", dist.Bernoulli(logits=logit), obs=malignant)


def load():
    """Standardized features and labels, split in halves for fit and test."""
    x, benign = load_breast_cancer(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, 1 - benign, test_size=0.5, random_state=0)
    mean, sd = x.mean(0), x.std(0)
    return (x - mean) / sd, (x_test - mean) / sd, y, y_test


def main():
    x, x_test, y, y_test = load()
    posterior = vijax.fit(model, x, y)
    print(f"{posterior.report()}\n")

    draws = posterior.predict(x_test, rng_key=1, num_draws=2000)["probability"]
    probability = draws.mean(0)
    low, high = np.quantile(draws, [0.055, 0.945], axis=0)
    truth = np.where(y_test == 1, probability, 1 - probability)
    right = (probability > 0.5) == y_test
    sure = (low > 0.5) | (high < 0.5)
    print(f"{'held-out patients':32} {len(y_test):6d}")
    print(f"{'accuracy':32} {right.mean():6.3f}")
    print(f"{'mean log probability (nats)':32} {np.log(truth).mean():6.3f}")
    print(f"{'interval excludes 1/2':32} {sure.mean():6.3f}")
    print(f"{'accuracy, interval excludes 1/2':32} {right[sure].mean():6.3f}")
    print(f"{'accuracy, interval includes 1/2':32} {right[~sure].mean():6.3f}")

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    order = np.argsort(probability)
    rank = np.arange(len(order))
    axes[0].vlines(
        rank, low[order], high[order], color=GREY, alpha=0.45, lw=1, label="89 % interval"
    )
    for label, color, name in ((0, BLUE, "benign"), (1, ORANGE, "malignant")):
        shown = y_test[order] == label
        axes[0].plot(rank[shown], probability[order][shown], "o", ms=3, color=color, label=name)
    axes[0].set(title="Held-out patients", xlabel="patients, by probability")
    axes[0].set_ylabel("probability of a malignant tumor")
    axes[0].legend(loc="upper left")

    edges = np.array([0, 0.05, 0.3, 0.7, 0.95, 1])
    group = np.digitize(probability, edges[1:-1])
    axes[1].plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
    for g in np.unique(group):
        members = y_test[group == g]
        mean = members.mean()
        se = np.sqrt((mean * (1 - mean) + 0.25 / len(members)) / len(members))
        axes[1].errorbar(
            probability[group == g].mean(), mean, yerr=se, fmt="o", ms=5, color=BLUE, lw=1.2
        )
        text = f"{len(members)}"
        axes[1].annotate(
            text, (probability[group == g].mean(), mean), (6, -10), textcoords="offset points"
        )
    axes[1].set(title="Calibration, with patients per group", xlabel="mean predicted probability")
    axes[1].set_ylabel("share malignant (± 1 standard error)")
    save(figure, "logistic_regression")


if __name__ == "__main__":
    main()
