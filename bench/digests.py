"""Digests of twelve fits of different kinds: are two versions of the library the same bit for bit?

Write them with one checkout, compare with another, on the same machine and versions of JAX:

    python -m bench digests before.json              # in the first
    python -m bench digests after.json before.json   # in the second: exit status 1 if any differs
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.contrib.control_flow import scan

import vijax
from bench import _problems
from vijax import objectives

_RNG = np.random.default_rng(0)
_X = _RNG.normal(size=(300, 4)).astype(np.float32)
_Y = (_RNG.random(300) < 1 / (1 + np.exp(-_X @ [1.0, -1.0, 0.5, 0.0]))).astype(np.int32)
_GROUP = _RNG.integers(0, 40, 2000)
_SLOPE = _RNG.normal(size=2000).astype(np.float32)
_OUT = (0.5 * _SLOPE + _RNG.normal(size=40)[_GROUP] + _RNG.normal(size=2000)).astype(np.float32)
_TWO = np.concatenate([_RNG.normal(-2, 1, 60), _RNG.normal(2, 1, 80)]).astype(np.float32)
_WALK = (np.cumsum(0.3 * _RNG.normal(size=40)) + _RNG.normal(size=40)).astype(np.float32)
_COUNTS = _RNG.poisson(3, size=30)


def logistic(x, y=None):
    w = numpyro.sample("w", dist.Normal(0, 2).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def intercepts(group, x, y=None, num_groups=40):
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("groups", num_groups):
        level = numpyro.sample("level", dist.Normal(0.0, sd))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(level[group] + slope * x, noise), obs=y)


def mixture(x):
    share = numpyro.sample("share", dist.Beta(2, 2))
    mean = numpyro.sample("mean", dist.Normal(jnp.array([-1.0, 1.0]), 1.0).to_event(1))
    with numpyro.plate("rows", len(x)):
        label = numpyro.sample("label", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(mean[label], 1.0), obs=x)


def walk(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(x, seen):
        x = numpyro.sample("x", dist.Normal(x, scale))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=seen)
        return x, None

    scan(step, 0.0, y, length=len(y))


def banana():
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x**2, 0.3))


def hidden_counts(seen):
    rate = numpyro.sample("rate", dist.Gamma(2, 1))
    share = numpyro.sample("share", dist.Beta(2, 2))
    with numpyro.plate("rows", len(seen)):
        total = numpyro.sample("total", dist.Poisson(4 * rate))
        numpyro.sample("seen", dist.Binomial(total, share), obs=seen)


def bits(y):
    with numpyro.plate("bits", 12):
        on = numpyro.sample("on", dist.Bernoulli(0.3))
    numpyro.sample("y", dist.Normal(on.sum() + 0.1 * on.sum() ** 2, 1.0), obs=y)


def local(x):
    loading = numpyro.sample("loading", dist.Normal(0, 1).expand([4]).to_event(1))
    with numpyro.plate("rows", 300):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("x", dist.Normal(z[..., None] * loading, 1.0).to_event(1), obs=x)


def schools() -> list[Any]:
    model, data, _ = _problems.eight_schools()
    posterior = vijax.fit(model, *data, progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:
        posterior.save(f"{folder}/fit")
        loaded = vijax.load(f"{folder}/fit", model)
    figures = (
        posterior.log_evidence(),
        posterior.covariance(),
        posterior.log_likelihood(200, rng_key=2),
    )
    rows = posterior.summary().to_numpy().tolist()
    return [_of(posterior), figures, rows, sorted(loaded.sample(300, rng_key=7).items())]


def steps() -> list[Any]:
    options = {"guide": "meanfield", "optimizer": optax.adam(1e-2), "num_restarts": 2}
    posterior = vijax.fit(logistic, _X, _Y, num_steps=300, progress_bar=False, **options)
    return [_of(posterior), _of(posterior.resume(200, progress_bar=False))]


def discrete() -> list[Any]:
    def fit(name):
        objective = objectives.ELBO(discrete=name)
        return vijax.fit(bits, 5.0, objective=objective, num_steps=100, progress_bar=False)

    return [_of(fit(name)) for name in ("rebar", "disarm", "local")]


def _fit(*args: Any, **options: Any) -> list[Any]:
    return _of(vijax.fit(*args, progress_bar=False, **options))


_MARKOV = {"x": "markov", ...: "fullrank"}
KINDS = {
    "automatic, corrected by chains, saved and loaded": schools,
    "gradient steps, restarts, resumed": steps,
    "automatic on minibatches": lambda: _fit(intercepts, _GROUP, _SLOPE, _OUT, batch_size=100),
    "marginalized mixture": lambda: _fit(mixture, _TWO),
    "Markov guide": lambda: _fit(walk, _WALK, guide=_MARKOV),
    "flow": lambda: _fit(banana, guide="flow"),
    "counts in the guide": lambda: _fit(hidden_counts, _COUNTS, num_steps=200),
    "gradients of discrete sites": discrete,
    "local latents on minibatches": lambda: _fit(local, _X, batch_size=50, num_steps=300),
    "along plates": lambda: _fit(intercepts, _GROUP, _SLOPE, _OUT, guide="plates"),
    "Laplace": lambda: _fit(logistic, _X, _Y, guide="laplace"),
    "importance-weighted bound": lambda: _fit(
        logistic, _X, _Y, guide="meanfield", objective=objectives.IWAE(8), num_steps=300
    ),
}


def _of(posterior: vijax.Posterior) -> list[Any]:
    """Figures, losses, parameters and draws of a fit."""
    figures = [posterior.elbo, posterior.elbo_se, posterior.khat, posterior.num_steps]
    draws = sorted(posterior.sample(rng_key=7, num_draws=300).items())
    return [posterior.status, figures, posterior.losses, posterior.params, draws]


def digest(tree: Any) -> str:
    """A hash of every bit of a tree of arrays, numbers and text."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        found.update(f"{array.shape} {array.dtype.str}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m bench digests AFTER.json [BEFORE.json]")
    path, before = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None
    found = {name: digest(kind()) for name, kind in KINDS.items()}
    Path(path).write_text(json.dumps(found, indent=1))
    known = found if before is None else json.loads(Path(before).read_text())
    for name, value in found.items():
        print(f"{value}  {'' if known.get(name) == value else 'DIFFERS  '}{name}")
    sys.exit(int(known != found))


if __name__ == "__main__":
    main()
