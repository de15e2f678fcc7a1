"""A diffusion model of points on a checkerboard: a bound on their log density, and the density.

The network learns the noise in noisy points (Kingma et al., Variational Diffusion Models, 2021).
Points are drawn by 250 random steps, or by 20 of the ordinary differential equation with the same
marginal distributions, which has a density, too: here on a grid. The log density of the points is
known, minus log 2, so that the bound and the density can be judged on points that the fit has not
seen. At the edges of squares the density has to fall at once, which takes the network longest.
"""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import optax
from common import BLUE, GREY, ORANGE, options, save

import vijax


def checkerboard(num, seed):
    """Uniform points on eight of sixteen squares in [-1, 1]^2, whose area is two."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, 4, num), 2 * rng.integers(0, 2, num)
    corners = np.stack([column + row % 2, row], axis=1)
    return ((corners + rng.uniform(size=(num, 2))) / 2 - 1).astype(np.float32)


def network(rngs):
    return vijax.nn.MLP(2, width=128, powers=range(4), rngs=rngs)


def model(x):
    noise = vijax.nn.network("noise", network, prior=None)
    with numpyro.plate("points", len(x)):
        vijax.nn.diffusion("x", noise, x, log_snr=(8.0, -6.0))


def main():
    steps = 1000 if options(__doc__).short else 4000
    train, test = checkerboard(20_000, 0), checkerboard(2000, 1)
    rate = optax.cosine_decay_schedule(2e-3, steps)
    posterior = vijax.fit(model, train, batch_size=256, num_steps=steps, optimizer=optax.adam(rate))
    table = posterior.bound(test, num_draws=64, ode_steps=30)
    print(f"{'log density of new points, exact':34} {-np.log(2):6.3f}")
    for name in ("bound", "log density by the ODE"):
        print(f"{name:34} {table['value'][name]:6.3f} ± {table['se'][name]:.3f}")
    drawn = {
        f"{len(test):,} new points": (test, GREY),
        "Drawn by 250 random steps": (posterior.generate(num_rows=2000), BLUE),
        "By 20 steps of the ODE": (
            posterior.generate(num_rows=2000, num_steps=20, method="ode"),
            ORANGE,
        ),
    }
    for title, (points, _) in drawn.items():
        print(f"{title + ', inside of squares':50} {np.mean(inside(points)):.3f}")
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained", sharey=True)
    for axis, (title, (points, color)) in zip(axes, drawn.items(), strict=False):
        axis.plot(*points.T, ".", ms=2, color=color, alpha=0.5)
        axis.set(title=title)
    draw_density(figure, axes[3], posterior)
    for axis in axes:
        axis.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal", xticks=(-1, 0, 1))
        axis.set(yticks=(-1, 0, 1))
    save(figure, "diffusion")


def inside(points):
    """Whether points are on one of the squares."""
    row, column = np.floor(2 * (points[:, 1] + 1)), np.floor(2 * (points[:, 0] + 1))
    return np.all(np.abs(points) < 1, axis=1) & ((row + column) % 2 == 0)


def draw_density(figure, axis, posterior):
    line = np.linspace(-1.25, 1.25, 61, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    by_row = posterior.bound(grid, num_draws=1, ode_steps=30, by_row=True)
    density = np.exp(by_row["log density by the ODE"].to_numpy()).reshape(61, 61)
    image = axis.imshow(density, origin="lower", extent=(-1.25, 1.25) * 2, cmap="Blues", vmax=1)
    axis.set(title="Density by the ODE (exact: 0.5)")
    figure.colorbar(image, ax=axis, shrink=0.8)


if __name__ == "__main__":
    main()
