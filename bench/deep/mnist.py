"""LeNet-5 on MNIST: test scores, and how well images of other characters are noticed."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import optax
from sklearn.metrics import roc_auc_score

import vijax
from bench.deep.data import Images, mnist, omniglot
from bench.deep.models import lenet
from vijax.algorithms import IVON
from vijax.guides import Ensemble

_BATCH, _DRAWS, _OTHERS = 100, 30, 2000  # of weights; of Omniglot
_STEPS = {"point estimate": 4800, "ivon": 7200, "ensemble of 5": 1500}


def digits(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Scores of test images by method, and AUROC of Omniglot against MNIST.

    `--length` multiplies the steps.
    """
    images, others = mnist(options.folder), omniglot(options.folder, _OTHERS)
    rows = []
    for name, steps in _STEPS.items():
        steps = round(steps * options.length)
        decay = optax.cosine_decay_schedule(1.0, steps)
        adam = optax.adam(lambda step, decay=decay: 2e-3 * decay(step))
        how: dict[str, dict[str, Any]] = {
            "point estimate": {"guide": "map", "optimizer": adam},
            "ivon": {"algorithm": IVON(rate=0.1, decay=1 - 5 / steps, schedule=decay)},
            "ensemble of 5": {"guide": Ensemble(5), "optimizer": adam},
        }
        start, clock = time.perf_counter(), time.process_time()
        posterior = vijax.fit(
            lenet, images.x, images.y, batch_size=_BATCH, num_steps=steps, progress_bar=False,
            **how[name],
        )  # fmt: skip
        seconds = time.perf_counter() - start, time.process_time() - clock
        row: dict[str, Any] = {"method": name, "passes": f"{steps * _BATCH / len(images.x):.0f}"}
        row |= _scores(posterior, images, others, 1 if name == "point estimate" else _DRAWS)
        rows.append(row | {"seconds": f"{seconds[0]:.0f}", "processor s": f"{seconds[1]:.0f}"})
        print(rows[-1], flush=True)
    return rows


def _scores(
    posterior: vijax.Posterior, images: Images, others: np.ndarray, draws: int
) -> dict[str, Any]:
    score = posterior.score(images.x_test, y=images.y_test, num_draws=draws)
    known = posterior.uncertainty(images.x_test, num_draws=draws)
    unknown = posterior.uncertainty(others, num_draws=draws)
    truth = np.repeat([0, 1], [len(images.x_test), len(others)])
    area = {
        part: roc_auc_score(truth, np.concatenate([getattr(known, part), getattr(unknown, part)]))
        for part in ("total", "epistemic")
    }
    found = {name: (one["value"], one["se"]) for name, one in score.iterrows()}
    return {
        "NLL": f"{-found['log score'][0]:.4f} +- {found['log score'][1]:.4f}",
        "accuracy": f"{found['accuracy'][0]:.4f}",
        "ECE": "{:.4f} +- {:.4f}".format(*found["calibration error"]),
        "AUROC, entropy": f"{area['total']:.4f}",
        "AUROC, epistemic part": f"{area['epistemic']:.4f}",
    }
