"""Which of 64 terms matter? The horseshoe prior shrinks small coefficients, not large ones.

Progression of diabetes in 442 patients (Efron, Hastie, Johnstone and Tibshirani, 2004): ten
measurements, their squares and products. Each coefficient has a heavy-tailed local scale times a
global one (Carvalho, Polson and Scott, 2010), in the regularized form of Piironen and Vehtari
(2017). The terms s1 to s4 are nearly collinear, so the data do not determine which of them matters.
"""

import itertools

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import BLUE, GREY, options, save
from sklearn.datasets import load_diabetes

import vijax

EXPECTED = 8  # prior guess of the number of relevant terms
SLAB = 1.0  # scale of large coefficients, in sds of the response


def model(x, y=None):
    rows, columns = x.shape
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    typical = EXPECTED / (columns - EXPECTED) / rows**0.5
    shared = numpyro.sample("shared", dist.HalfCauchy(typical))  # global scale
    with numpyro.plate("terms", columns):
        local = numpyro.sample("local", dist.HalfCauchy(1.0))
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
    scale = shared * local
    weight = numpyro.deterministic("weight", raw * scale * SLAB / jnp.hypot(scale, SLAB))
    with numpyro.plate("patients", rows):
        numpyro.sample("y", dist.Normal(x @ weight, noise), obs=y)


def load(short):
    """Standardized terms, their names, and the standardized response."""
    data = load_diabetes()
    x, names = data.data / data.data.std(0), list(data.feature_names)
    if not short:
        pairs = itertools.combinations_with_replacement(range(10), 2)
        pairs = [(i, j) for i, j in pairs if not i == j == 1]  # sex is binary: no square
        x = np.concatenate([x, np.stack([x[:, i] * x[:, j] for i, j in pairs], 1)], axis=1)
        names += [f"{names[i]} x {names[j]}" for i, j in pairs]
    x = (x - x.mean(0)) / x.std(0)
    return x, names, (data.target - data.target.mean()) / data.target.std()


def main():
    short = options(__doc__).short
    x, names, y = load(short)
    posterior = vijax.fit(model, x, y, guide="fullrank" if short else "auto")
    print(posterior.report())

    weight = posterior.sample(num_draws=4000)["weight"]
    low, mid, high = np.quantile(weight, [0.055, 0.5, 0.945], axis=0)
    squares = np.linalg.lstsq(x, y, rcond=None)[0]
    order = np.argsort(-np.abs(weight.mean(0)))[:12]
    print(f"\n{'term':12} {'mean':>6} {'sd':>6} {'least squares':>14}   largest first")
    for i in order[:8]:
        print(
            f"{names[i]:12} {weight[:, i].mean():6.3f} {weight[:, i].std():6.3f} {squares[i]:14.3f}"
        )
    clear = (low > 0) | (high < 0)
    print(f"{'89 % interval excludes 0':28} {clear.sum()} of {len(names)}")

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    row = np.arange(len(order))
    axes.hlines(row, low[order], high[order], color=BLUE, lw=2, label="horseshoe, 89 % interval")
    axes.plot(mid[order], row, "o", ms=5, color=BLUE)
    axes.plot(squares[order], row, "o", ms=5, mfc="none", color=GREY, label="least squares")
    axes.axvline(0, color=GREY, lw=0.6, zorder=0)
    axes.set(title="Few terms stand out", yticks=row, ylim=(len(row) - 0.5, -0.5))
    axes.set_yticklabels([names[i] for i in order])
    axes.set_xlabel("coefficient (sds of the response per sd of the term)")
    axes.legend(loc="center left")
    save(figure, "horseshoe")


if __name__ == "__main__":
    main()
