"""Imputation of missing pixels by low-rank matrix factorization.

Handwritten digits are rows of 64 pixels (scikit-learn's `load_digits`). A fifth of all pixels is
hidden. Each digit is a weighted sum of a few patterns; weights and patterns are unknown, and their
product predicts the hidden pixels. The factors are identified only up to rotation, so a mean-field
guide with thirty thousand coordinates cannot fit their posterior, as the status shows. The product
is identified: its predictions of the hidden pixels are accurate, with slightly too narrow
intervals.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from common import GREY, options, save
from sklearn.datasets import load_digits

import vijax


def model(pixels, seen, patterns):
    rows, columns = pixels.shape
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    size = numpyro.sample("size", dist.HalfNormal(1.0).expand([patterns]).to_event(1))
    normal = dist.Normal(0.0, 1.0)
    weight = numpyro.sample("weight", normal.expand([rows, patterns]).to_event(2))
    pattern = numpyro.sample("pattern", normal.expand([patterns, columns]).to_event(2))
    mean = (weight * size) @ pattern
    numpyro.sample("pixels", dist.Normal(mean, noise).mask(seen).to_event(2), obs=pixels)


def main():
    short = options(__doc__).short
    digits = load_digits().data[: 400 if short else None]
    seen = np.random.default_rng(0).random(digits.shape) > 0.2
    average = np.average(digits, axis=0, weights=seen)  # of the visible pixels
    scale = (digits - average)[seen].std()
    pixels = ((digits - average) / scale).astype(np.float32)
    shown = np.where(seen, pixels, 0.0).astype(np.float32)
    patterns, steps = (8, 2000) if short else (16, 8000)
    posterior = vijax.fit(model, shown, seen, patterns, guide="meanfield", num_steps=steps)
    print(posterior.report().partition("\n\neffect of the corrections")[0])

    draws = posterior.sample(num_draws=200)
    products = np.einsum(
        "sip,sp,spj->sij", draws["weight"], draws["size"], draws["pattern"], optimize=True
    )
    mean = products.mean(0)
    sd = np.sqrt(products.var(0) + (draws["noise"] ** 2).mean())
    error = (pixels - mean)[~seen]
    within = np.abs(error) < 1.6 * sd[~seen]  # 89 % of a normal
    print(f"\n{'hidden pixels':28} {(~seen).sum():8d}")
    print(f"{'mean of each pixel, rmse':28} {scale * np.sqrt((pixels[~seen] ** 2).mean()):8.2f}")
    print(
        f"{'factorization, rmse':28} {scale * np.sqrt((error**2).mean()):8.2f}  of 16 grey levels"
    )
    print(f"{'within 89 % interval':28} {within.mean():8.3f}")

    figure, axes = plt.subplots(3, 8, figsize=(7.5, 3.2), layout="constrained")
    rows = (pixels, np.where(seen, pixels, np.nan), np.where(seen, pixels, mean))
    for line, (name, values) in zip(
        axes, zip(("true", "visible", "imputed"), rows, strict=True), strict=True
    ):
        line[0].set_ylabel(name)
        for i, panel in enumerate(line):
            picture = (values[i] * scale + average).reshape(8, 8)
            panel.imshow(np.ma.masked_invalid(picture), cmap="Greys", vmin=0, vmax=16)
            panel.set(xticks=[], yticks=[], facecolor="#f2d8c6")
            panel.spines[:].set_color(GREY)
    figure.suptitle("Imputation of a fifth of the pixels", x=0.02, ha="left")
    save(figure, "matrix_factorization")


if __name__ == "__main__":
    main()
