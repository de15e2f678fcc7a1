"""Runs Poisson factorization in hpfrec: `python by_hpfrec.py DATA.npz RANK SWEEPS SEED`.

A script of its own, which imports nothing of the benchmarks: it may run in another environment.
DATA.npz has the counts as `user`, `item` and `count`, numbered without gaps. `factors.npz`, beside
it, receives the expected factors. The last line is JSON: seconds, sweeps and the version.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from hpfrec import HPF


def run(path, rank, sweeps, seed):
    data = np.load(path)
    counts = pd.DataFrame({"UserId": data["user"], "ItemId": data["item"], "Count": data["count"]})
    options = {"reindex": False, "produce_dicts": False, "keep_all_objs": False, "verbose": False}
    model = HPF(rank, maxiter=sweeps, random_seed=seed, **options)
    started = time.perf_counter()
    model.fit(counts)
    seconds = time.perf_counter() - started
    np.savez(Path(path).with_name("factors.npz"), theta=model.Theta, beta=model.Beta)
    return {"seconds": seconds, "sweeps": sweeps, "version": metadata.version("hpfrec")}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], *map(int, sys.argv[2:]))))
