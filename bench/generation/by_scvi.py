"""scVI on counts: seconds of an epoch, and the bound of cells that were held out.

    python by_scvi.py DATA.npz EPOCHS

The data are dense integer `train` and `test`, `(cells, genes)`. The last line printed is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import anndata
import numpy as np
import scipy.sparse
import scvi
import torch

BATCH, LATENT, HIDDEN = 128, 10, 128
DRAWS = 20


def main() -> None:
    arrays, epochs = np.load(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    scvi.settings.seed = 0
    model = scvi.model.SCVI(
        prepared(arrays["train"]),
        n_hidden=HIDDEN,
        n_latent=LATENT,
        n_layers=1,
        dropout_rate=0.1,
        gene_likelihood="zinb",
    )
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "train_size": 1.0,
        "batch_size": BATCH,
        "enable_progress_bar": False,
        "plan_kwargs": {"lr": 1e-3, "n_epochs_kl_warmup": None, "n_steps_kl_warmup": 1},
    }
    model.train(max_epochs=1, **options)  # starts workers
    started, worked = time.perf_counter(), time.process_time()
    model.train(max_epochs=epochs - 1, **options)
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    test = prepared(arrays["test"])
    elbo = np.mean([float(model.get_elbo(test)) for _ in range(DRAWS)])
    found = {
        "bound": -abs(elbo),  # get_elbo has had both signs
        "seconds": seconds / (epochs - 1),
        "processor": processor / (epochs - 1),
        "version": scvi.__version__,
    }
    print(json.dumps(found))


def prepared(counts: np.ndarray) -> anndata.AnnData:
    data = anndata.AnnData(scipy.sparse.csr_matrix(counts.astype(np.float32)))
    scvi.model.SCVI.setup_anndata(data)
    return data


if __name__ == "__main__":
    main()
