"""Say "I do not know": a classifier of tumors that defers some patients to a doctor.

A Bayesian network with one hidden layer gives the probability that a tumor is malignant
(Wolberg, Street and Mangasarian, 1995). The patients whose prediction has the largest entropy are
deferred, and of the others fewer are wrong: the curve of errors by the share that is deferred. How
many to defer is decided in two ways: by a share, or by conformal prediction, whose sets of
diagnoses contain the right one for 98 of 100 patients, whatever the network; who has both, or
none, in the set is deferred.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import BLUE, GREY, options, save
from flax import nnx
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import vijax
import vijax.plot


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(30, 20, rngs=rngs)
        self.out = nnx.Linear(20, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))[:, 0]


def model(x, malignant=None):
    net = vijax.nn.network("net", Net, prior=dist.Normal(0.0, 0.5))
    with numpyro.plate("patients", len(x)):
        numpyro.sample("malignant", dist.Bernoulli(logits=net(x)), obs=malignant)


def main():
    steps = 1500 if options(__doc__).short else 6000
    x, benign = load_breast_cancer(return_X_y=True)
    parts = train_test_split(x, 1 - benign, test_size=0.6, random_state=0, stratify=benign)
    x, x_test, y, y_test = parts
    x, x_test = (x - x.mean(0)) / x.std(0), (x_test - x.mean(0)) / x.std(0)
    posterior = vijax.fit(
        model, x, y, guide=vijax.guides.MeanField(noise="local"), num_steps=steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.02, steps)),
    )  # fmt: skip
    print(posterior.score(x_test, malignant=y_test))

    entropy = posterior.uncertainty(x_test).total
    wrong = (posterior.predict(x_test)["malignant"].mean(0) > 0.5) != y_test
    order = np.argsort(entropy)
    errors = np.cumsum(wrong[order])
    print(f"\n{'deferred':12} patients  errors among others")
    for share in (0.0, 0.05, 0.1, 0.2, 0.3):
        kept = round((1 - share) * len(order))
        print(f"{share:<12.0%} {len(order) - kept:8} {errors[kept - 1]:21}")
    half = len(x_test) // 2
    sets = vijax.conformal(posterior, x_test[:half], malignant=y_test[:half], level=0.98)
    unsure = sets.predict(x_test[half:]).sum(1) != 1
    row = f"{unsure.sum():8} {wrong[half:][~unsure].sum():21}"
    print(f"{'by 98% sets':12} {row}   of {len(unsure)} patients")

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    deferred = 1 - np.arange(1, len(order) + 1) / len(order)
    axes[0].plot(deferred, errors / np.arange(1, len(order) + 1), color=BLUE, label="by entropy")
    axes[0].axhline(wrong.mean(), ls="--", color=GREY, lw=0.8, label="at random")
    axes[0].set(title="The more are deferred, the fewer are wrong", xlabel="share deferred")
    axes[0].set(ylabel="share of the others that are wrong", xlim=(0, 0.6))
    axes[0].legend()
    vijax.plot.calibration(posterior, x_test, malignant=y_test, axes=axes[1])
    save(figure, "deferring_classifier")


if __name__ == "__main__":
    main()
