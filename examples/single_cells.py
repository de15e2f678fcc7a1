"""Counts of single cells: an autoencoder that keeps types of cells and leaves out batches.

Simulated counts of 80 genes in 1,500 cells of five types, in two batches that differ in their
depth and in the level of every gene; some counts are lost. The model is that of scVI (Lopez et al.,
2018): latents of a cell, a network to its shares of genes that knows the batch, zero-inflated
negative binomial counts given the cell's total. The encoder has dropout and batch normalization.
Given the batch, latents need not say it: neighbors in the latent plane are of the same type and of
either batch, which neighbors in the plane of the counts' principal components are not.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from common import BLUE, GREY, ORANGE, options, save
from flax import nnx

import vijax

GENES, TYPES, UNITS = 80, 5, 2
COLORS = [BLUE, ORANGE, GREY, "#2e8b57", "#b03a5b"]


def simulate(rng, cells=1500):
    """Counts, totals, and the type and the batch of each cell."""
    kind, batch = rng.integers(0, TYPES, cells), rng.integers(0, 2, cells)
    levels = rng.normal(0.0, 1.0, GENES) + rng.normal(0.0, 0.9, (TYPES, GENES))
    logits = levels[kind] + rng.normal(0.0, 0.8, (2, GENES))[batch]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    depth = rng.lognormal(np.log([400.0, 900.0])[batch], 0.4)
    counts = rng.poisson(rng.gamma(3.0, depth[:, None] * shares / 3.0))
    counts *= rng.random(counts.shape) > 0.15  # counts that are lost
    return counts.astype(np.int32), kind, batch


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(GENES + 2, 64, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(64, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(64, 2 * UNITS, rngs=rngs)

    def __call__(self, counts, batch):
        inputs = jnp.concatenate([jnp.log1p(counts), jax.nn.one_hot(batch, 2)], axis=1)
        return self.last(self.dropout(nnx.relu(self.norm(self.first(inputs)))))


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(UNITS + 2, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.shares, self.lost = (nnx.Linear(64, GENES, rngs=rngs) for _ in range(2))

    def __call__(self, z, batch):
        inputs = jnp.concatenate([z, jax.nn.one_hot(batch, 2)], axis=1)
        h = nnx.relu(self.norm(self.first(inputs)))
        return jax.nn.softmax(self.shares(h)), self.lost(h)


def model(counts, batch):
    decoder = vijax.nn.network("decoder", Decoder, prior=None)
    dispersion = numpyro.param("dispersion", jnp.ones(GENES), constraint=dist.constraints.positive)
    with numpyro.plate("cells", len(counts)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([UNITS]).to_event(1))
        shares, lost = decoder(z, batch)
        mean = counts.sum(axis=1, keepdims=True) * shares
        noise = dist.ZeroInflatedNegativeBinomial2(mean, dispersion, gate_logits=lost)
        numpyro.sample("counts", noise.to_event(1), obs=counts)


def neighbors(points, labels, number=15):
    """The share of a cell's neighbors that have its label."""
    distances = np.sum((points[:, None] - points) ** 2, axis=-1)
    nearest = np.argsort(distances, axis=1)[:, 1 : number + 1]
    return np.mean(labels[nearest] == labels[:, None])


def principal_components(counts):
    logs = np.log1p(1e3 * counts / counts.sum(axis=1, keepdims=True))
    left, scales, _ = np.linalg.svd(logs - logs.mean(axis=0), full_matrices=False)
    return left[:, :UNITS] * scales[:UNITS]


def main():
    steps = 400 if options(__doc__).short else 1000
    counts, kind, batch = simulate(np.random.default_rng(3))
    posterior = vijax.fit(
        model,
        counts,
        batch,
        guide=vijax.guides.Amortized(Encoder, ("counts", "batch")),
        batch_size=128,
        num_steps=steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(1e-2, steps)),
    )
    print(f"log density of a cell: {posterior.log_evidence_rows(num_draws=50).mean:.1f} nats")
    z = posterior.sample(50, rng_key=1)["z"].mean(axis=0)
    planes = {"principal components": principal_components(counts), "latents": z}
    print("neighbors of the same    type  batch")
    for name, points in planes.items():
        shares = [neighbors(points, labels) for labels in (kind, batch)]
        print(f"{name:22}" + "".join(f"{share:7.2f}" for share in shares))
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.1), layout="constrained")
    for pair, (name, points) in zip(axes.reshape(2, 2), planes.items(), strict=True):
        for axis, (what, labels) in zip(pair, {"type": kind, "batch": batch}.items(), strict=True):
            colors = np.array(COLORS)[labels]
            axis.scatter(*points.T, s=3, c=colors, alpha=0.6)
            axis.set(title=f"{name.capitalize()}, by {what}", xticks=[], yticks=[])
    save(figure, "single_cells")


if __name__ == "__main__":
    main()
