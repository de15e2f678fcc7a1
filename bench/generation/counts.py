"""Counts of single cells: scVI's autoencoder, beside scvi-tools with the same settings.

559 cells by 32,786 genes, of which 6 % are not zero: the sample of celltypist, in the environment
of the peers or named by `--counts`. One hidden layer of 128 units, ten latents, dropout of 0.1 in
the encoder, batch normalization in both networks, zero-inflated negative binomial counts with the
cell's total as its library size, batches of 128. Nine of ten cells are fitted, of the others the
bound is compared. Rows are sparse; they become dense on the device, where the encoder meets them,
and gammas are computed where counts are not zero. Source: Deep Generative Modeling for Single-Cell
Transcriptomics, Lopez, Regier, Cole, Jordan and Yosef, 2018.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from jax.scipy.special import gammaln
from numpyro.distributions import constraints

import vijax
from bench.conjugacy import peers

_LATENT, _HIDDEN, _BATCH, _RATE, _DROPOUT = 10, 128, 128, 1e-3, 0.1
_EPOCHS, _DRAWS = 40, 20
_NORM = {"momentum": 0.99, "epsilon": 1e-3}
_FIND = "import celltypist, os; print(os.path.dirname(celltypist.__file__))"


class Cells(NamedTuple):
    """Counts that are not zero, padded with the gene `num_genes` and zeros.

    Attributes:
        genes: `(cells, most)`.
        counts: `(cells, most)`.
    """

    genes: np.ndarray
    counts: np.ndarray


def counts(options: argparse.Namespace) -> list[dict[str, Any]]:
    dense = _read(options.counts)
    if dense is None:
        print(f"counts: no celltypist in the environment of {peers.INTERPRETER}; --counts FILE")
        return [{"library": "skipped"}]
    test = np.arange(len(dense)) % 10 == 0
    epochs = round(_EPOCHS * options.length)
    arrays = {"train": dense[~test], "test": dense[test]}
    rows = [{"library": "vijax", **_ours(arrays, epochs)}]
    print(rows[-1], flush=True)
    try:
        rows.append({"library": "scvi-tools", **_theirs(arrays, epochs)})
    except peers.Skipped as reason:
        rows.append({"library": "scvi-tools", "bound of a cell": str(reason)})
    return rows


def _read(path: Path | None) -> np.ndarray | None:
    """Counts `(cells, genes)`."""
    if path is None:
        python = os.environ.get(peers.INTERPRETER, sys.executable)
        found = subprocess.run(
            [python, "-W", "ignore", "-c", _FIND], capture_output=True, text=True
        )
        if found.returncode != 0:
            return None
        path = Path(found.stdout.split()[-1]) / "data/samples/sample_cell_by_gene.csv"
    with path.open() as file:
        columns = range(1, file.readline().count(",") + 1)
        return np.round(np.loadtxt(file, delimiter=",", usecols=columns)).astype(np.int32)


def _ours(arrays: dict[str, np.ndarray], epochs: int) -> dict[str, Any]:
    train, test = (_sparse(arrays[part]) for part in ("train", "test"))
    num_genes = arrays["train"].shape[1]
    model = scvi(num_genes)
    guide = vijax.guides.Amortized(functools.partial(Encoder, num_genes), Cells._fields)
    per_epoch = len(train.genes) / _BATCH
    marks: list[tuple[float, ...]] = []

    def mark(state: Any, losses: Any, step: int) -> None:
        marks.append((step, time.perf_counter(), time.process_time()))

    posterior = vijax.fit(
        model,
        *train,
        guide=guide,
        batch_size=_BATCH,
        num_steps=round(epochs * per_epoch),
        optimizer=optax.chain(optax.scale(1 / len(train.genes)), optax.adam(_RATE, eps=0.01)),
        callbacks=[mark],
        progress_bar=False,
    )
    steps, seconds, processor = np.subtract(marks[-1], marks[0])  # after compilation
    bound = posterior.log_evidence_rows(*test, num_draws=1)
    return _row(bound.mean, seconds / steps * per_epoch, processor / steps * per_epoch, epochs)


def _theirs(arrays: dict[str, np.ndarray], epochs: int) -> dict[str, Any]:
    found = peers.run("scvi", arrays, after=(epochs,), folder=Path(__file__).parent)
    return _row(found["bound"], found["seconds"], found["processor"], epochs)


def _row(bound: float, seconds: float, processor: float, epochs: int) -> dict[str, Any]:
    return {
        "bound of a cell": f"{bound:.1f}",
        "seconds an epoch": f"{seconds:.2f}",
        "processor seconds": f"{processor:.2f}",
        "epochs": epochs,
    }


def _sparse(dense: np.ndarray) -> Cells:
    most = int((dense > 0).sum(axis=1).max())
    genes = np.full((len(dense), most), dense.shape[1], np.int32)
    values = np.zeros((len(dense), most), np.float32)
    for cell, row in enumerate(dense):
        (found,) = np.nonzero(row)
        genes[cell, : len(found)], values[cell, : len(found)] = found, row[found]
    return Cells(genes, values)


class Layer(nnx.Module):
    """Linear, batch normalization, rectified linear units, dropout."""

    def __init__(self, inputs: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.linear = nnx.Linear(inputs, _HIDDEN, rngs=rngs)
        self.norm = nnx.BatchNorm(_HIDDEN, **_NORM, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(nnx.relu(self.norm(self.linear(x))))


class Encoder(nnx.Module):
    """From sparse counts to locations and log scales."""

    def __init__(self, num_genes: int, rngs: nnx.Rngs) -> None:
        self.layer = Layer(num_genes, _DROPOUT, rngs)
        self.out = nnx.Linear(_HIDDEN, 2 * _LATENT, rngs=rngs)
        self.num_genes = num_genes

    def __call__(self, genes: jax.Array, values: jax.Array) -> jax.Array:
        rows = jnp.arange(len(genes))[:, None]
        dense = jnp.zeros((len(genes), self.num_genes), values.dtype)
        return self.out(self.layer(dense.at[rows, genes].set(jnp.log1p(values), mode="drop")))


class Decoder(nnx.Module):
    """From latents to log shares of genes, and logits of dropout."""

    def __init__(self, num_genes: int, rngs: nnx.Rngs) -> None:
        self.layer = Layer(_LATENT, 0.0, rngs)
        self.shares = nnx.Linear(_HIDDEN, num_genes, rngs=rngs)
        self.gates = nnx.Linear(_HIDDEN, num_genes, rngs=rngs)

    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = self.layer(z)
        return jax.nn.log_softmax(self.shares(h)), self.gates(h)


class SparseCounts(dist.Distribution):
    """Zero-inflated negative binomial counts of all genes, known by those that are not zero."""

    arg_constraints = {"genes": constraints.dependent, "log_mean": constraints.real_vector}
    support = constraints.independent(constraints.nonnegative, 1)
    pytree_data_fields = ("genes", "log_mean", "log_theta", "gates")

    def __init__(
        self, genes: jax.Array, log_mean: jax.Array, log_theta: jax.Array, gates: jax.Array
    ) -> None:
        self.genes, self.log_mean, self.log_theta, self.gates = genes, log_mean, log_theta, gates
        super().__init__(jnp.shape(genes)[:-1], jnp.shape(genes)[-1:], validate_args=False)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """The zeros of all genes, less those of genes whose counts are not zero."""
        zeros = _zero(self.log_mean, self.log_theta, self.gates)[0].sum(axis=-1)

        def at(x: jax.Array) -> jax.Array:
            return jnp.take_along_axis(x, self.genes, axis=-1, mode="clip")

        log_mean, gates = at(self.log_mean), at(self.gates)
        log_theta = jnp.take(self.log_theta, self.genes, mode="clip")
        zero, none, log_total = _zero(log_mean, log_theta, gates)
        theta = jnp.exp(log_theta)
        gammas = gammaln(value + theta) - gammaln(theta) - gammaln(value + 1)
        positive = value * (log_mean - log_total) + none + gammas - jax.nn.softplus(gates)
        return zeros + jnp.where(value > 0, positive - zero, 0.0).sum(axis=-1)


def _zero(
    log_mean: jax.Array, log_theta: jax.Array, gates: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log probability of a zero, that without zero inflation, and log of mean plus dispersion.

    By exponentials and logarithms, which take a third of the time of softplus.
    """
    theta, odds = jnp.exp(log_theta), jnp.exp(jnp.clip(gates, -30.0, 30.0))
    log_total = jnp.log(jnp.exp(log_mean) + theta)
    none = theta * (log_theta - log_total)
    return jnp.log((odds + jnp.exp(none)) / (odds + 1)), none, log_total


def scvi(num_genes: int) -> Callable[[jax.Array, jax.Array], None]:
    factory = functools.partial(Decoder, num_genes)  # once: its structure is remembered

    def model(genes: jax.Array, counts: jax.Array) -> None:
        decoder = vijax.nn.network("decoder", factory, prior=None)
        log_theta = numpyro.param("log_theta", jax.random.normal(jax.random.key(1), (num_genes,)))
        with numpyro.plate("cells", len(genes)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([_LATENT]).to_event(1))
            log_shares, gates = decoder(z)
            log_mean = log_shares + jnp.log(counts.sum(axis=1, keepdims=True))
            numpyro.sample("x", SparseCounts(genes, log_mean, log_theta, gates), obs=counts)

    return model
