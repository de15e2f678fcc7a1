"""The amortization gap on binarized digits: the bound of test images as rows are refined.

Encoders (amortized), some gradient steps of each image's own ELBO from their output
(semi-amortized, Kim, Wiseman, Miller, Sontag and Rush, 2018), and the optimum of each image, by a
mean-field fit with the decoder fixed (Cremer, Li and Duvenaud, 2018). Gains are paired by image. A
second autoencoder is trained so, the decoder at refined rows, the encoder by its own bound, in as
much time.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.lax import stop_gradient

import vijax
from bench import _report
from bench.generation.images import BATCH, Digits, autoencoder, binarized, encoder
from vijax.contracts import LossContext, Part, PyTree, Variables
from vijax.guides import Amortized, MeanField
from vijax.objectives import ELBO
from vijax.posterior.local_rows import LocalParts, row_log_q, row_terms
from vijax.posterior.refinement import Block, natural_steps

_STEPS, _TRAINED_STEPS, _RATE, _DRAWS = 3000, 1000, 2e-3, 64


@dataclasses.dataclass(frozen=True)
class SemiAmortized:
    """The ELBO at rows refined by a few steps for the decoder, at encodings for the encoder."""

    num_steps: int

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[jax.Array, dict[str, PyTree]]:
        fixed = variables._replace(model=stop_gradient(variables.model))
        guide, space = context.guide, context.target.space
        assert isinstance(guide, Amortized)
        part = Part(MeanField(), guide.row_params(variables.guide, space, context.batch), space)
        block = Block(context.target, "images", fixed, context.mutable, context.batch)
        key = jax.random.fold_in(context.key, 9)
        (end,) = stop_gradient(natural_steps(LocalParts((part,), ()), block, key, self.num_steps))
        at_rows = context._replace(guide=MeanField())
        loss, mutable = ELBO()(Variables(end, variables.model), at_rows)
        own, _ = ELBO()(fixed, context)
        return loss + own - stop_gradient(own), mutable


def amortization(options: argparse.Namespace) -> list[dict[str, Any]]:
    digits = binarized(options.folder, options.images)
    kinds = {
        "amortized": (ELBO(), round(_STEPS * options.length)),
        "trained by 4 steps a row": (SemiAmortized(4), round(_TRAINED_STEPS * options.length)),
    }
    rows = []
    for name, (objective, steps) in kinds.items():
        posterior, seconds = _fitted(digits, objective, steps)
        before = None
        for how, bounds in _bounds(posterior, digits.test, optimum=name == "amortized"):
            gain = "" if before is None else _report.mean_with_error(bounds - before)
            row = {"training": name, "steps": steps, "seconds": f"{seconds:.0f}", "rows": how}
            rows.append(
                row | {"bound": _report.mean_with_error(bounds), "over the row above": gain}
            )
            print(rows[-1], flush=True)
            before = bounds
    return rows


def _fitted(digits: Digits, objective: Any, steps: int) -> tuple[vijax.Posterior, float]:
    start = time.process_time()
    posterior = vijax.fit(
        autoencoder,
        digits.train,
        guide=Amortized(encoder, "x"),
        objective=objective,
        optimizer=optax.adam(optax.cosine_decay_schedule(_RATE, steps)),
        batch_size=BATCH,
        num_steps=steps,
        progress_bar=False,
    )
    return posterior, time.process_time() - start


def _bounds(
    posterior: vijax.Posterior, x: np.ndarray, optimum: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """The bound of each row with its encoding, after some steps, and at the row's optimum."""
    for steps in (None, 4, 20, 100):
        found = posterior.log_evidence_rows(x, num_draws=_DRAWS, refine_steps=steps)
        yield f"{steps} steps" if steps else "encoder", found.bounds
    if optimum:
        yield "optimum", _optimal_bounds(posterior, x, 1000)


def _optimal_bounds(posterior: vijax.Posterior, x: np.ndarray, steps: int) -> np.ndarray:
    """The bound of each row with its own normal distribution, the decoder fixed."""
    adam = optax.adam(optax.cosine_decay_schedule(0.03, steps))
    best = vijax.fit(
        autoencoder,
        x,
        guide="meanfield",
        init=posterior,
        objective=ELBO(4),
        optimizer=optax.multi_transform(
            {"rows": adam, "decoder": optax.set_to_zero()}, Variables("rows", "decoder")
        ),
        num_steps=steps,
        progress_bar=False,
    )._result

    def bounds(variables: Variables, key: jax.Array) -> jax.Array:
        target, batch = best.target, best.batch
        z = best.guide.draw(variables.guide, target.space, key, batch).z
        values = target.terms(z, batch, variables.model, best.mutable).values
        log_p = row_terms(values, target.term_info(batch), "images", 1.0)
        return log_p - row_log_q(
            Part(best.guide, variables.guide, target.space), z, "images", batch
        )

    keys = jax.random.split(jax.random.key(0), _DRAWS)
    found = jax.jit(lambda variables: jax.lax.map(lambda k: bounds(variables, k), keys))
    return np.asarray(jnp.mean(found(best.variables), axis=0))
