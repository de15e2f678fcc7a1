"""Autoencoders of binarized digits with equal passes: the bound of test images.

The figures of Burda, Grosse and Salakhutdinov (2016) on the fixed binarization, for one layer:
88.71 nats with the ELBO, 87.63 and 87.10 with k = 5 and 50, after 3,280 passes over the data (with
pixels resampled in every pass, which regularizes: 86.76, 85.54, 84.78).
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import optax

import vijax
from bench.generation.images import BATCH, Digits, autoencoder, binarized, encoder
from vijax.guides import Amortized
from vijax.objectives import IWAE

_STEPS, _RATE, _DRAWS = 5000, 2e-3, 500


def autoencoders(options: argparse.Namespace) -> list[dict[str, Any]]:
    digits = binarized(options.folder, options.images)
    guide = Amortized(encoder, "x")
    kinds: dict[str, dict[str, Any]] = {
        "VAE": {"guide": guide},
        "IWAE, k = 5": {"guide": guide, "objective": IWAE(5)},
        "IWAE, k = 50": {"guide": guide, "objective": IWAE(50)},
    }
    steps = round(_STEPS * options.length)
    rows = []
    for name, kind in kinds.items():
        rows.append({"model": name} | _measured(digits, steps, kind))
        print(rows[-1], flush=True)
    return rows


def _measured(digits: Digits, steps: int, kind: dict[str, Any]) -> dict[str, Any]:
    posterior = vijax.fit(
        autoencoder,
        digits.train,
        optimizer=optax.adam(optax.cosine_decay_schedule(_RATE, steps)),
        batch_size=BATCH,
        num_steps=steps,
        progress_bar=False,
        **kind,
    )
    found = posterior.log_evidence_rows(digits.test, num_draws=_DRAWS)
    error = found.values.std() / math.sqrt(len(digits.test))
    bound = posterior.log_evidence_rows(digits.test, num_draws=1).mean
    return {
        "negative log likelihood": f"{-found.mean:.2f} +- {error:.2f}",
        "negative bound": f"{-bound:.2f}",
        "passes": f"{steps * BATCH / len(digits.train):.1f}",
        "seconds": f"{posterior.seconds:.0f}",
    }
