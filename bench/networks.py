"""Bayesian neural networks: variance of gradients, seconds of a step, regression of the UCI sets.

    python -m bench networks FOLDER [--splits 20] [--only variance steps uci]

The folder has `uci/NAME.npz` with inputs, targets and the twenty splits of Hernandez-Lobato and
Adams (2015). One hidden layer of 50 units, as in the literature.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from flax import nnx
from sklearn.datasets import load_digits

import vijax
from bench import _report
from vijax.algorithms import IVON
from vijax.contracts import Batch, LossContext, Variables
from vijax.guides import MeanField
from vijax.model import build, split
from vijax.objectives import ELBO

NOISES = ("shared", "flipout", "local")
SIZES = (784, 400, 400, 10)
ROWS, _DRAWS = 128, 200
# negative log likelihood in the target's unit: mean field, the lower of dropout (2018) and of ten
# networks or other posteriors
PUBLISHED = {
    "yacht": (2.01, 0.73),
    "energy": (0.93, 0.61),
    "concrete": (3.22, 2.93),
    "wine-red": (1.00, 0.93),
    "kin8nm": (-1.03, -1.28),
    "power": (2.85, 2.77),
}
_STEPS, _BATCH = 5000, 500


class Classifier(nnx.Module):
    """Dense layers with rectifiers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        pairs = itertools.pairwise(SIZES)
        self.layers = nnx.List([nnx.Linear(*sizes, rngs=rngs) for sizes in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class Regressor(nnx.Module):
    """One hidden layer of 50 units."""

    def __init__(self, inputs: int, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(inputs, 50, rngs=rngs)
        self.out = nnx.Linear(50, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(x)))[:, 0]


def classifier(x: jax.Array, y: jax.Array | None = None) -> None:
    net = vijax.nn.network("net", Classifier)
    with numpyro.plate("rows", 60_000, subsample_size=x.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=net(x)), obs=y)


def regression(factory: Any, x: jax.Array, y: jax.Array | None = None) -> None:
    """Scales of the priors of both layers are learned."""
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
    prior = {"hidden/*": dist.Normal(0, scale[0]), "out/*": dist.Normal(0, scale[1] / 50**0.5)}
    net = vijax.nn.network("net", factory, prior=prior)
    noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(net(x), noise), obs=y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with uci/NAME.npz")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=list(SECTIONS))
    options = parser.parse_args()
    found = _report.stored("networks") if set(options.only) < set(SECTIONS) else {}
    for name in options.only:
        found[name] = SECTIONS[name](options)
        _report.table(tuple(found[name][0]), [tuple(row.values()) for row in found[name]])
    _report.save("networks", found)


def _loss(noise: str) -> Any:
    """The loss of one draw on one batch as a function of parameters and a key, and parameters."""
    digits = load_digits()  # 8 x 8, enlarged
    images = np.repeat(np.repeat(digits.images[:ROWS] / 16, 3, axis=1), 3, axis=2)
    x = np.pad(images, ((0, 0), (2, 2), (2, 2))).reshape(ROWS, -1).astype(np.float32)
    arguments, data = split(classifier, (x, digits.target[:ROWS]), {})
    target, guide = build(classifier, arguments), MeanField(noise=noise)
    start = target.starts(jax.random.key(0), Batch(data))
    params = guide.init(jax.random.key(1), target.space, start)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        context = LossContext({}, key, target, guide, Batch(data), jnp.zeros(()))
        return ELBO()(Variables(params), context)[0]

    return loss, params


def variance(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of the gradient in the means, over a layer's weights, relative to that of shared draws."""
    found = {}
    for noise in NOISES:
        loss, params = _loss(noise)
        gradient = jax.jit(jax.grad(loss))
        moments: Any = None
        for i in range(_DRAWS):
            of_loc = gradient(params, jax.random.key(i)).loc
            now = jax.tree.map(lambda g: np.stack([g, g**2]).astype(np.float64), of_loc)
            moments = now if moments is None else jax.tree.map(np.add, moments, now)
        found[noise] = {
            name: float(np.sum(m[1] / _DRAWS - (m[0] / _DRAWS) ** 2))
            for name, m in moments.items()
            if "kernel" in name
        }
    rows = [{"layer": name} for name in found["shared"]]
    for row in rows:
        for noise in NOISES:
            ratio = found[noise][row["layer"]] / found["shared"][row["layer"]]
            row[noise] = f"{ratio:.3f}"
    return rows


def steps(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of a loss with its gradient, and relative to two of the network itself."""
    losses = {noise: _loss(noise) for noise in NOISES}
    programs = {noise: jax.jit(jax.value_and_grad(loss)) for noise, (loss, _) in losses.items()}
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(ROWS, SIZES[0])), jnp.float32)
    graph, state = nnx.split(Classifier(nnx.Rngs(0)))

    @jax.jit
    def plain(state: Any) -> Any:
        return jax.value_and_grad(lambda s: nnx.merge(graph, s)(x).sum())(state)

    calls = {n: functools.partial(p, losses[n][1], jax.random.key(0)) for n, p in programs.items()}
    calls["the network, twice"] = lambda: (plain(state), plain(state))
    candidates = {n: lambda c=c: jax.block_until_ready(c()) for n, c in calls.items()}
    for call in candidates.values():
        call()
    seconds = _report.interleaved(candidates, 60)
    twice = seconds["the network, twice"]
    return [
        {
            "noise": name,
            "milliseconds": f"{1e3 * np.median(values):.2f}",
            "relative to two passes": str(_report.ratios(values, twice)),
        }
        for name, values in seconds.items()
    ]


def uci(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Negative log likelihood of test rows."""
    rows = []
    for name, (mean_field, best) in PUBLISHED.items():
        data = np.load(options.folder / "uci" / f"{name}.npz")
        row: dict[str, Any] = {"set": name}
        for method in ("local", "ivon"):
            start = time.process_time()
            model = functools.partial(regression, functools.partial(Regressor, data["x"].shape[1]))
            scores = [_score(model, data, i, method) for i in range(options.splits)]
            error = np.std(scores, ddof=1) / len(scores) ** 0.5 if len(scores) > 1 else np.nan
            row[method] = f"{np.mean(scores):.2f} +- {error:.2f}"
            row[f"{method}, processor s"] = f"{time.process_time() - start:.0f}"
        rows.append(row | {"published mean field": mean_field, "published best": best})
        print(rows[-1], flush=True)
    return rows


def _score(model: Any, data: Any, number: int, method: str) -> float:
    """Negative log likelihood of the test rows of one split, in the target's unit."""
    train, test = data["train_idx"][number], data["test_idx"][number]
    x, y = data["x"][train], data["y"][train]
    loc, scale = x.mean(0), x.std(0) + 1e-9
    inputs = ((data["x"] - loc) / scale).astype(np.float32)
    outcomes = ((data["y"] - y.mean()) / y.std()).astype(np.float32)
    schedule = optax.cosine_decay_schedule(1.0, _STEPS)
    how: dict[str, Any] = {
        "guide": MeanField(noise="local"),
        "optimizer": optax.adam(lambda step: 0.01 * schedule(step)),
    }
    if method == "ivon":
        how = {"algorithm": IVON(schedule=schedule)}
    posterior = vijax.fit(
        model,
        inputs[train],
        outcomes[train],
        num_steps=_STEPS,
        batch_size=_BATCH if len(train) > 2 * _BATCH else None,
        progress_bar=False,
        rng_key=number,
        **how,
    )
    density = posterior.log_predictive_density(inputs[test], y=outcomes[test], num_draws=200)
    return float(np.log(y.std()) - density["y"].mean())


SECTIONS = {"variance": variance, "steps": steps, "uci": uci}

if __name__ == "__main__":
    main()
