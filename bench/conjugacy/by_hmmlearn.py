"""Runs a variational HMM in hmmlearn: `python by_hmmlearn.py DATA.npz SWEEPS REPEATS`.

A script of its own, which imports nothing of the benchmarks: it may run in another environment.
DATA.npz has symbols `y`, `(series, steps)`, and the concentrations of the start. The last line is
JSON: the bound after each sweep, milliseconds per sweep of each repeat, and the version.
"""

import json
import sys
import time
from importlib import metadata

import numpy as np
from hmmlearn.vhmm import VariationalCategoricalHMM


def model(data, sweeps):
    states, symbols = data["emit"].shape
    found = VariationalCategoricalHMM(
        states,
        n_features=symbols,
        n_iter=sweeps,
        tol=-np.inf,
        init_params="",
        implementation="scaling",  # the faster one
    )
    found.startprob_prior_ = np.full(states, 1 / states)
    found.transmat_prior_ = np.full((states, states), 1 / states)
    found.emissionprob_prior_ = np.full((states, symbols), 1 / symbols)
    found.startprob_posterior_ = data["start"].astype(float)
    found.transmat_posterior_ = data["trans"].astype(float)
    found.emissionprob_posterior_ = data["emit"].astype(float)
    return found


def run(path, sweeps, repeats):
    data = dict(np.load(path))
    series, steps = data["y"].shape
    arguments = data["y"].reshape(-1, 1), [steps] * series
    fitted = model(data, sweeps + 1).fit(*arguments)

    def seconds(count):
        started = time.perf_counter()
        model(data, count).fit(*arguments)
        return time.perf_counter() - started

    found = {"elbo": list(map(float, fitted.monitor_.history))[1:]}
    each = [(seconds(sweeps) - seconds(1)) / (sweeps - 1) for _ in range(repeats)]
    found["sweep"] = [1e3 * one for one in each]
    return found | {"version": metadata.version("hmmlearn")}


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], *map(int, sys.argv[2:]))))
