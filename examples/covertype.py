"""Forest cover from maps: logistic regression on minibatches of a thousand rows.

Is a patch of Colorado covered by lodgepole pine? Ten measurements, four wilderness areas, forty
soil types (Blackard and Dean, 1999; UCI Covertype). The model is written for all rows; minibatches
need only `batch_size=`. Pass the file as `--data covtype100k.npz`, with arrays `x_num`,
`wilderness`, `soil` and `y`; without it data of the same shape are simulated.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, options, save

import vijax


def model(x, pine=None):
    weight = numpyro.sample("weight", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("patches", x.shape[0]):
        numpyro.sample("pine", dist.Bernoulli(logits=x @ weight), obs=pine)


def load(path, rows):
    """Standardized features with a constant first, and labels."""
    if path is None:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(rows, 54)).astype(np.float32)
        x = np.concatenate([np.ones((rows, 1), np.float32), x], axis=1)
        truth = rng.normal(size=55) * (rng.random(55) < 0.3)
        return x, rng.random(rows) < 1 / (1 + np.exp(-x @ truth))
    with np.load(path) as file:
        groups = [np.eye(4)[file["wilderness"]], np.eye(40)[file["soil"]]]
        mixed = np.random.default_rng(0).permutation(len(file["y"]))[
            :rows
        ]  # the file is sorted by area
        x = np.concatenate([file["x_num"], *groups], axis=1)[mixed]
        pine = file["y"][mixed] == 2
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-3)
    return np.concatenate([np.ones((len(x), 1)), x], axis=1).astype(np.float32), pine


def main():
    chosen = options(__doc__, data="covtype100k.npz")
    x, pine = load(chosen.data, 20_000 if chosen.short else 100_000)
    split = len(x) * 4 // 5
    steps = 1000 if chosen.short else 5000
    posterior = vijax.fit(model, x[:split], pine[:split], batch_size=1000, num_steps=steps)
    print(posterior.report().partition("\n\neffect of the corrections")[0])

    weight = posterior.sample(num_draws=500)["weight"]
    probability = (1 / (1 + np.exp(-x[split:] @ weight.T))).mean(1)
    truth = np.where(pine[split:], probability, 1 - probability)
    print(f"\n{'rows fitted':28} {split:8d}")
    print(f"{'held-out accuracy':28} {(truth > 0.5).mean():8.3f}")
    print(f"{'log density per row (nats)':28} {np.log(truth).mean():8.3f}")
    base = pine[:split].mean()
    base = np.where(pine[split:], base, 1 - base)
    print(f"{'without features':28} {np.log(base).mean():8.3f}")

    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    edges = np.linspace(0, 1, 11)
    group = np.clip(np.digitize(probability, edges) - 1, 0, 9)
    size = np.bincount(group, minlength=10)
    share = np.bincount(group, pine[split:], 10) / np.maximum(size, 1)
    middle = np.bincount(group, probability, 10) / np.maximum(size, 1)
    error = 2 * np.sqrt(share * (1 - share) / np.maximum(size, 1))
    some = size > 0
    axes.plot([0, 1], [0, 1], "--", color=GREY, lw=0.8)
    axes.errorbar(middle[some], share[some], yerr=error[some], fmt="o", ms=5, color=BLUE)
    axes.set(title="Calibration on held-out patches", xlabel="predicted probability of pine")
    axes.set_ylabel("share of pine (± 2 standard errors)")
    save(figure, "covertype")


if __name__ == "__main__":
    main()
